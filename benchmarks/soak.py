"""Kill workers, nodes and drivers of one sweep at random until it is through, and count the damage.

    python benchmarks/soak.py [--config tune_configs/quickstart.yaml] [--faults 20] [--seed N]

A cluster of several nodes on this machine; the same ``sparseae run`` is started again whenever its
driver was killed. Then the results are compared with a run without faults: rows lost, doubled,
different. Exit status 0 where all three are 0.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.faults.processes import Nodes, kill

TIMING = ["epoch_seconds", "device"]


class Soak:
    """One sweep under fire."""

    def __init__(self, command: list[str], chance: random.Random, faults: int, pause: float):
        self._command = command
        self._chance = chance
        self._faults = faults
        self._pause = pause
        self._nodes = Nodes()
        self.injected: Counter[str] = Counter()
        self.runs = 0

    def through(self) -> bool:
        """Run the command again and again until a run ends by itself; whether all went well."""
        while True:
            self.runs += 1
            command = [*self._command, "--address", self._nodes.cluster.address]
            driver = subprocess.Popen(command)
            if (status := self._until_killed(driver)) is not None:
                self._nodes.cluster.shutdown()
                return status == 0

    def _until_killed(self, driver: subprocess.Popen) -> int | None:
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
        kind = self._chance.choices(["worker", "node", "driver"], [5, 3, 2])[0]
        self._nodes.grow(2)
        if not self._nodes.training():
            return False
        if kind == "worker":
            self._nodes.kill_worker(self._chance)
        elif kind == "node":
            self._nodes.lose(self._chance)
        else:
            kill(driver.pid)
        self.injected[kind] += 1
        print(f"fault {sum(self.injected.values())}: a {kind}", flush=True)
        return kind == "driver"


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
    parser.add_argument("--faults", type=int, default=20)
    parser.add_argument("--pause", type=float, default=8.0, help="seconds between faults, about")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    asked = parser.parse_args()
    print(f"seed {asked.seed}", flush=True)
    # Both runs compute with one routine; which is the fastest is measured, and may differ.
    os.environ.setdefault("SPARSEAE_GEMM", "torch")
    os.environ.setdefault("RAY_worker_niceness", "0")
    import sparseae

    changes = ["max_failures=100", "checkpoint_every=2", *asked.changes]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "sparseae", "run", asked.config, "--results", folder]
        command += [word for change in changes for word in ("--set", change)]
        soak = Soak(command, random.Random(asked.seed), asked.faults, asked.pause)
        started = time.monotonic()
        sound = soak.through()
        seconds = time.monotonic() - started
        (place,) = Path(folder).glob("*/sweep.yaml")
        found = sparseae.load(place.parent)
        plain = sparseae.run(
            asked.config, results=Path(folder) / "plain", set_values=changes, in_process=True
        )
        figures = compare(found, plain.frame)
    print(f"{sum(soak.injected.values())} faults {dict(soak.injected)}, {soak.runs} runs, "
          f"{seconds:.0f} s: {figures}")  # fmt: skip
    return 0 if sound and not (figures["lost"] or figures["doubled"] or figures["different"]) else 1


if __name__ == "__main__":
    sys.exit(main())
