"""Memory and time of a sweep's results that nobody has trained: made up, a million trials.

    python benchmarks/scale.py [--trials 1000000] [--epochs 50] [--tune-trials 10000] [--folder DIR]

Writes DIR/made-up once (random measurements, 600 curves), then measures, each in a process of its
own: opening the store (what a resume does first), the closing table, `sparseae analyze`. And in
DIR/resumed a run of two new trials beside so many finished Tune trials: how many of their
checkpoints it opens.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from sparseae.model.trial import DEFAULTS, TRAINING_TYPES
from sparseae.results.location import Location
from sparseae.results.parquet import write_table
from sparseae.results.schema import epoch_schema

ROOT = Path(__file__).resolve().parents[1]

#: Rows of a part: a long run writes each 2 % of its time.
_PART = 250_000


def make(place: Path, trials: int, epochs: int) -> None:
    """Write the rows of a finished sweep: parts of many trials' epochs, as they come."""
    random = np.random.default_rng(0)
    schema = epoch_schema(dict(TRAINING_TYPES))
    number = np.arange(trials)
    names = np.array([f"{n:016x}" for n in number])
    models = np.array(["ae", "dae", "cae", "mdae", "sae"])[number % 5]
    activations = np.array(["relu", "softplus", "sigmoid", "tanh"])[number // 5 % 4]
    sigma2 = np.array([0, 0.001, 0.01, 0.04, 0.09, 0.16, 0.25, 0.36, 0.49, 0.64, 0.81, 1.0])
    at_once = max(1, _PART // (epochs + 1))
    for part, begin in enumerate(range(0, trials, at_once)):
        chosen = number[begin : begin + at_once]
        rows = np.repeat(chosen, epochs + 1)
        columns: dict[str, object] = {
            "sweep": np.full(rows.size, "made-up"),
            "trial_id": names[rows],
            "model": models[rows],
            "activation": activations[rows],
            "sigma2": sigma2[rows // 20 % 12],
            "constraint": np.array(["unit_norm", "none"])[rows // 240 % 2],
            "dataset": np.array(["mnist", "cifar10", "digits"])[rows // 480 % 3],
            "seed": rows // 1440,
            "epoch": np.tile(np.arange(epochs + 1), chosen.size),
            "status": np.full(rows.size, "ok"),
            "dead_units": random.integers(0, 9, rows.size),
            "samples": np.full(rows.size, 50_000),
            "device": np.full(rows.size, "cpu"),
        }
        for field in schema:
            if field.name in columns:
                continue
            if field.name in DEFAULTS:
                value = epochs if field.name == "epochs" else DEFAULTS[field.name]
                columns[field.name] = np.full(rows.size, value)
            elif pa.types.is_floating(field.type):
                columns[field.name] = random.random(rows.size)
        file = Location.of(place) / "epochs" / f"part-{part:05d}.parquet"
        write_table(file, pa.table(columns).select(schema.names).cast(schema))


def finish(place: Path, tune_trials: int) -> None:
    """Leave what a sweep of so many Tune trials leaves when it has ended: two of them are real."""
    import sparseae
    from sparseae.results.reader import load_units
    from sparseae.results.store import Store
    from sparseae.sweep.checkpoints import Checkpoints
    from sparseae.sweep.config import Sweep
    from sparseae.sweep.piece import STATE_FILE, Checkpoint

    sparseae.run(RESUMED, results=place.parent, in_process=True)
    seeds = list(range(tune_trials // 2))
    sweep = Sweep.load(RESUMED | {"space": RESUMED["space"] | {"seed": seeds}})
    location = Location.of(place)
    (state, *_) = (place / "checkpoints").rglob(STATE_FILE)
    units = pa.Table.from_pandas(load_units(place).iloc[:8], preserve_index=False)
    at = units.column_names.index("trial_id")
    store = Store(location, dict(TRAINING_TYPES), {})
    checkpoints = Checkpoints(location, sweep, print)
    for trial in (trial for trial in sweep.trials() if trial.seed):
        about = {"sweep": sweep.name, "trial_id": trial.trial_id, "status": "ok"}
        own = pa.array([trial.trial_id] * units.num_rows)
        store.add(
            [trial.values() | about | {"epoch": epoch} for epoch in (0, 1)],
            units.set_column(at, "trial_id", own),
        )
        folder = location / "checkpoints" / trial.trial_id / "checkpoint_000001"
        (folder / STATE_FILE).write_bytes(state.read_bytes())
        checkpoints.saved(Checkpoint(folder, 1, (trial.trial_id,)))
    store.flush()
    checkpoints.close()


def measured(what: str, program: str, place: Path) -> None:
    """Run a program and say what it took."""
    started = time.monotonic()
    child = subprocess.run([sys.executable, "-c", program, str(place)], cwd=ROOT, check=False)
    seconds = time.monotonic() - started
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024**2
    print(f"{what}: {seconds:.0f} s, {peak:.2f} GB at its peak so far, exit {child.returncode}")


RESUMED = {
    "name": "resumed",
    "space": {"model": ["ae"], "activation": ["relu"], "sigma2": [0, 0.25], "dataset": ["digits"],
              "seed": [0]},
    "stack": [],
    "training": {"epochs": 1, "hidden_units": 8, "samples": 50},
}  # fmt: skip

#: Two trials of a seed more than there are.
RESUME = """
import sys
from pathlib import Path
import sparseae
from benchmarks.scale import RESUMED
from sparseae.sweep.piece import Checkpoint
place, opened, read = Path(sys.argv[1]), [], Checkpoint.read
Checkpoint.read = classmethod(lambda cls, at: opened.append(at) or read(at))
seeds = list(range(len(list((place / 'checkpoints').iterdir())) // 2 + 1))
done = sparseae.run(RESUMED | {'space': RESUMED['space'] | {'seed': seeds}},
                    results=place.parent, in_process=True)
print(f'{done.trials:,} trials, {done.trained} trained, {len(opened)} checkpoints opened')
"""

PROGRAMS = {
    "closing table": """
import sys
from pathlib import Path
from sparseae.cli.run import _print_final
from sparseae.sweep.runner import Results
_print_final(Results(Path(sys.argv[1]), 0, 0, 0, {}).last)
""",
    "opening the store": """
import sys
from sparseae.model.trial import TRAINING_TYPES
from sparseae.results.location import Location
from sparseae.results.store import Store
store = Store(Location.of(sys.argv[1]), dict(TRAINING_TYPES), {})
print(store.is_complete('0' * 16, 50))
""",
    "analyze": """
import sys
from sparseae.__main__ import main
sys.argv = ['sparseae', 'analyze', sys.argv[1]]
main()
""",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1_000_000)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--tune-trials", type=int, default=10_000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        place = (asked.folder or Path(scratch)) / "made-up"
        if not place.exists():
            started = time.monotonic()
            make(place, asked.trials, asked.epochs)
            size = sum(file.stat().st_size for file in place.rglob("*.parquet"))
            print(f"written in {time.monotonic() - started:.0f} s: {size / 1e9:.1f} GB", flush=True)
        for what, program in PROGRAMS.items():
            measured(what, program, place)
        finish(place.with_name("resumed"), asked.tune_trials)
        measured("resuming", RESUME, place.with_name("resumed"))


if __name__ == "__main__":
    main()
