"""Break everything around one sweep at random until it is through, and count the damage.

    python benchmarks/soak.py [--config tune_configs/quickstart.yaml] [--faults 60] [--seed N]

A cluster of several nodes on this machine, results on a disk of their own. Faults: a worker or the
driver is killed, a node is lost, a worker is stopped (SIGSTOP) and never goes on, a node joins on
which everything fails, the disk answers late (it is frozen for seconds), the disk is full until the
run has stopped for it. ``sparseae run`` is started again where its driver was killed or the disk
was full; everything else it has to survive by itself, with ``max_failures`` at its default. Then
the results are compared with a run without faults: rows lost, doubled, different. Exit status 0
where all three are 0. Needs root and loop devices for its disk.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.faults.processes import Nodes, kill

#: How often each fault is drawn.
KINDS = {
    "killed worker": 8, "lost node": 4, "killed driver": 3, "stopped worker": 3, "bad node": 3,
    "late disk": 4, "full disk": 2,
}  # fmt: skip

#: Seconds for which the disk answers nothing, and after which a full one is freed in any case.
LATE, FULL = (2.0, 12.0), 30.0

TIMING = ["epoch_seconds", "device"]


@contextmanager
def disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A disk of its own, that can be frozen and filled."""
    image, place = folder / "disk.img", folder / "disk"
    place.mkdir()
    with image.open("wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, megabytes << 20)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["fsfreeze", "--unfreeze", str(place)], capture_output=True, check=False)
        subprocess.run(["umount", "--lazy", str(place)], check=True)


class Soak:
    """One sweep under fire."""

    def __init__(
        self, command: list[str], disk: Path, chance: random.Random, faults: int, pause: float
    ) -> None:
        self._command = command
        self._disk = disk
        self._chance = chance
        self._faults = faults
        self._pause = pause
        self._nodes = Nodes()
        self._broken = disk.parent / "broken"  # a torch that does not load
        (self._broken / "torch").mkdir(parents=True)
        why = "libtorch_cpu.so: cannot open shared object file (as the soak has it)"
        (self._broken / "torch" / "__init__.py").write_text(f"raise ImportError({why!r})\n")
        self.injected: Counter[str] = Counter()
        self._ballast = disk / "ballast"
        self._was_full = False
        self._bad: list = []  # the node on which everything fails
        self.runs = 0

    def through(self) -> bool:
        """Run the command again and again until a run ends by itself; whether all went well."""
        while True:
            self.runs, self._was_full = self.runs + 1, False
            command = [*self._command, "--address", self._nodes.cluster.address]
            driver = subprocess.Popen(command)
            status = self._until_it_ends(driver)
            self._ballast.unlink(missing_ok=True)
            if status is not None and not (self._was_full and status):
                self._nodes.cluster.shutdown()
                return status == 0

    def _until_it_ends(self, driver: subprocess.Popen) -> int | None:
        """Strike at random moments; the driver's exit status, None where it was killed."""
        while True:
            strike = time.monotonic() + self._chance.uniform(0.3, 1.7) * self._pause
            while time.monotonic() < strike:
                if (status := driver.poll()) is not None:
                    return status
                time.sleep(0.1)
            if sum(self.injected.values()) >= self._faults:
                continue
            if self._strike(driver):
                driver.wait()
                return None

    def _strike(self, driver: subprocess.Popen) -> bool:
        """One fault, where there is something to hit; whether it was the driver."""
        nodes = self._nodes.cluster.worker_nodes
        self._bad = [node for node in self._bad if node in nodes]
        self._nodes.grow(2 + len(self._bad))
        if not self._nodes.training():
            return False
        kind = self._chance.choices(list(KINDS), list(KINDS.values()))[0]
        self.injected[kind] += 1
        print(f"fault {sum(self.injected.values())}: a {kind}", flush=True)
        match kind:
            case "killed worker":
                self._nodes.kill_worker(self._chance)
            case "stopped worker":
                if found := sorted(self._nodes.training()):
                    os.kill(self._chance.choice(found), signal.SIGSTOP)
            case "lost node":
                self._nodes.lose(self._chance)
            case "bad node":
                # It stays until a node is lost; `grow` counts it, as an operator's monitor would.
                self._nodes.cluster.add_node(num_cpus=1, env_vars={"PYTHONPATH": str(self._broken)})
            case "late disk":
                self._late()
            case "full disk":
                self._fill(driver)
            case "killed driver":
                kill(driver.pid)
        return kind == "killed driver"

    def _late(self) -> None:
        freeze = ["fsfreeze", "--freeze", str(self._disk)]
        subprocess.run(freeze, check=True)
        time.sleep(self._chance.uniform(*LATE))
        subprocess.run(["fsfreeze", "--unfreeze", str(self._disk)], check=True)

    def _fill(self, driver: subprocess.Popen) -> None:
        self._was_full = True
        with self._ballast.open("wb", buffering=0) as stream:
            for size in (1 << 20, 4096):  # to the last block
                with suppress(OSError):
                    while stream.write(bytes(size)):
                        pass
        until = time.monotonic() + FULL
        while driver.poll() is None and time.monotonic() < until:
            time.sleep(0.1)
        if driver.poll() is None:
            self._ballast.unlink()


def compare(found: pd.DataFrame, expected: pd.DataFrame) -> dict[str, int]:
    """Rows lost, doubled and different, by (trial_id, epoch)."""
    key = ["trial_id", "epoch"]
    once = found.drop_duplicates(key).drop(columns=TIMING)
    both = expected.drop(columns=TIMING).merge(once, on=key, how="outer", indicator=True)
    same = both[both["_merge"] == "both"]
    different = pd.Series(False, index=same.index)
    for name in once.columns.difference(key):
        one, other = same[f"{name}_x"], same[f"{name}_y"]
        different |= (one != other) & ~(one.isna() & other.isna())
    return {
        "rows": len(expected),
        "lost": int((both["_merge"] == "left_only").sum()),
        "doubled": len(found) - len(once),
        "different": int(different.sum()) + int((both["_merge"] == "right_only").sum()),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="tune_configs/quickstart.yaml")
    parser.add_argument("--set", action="append", default=[], dest="changes")
    parser.add_argument("--faults", type=int, default=60)
    parser.add_argument("--pause", type=float, default=8.0, help="seconds between faults, about")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    asked = parser.parse_args()
    print(f"seed {asked.seed}", flush=True)
    # Both runs compute with one routine; which is the fastest is measured, and may differ.
    os.environ.setdefault("SPARSEAE_GEMM", "torch")
    os.environ.setdefault("RAY_worker_niceness", "0")
    import sparseae

    changes = ["checkpoint_every=2", "silent_after=60", *asked.changes]
    with tempfile.TemporaryDirectory() as folder, disk(Path(folder), 512) as place:
        command = [sys.executable, "-m", "sparseae", "run", asked.config, "--results", str(place)]
        command += [word for change in changes for word in ("--set", change)]
        soak = Soak(command, place, random.Random(asked.seed), asked.faults, asked.pause)
        started = time.monotonic()
        sound = soak.through()
        seconds = time.monotonic() - started
        (sweep,) = place.glob("*/sweep.yaml")
        found = sparseae.load(sweep.parent)
        plain = sparseae.run(
            asked.config, results=Path(folder) / "plain", set_values=changes, in_process=True
        )
        figures = compare(found, plain.frame)
    print(f"{sum(soak.injected.values())} faults {dict(soak.injected)}, {soak.runs} runs, "
          f"{seconds:.0f} s: {figures}")  # fmt: skip
    return 0 if sound and not (figures["lost"] or figures["doubled"] or figures["different"]) else 1


if __name__ == "__main__":
    sys.exit(main())
