"""Whole stacks on one GPU: is it right, how fast is it, how much memory does it take?

    python benchmarks/gpu.py                       # on a machine with a GPU: 4 minutes, estimated
    python benchmarks/gpu.py --paper 8             # trains tune_configs/paper.yaml for 8 minutes
    python benchmarks/gpu.py --device cpu --quick  # the same code without a GPU, times say nothing

Needs torch and numpy alone. Real data are read from ``SPARSEAE_DATA_DIR``; without them --paper
trains on noise of the same shape and says so. docs/gpu.md explains the figures.
"""

from __future__ import annotations

import argparse
import csv
import gc
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.peers import LEARNING_RATE, TorchModule
from sparseae import data
from sparseae.engine.choice import ON_CARD
from sparseae.engine.choice_on_card import compared, fastest
from sparseae.engine.footprint import flops, footprint
from sparseae.engine.minibatches import Run
from sparseae.engine.products import TORCH
from sparseae.engine.stack import Stack
from sparseae.errors import RequestError
from sparseae.model import ACTIVATIONS, MODELS
from sparseae.model.trial import Training, Trial

#: The paper's values of sigma2 (section 3); a test holds them and `paper_stacks` to paper.yaml.
SIGMA2 = (0.0, 0.001, 0.01, 0.04, 0.09, 0.16, 0.25, 0.36, 0.49, 0.64, 0.81, 1.0)
INPUTS = {"mnist": 784, "cifar10": 192}

#: Passes over the weights' size that any step makes: three products read W, V and W are read and
#: written once.
PASSES = 7


def paper_stacks() -> list[list[Trial]]:
    """The stacks of tune_configs/paper.yaml, those of figures 1 and 2 first."""
    axes = (
        ("relu", "sigmoid", "softplus"), ("unit_norm", "none"), ("mnist", "cifar10"),
        ("dae", "cae", "mdae", "sae", "edae"),
    )  # fmt: skip
    return [
        members(model, activation, constraint, dataset)
        for activation, constraint, dataset, model in itertools.product(*axes)
        if model != "edae" or (activation == "relu" and constraint == "unit_norm")
    ]


def members(
    model: str, activation: str, constraint: str = "unit_norm", dataset: str = "mnist",
    sigma2: Sequence[float] = SIGMA2, seeds: Sequence[int] = (0,), **training: object,
) -> list[Trial]:  # fmt: skip
    """A stack at the paper's protocol."""
    rate = 0.005 if activation == "sigmoid" else 0.001
    how = Training(**{"learning_rate": rate, **training})  # type: ignore[arg-type]
    return [
        Trial(model=model, activation=activation, constraint=constraint, dataset=dataset,
              sigma2=s2, seed=seed, training=how)
        for s2 in sigma2 for seed in seeds
    ]  # fmt: skip


@dataclass(frozen=True)
class Card:
    """The machine, and the sizes that this run takes."""

    device: torch.device
    quick: bool
    tf32: bool

    @property
    def units(self) -> int:
        return 64 if self.quick else 1000

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def noise(self, samples: int, inputs: int) -> Tensor:
        return torch.randn(samples, inputs, generator=torch.Generator().manual_seed(1))

    def stack(self, trials: Sequence[Trial], x: Tensor, **options: object) -> Stack:
        """A stack whose members step at once, also on a CPU."""
        return Stack(trials, x, self.device, together=len(trials), at_once=True, **options)  # type: ignore[arg-type]

    def seconds(self, work: Callable[[], object], least: float) -> float:
        """Of one call, the mean over ``least`` seconds after a first one."""
        work()
        self.wait()
        calls, start = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - start) < least:
            work()
            calls += 1
            self.wait()
        return elapsed / calls


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under a title, columns aligned."""
    cells = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    print(f"\n{title}")
    for row in cells:
        print("  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip())
    sys.stdout.flush()


# --- is it right? ------------------------------------------------------------------------------


def largest_difference(one: Tensor, other: Tensor) -> float:
    """Relative to the largest entry; NaN where either is not finite."""
    one, other = one.double().cpu(), other.double().cpu()
    return ((one - other).abs().max() / other.abs().max()).item()


def check(card: Card) -> bool:
    """Compare every model x activation with the CPU and with itself; True where all agree."""
    worst: dict[str, float] = dict.fromkeys(
        ("steps against CPU, float64", "measurement against CPU, float64",
         "captured against kernel by kernel", "members alone against the stack",
         "resumed against uninterrupted"), 0.0,
    )  # fmt: skip
    limits = dict(zip(worst, (1e-9, 1e-9, 1e-6, 1e-3, 1e-6), strict=True))
    for model, activation in itertools.product(MODELS, ACTIVATIONS):
        found = dict(zip(worst, _differences(card, model, activation), strict=True))
        for name, value in found.items():
            if not value <= limits[name]:
                print(f"  {model} {activation}: {name} differs by {value:.1e}")
            worst[name] = max(worst[name], value if value == value else float("inf"))
    table(
        f"{len(MODELS) * len(ACTIVATIONS)} models x activations: largest relative difference",
        ("what", "difference", "limit", ""),
        [
            (
                name,
                f"{value:.1e}",
                f"{limits[name]:.0e}",
                "ok" if value <= limits[name] else "WRONG",
            )
            for name, value in worst.items()
        ],
    )
    return all(value <= limits[name] for name, value in worst.items())


def _differences(card: Card, model: str, activation: str) -> Iterator[float]:
    trials = members(
        model, activation, sigma2=(0.0, 0.25, 1.0), seeds=(0, 1), corruptions=2,
        hidden_units=32, batch_size=20, learning_rate=0.002,
    )  # fmt: skip
    x = card.noise(205, 24)  # the last minibatch is short

    # The same noise on both sides: a GPU's streams are others than a CPU's.
    here = Stack(trials, x, dtype=torch.float64)
    there = card.stack(trials, x, dtype=torch.float64)
    stream = torch.Generator().manual_seed(2)
    rows = torch.arange(40).view(1, 2, 20)
    for _ in range(5):
        samples = torch.randn(40, 24, generator=stream, dtype=torch.float64)
        eps = torch.randn(1, 2, 2, 20, 24, generator=stream, dtype=torch.float64)
        for stack in (here, there):
            drawn = eps.to(stack.device) if stack.problem.model.encoder_input.draws else None
            stack.run(Run(samples.to(stack.device), rows.to(stack.device), drawn))
    yield largest_difference(there.W, here.W)
    one, other = there.measure(), here.measure()
    names = ("activation_fraction", "reconstruction_error", "weight_norm_mean", "dead_units")
    yield max(
        largest_difference(getattr(one, name) + 1, getattr(other, name) + 1) for name in names
    )

    captured, eager = card.stack(trials, x), card.stack(trials, x)
    if eager.program is not None:
        eager.program.may_capture = False
    for epoch in (1, 2, 3):
        captured.train_epoch(epoch)
        eager.train_epoch(epoch)
    yield largest_difference(captured.W, eager.W)

    alone = 0.0
    for start, stop in ((0, 1), (1, 4)):
        part = card.stack(trials[start:stop], x)
        for epoch in (1, 2, 3):
            part.train_epoch(epoch)
        alone = max(alone, largest_difference(part.W, captured.W[start:stop]))
    yield alone

    resumed = card.stack(trials, x)
    resumed.load_state_dict({name: t.clone() for name, t in captured.state_dict().items()})
    for stack in (captured, resumed):
        stack.train_epoch(4)
    yield largest_difference(resumed.W, captured.W)


# --- how fast is it? ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Floors:
    """What the card can do: FLOP/s of a large product in float32 (and TF32), bytes/s of a copy."""

    float32: float
    tf32: float
    copy: float

    @classmethod
    def measured(cls, card: Card) -> Floors:
        size = 512 if card.quick else 8192
        a, b, out = (torch.randn(size, size, device=card.device) for _ in range(3))
        matmul, rates = torch.backends.cuda.matmul, []
        before = matmul.fp32_precision
        for precision in ("ieee", "tf32"):
            matmul.fp32_precision = precision
            seconds = card.seconds(lambda: torch.mm(a, b, out=out), 0.05 if card.quick else 1.0)
            rates.append(2 * size**3 / seconds)
        matmul.fp32_precision = before
        source = torch.empty((1 << 22) if card.quick else (1 << 30), device=card.device)
        target = torch.empty_like(source)
        seconds = card.seconds(lambda: target.copy_(source), 0.05 if card.quick else 0.5)
        return cls(*rates, 2 * source.numel() * 4 / seconds)

    def step(self, trials: Sequence[Trial], inputs: int, tf32: bool) -> tuple[float, float]:
        """Seconds of a step's products at the rate, and of its passes over W and V."""
        t = trials[0].training
        operations = len(trials) * t.batch_size * flops(trials[0], inputs)[0]
        weights = len(trials) * t.hidden_units * inputs
        rate = self.tf32 if tf32 else self.float32
        return operations / rate, PASSES * 4 * weights / self.copy


def step_seconds(card: Card, trials: Sequence[Trial], inputs: int, way: str = "") -> float:
    """Of one step of the whole stack, within epochs without a short minibatch."""
    steps = 5 if card.quick else 200
    stack = card.stack(trials, card.noise(steps * trials[0].training.batch_size, inputs),
                       tf32=card.tf32, routine=TORCH + ON_CARD + way)  # fmt: skip
    epoch = itertools.count(1)
    stack.train_epoch(next(epoch))  # captures
    least = 0.02 if card.quick else 0.3
    return card.seconds(lambda: stack.train_epoch(next(epoch)), least) / steps


#: Microseconds of a step of 12 members that are aimed at, by inputs; of 36 it is a ratio.
AIMS = {784: 200, 192: 60}


def ways_to_step(card: Card, floors: Floors) -> tuple[bool, dict[int, str]]:
    """torch's captured step against the fused kernels, each with its error.

    Returns whether all agree, and for each number of inputs what was chosen for cae.
    """
    rows, right, chosen = [], True, {}
    for inputs, size in itertools.product(INPUTS.values(), (2,) if card.quick else (12, 36)):
        for model, activation in (("cae", "relu"), ("dae", "sigmoid")):
            seeds = range(-(-size // len(SIGMA2)))
            trials = members(model, activation, hidden_units=card.units, seeds=seeds)[:size]
            work, memory = floors.step(trials, inputs, card.tf32)
            floor = max(work, memory)
            aim = f"{AIMS[inputs]} us" if size == 12 else "1.6 floors"
            ways = compared(trials, inputs, card.device, tf32=card.tf32)
            chosen.setdefault(inputs, fastest(ways))
            for name, way in ways.items():
                right = right and way.right
                rows.append((
                    inputs, size, model, activation, name or "torch", f"{1e6 * way.seconds:.0f}",
                    f"{1e6 * way.measuring_seconds:.0f}", f"{1e6 * work:.0f}",
                    f"{1e6 * memory:.0f}", f"{way.seconds / floor:.2f}", aim,
                    f"{way.error:.1e}", f"{way.measuring_error:.1e}{'' if way.right else ' WRONG'}",
                ))  # fmt: skip
    table(
        "a step of a stack and its share of the measurement, microseconds; errors against float64",
        ("inputs", "members", "model", "activation", "by", "step", "measuring", "products",
         "passes", "times the floor", "aim", "error", "measured"), rows,
    )  # fmt: skip
    return right, chosen


def plain_seconds(card: Card, trials: Sequence[Trial], inputs: int) -> float:
    """Of a step of one trial as a plain module, once it was seen to make the same update."""
    (trial,) = trials
    batch = trial.training.batch_size
    x = card.noise(10 * batch, inputs).to(card.device)
    ours = card.stack(trials, x)
    plain = TorchModule(trial.model, trial.activation, [trial.sigma2], ours.W, ours.b)
    minibatches = x.split(batch)
    eps = torch.randn_like(minibatches[0])
    rows = torch.arange(batch, device=x.device).view(1, 1, batch)
    ours.run(Run(x, rows, eps.view(1, 1, 1, batch, inputs) if plain.noisy else None))
    plain.step(minibatches[0], eps)
    difference = largest_difference(plain.weights(), ours.W)
    if not difference < 1e-4:
        print(f"  WRONG: the plain module's update differs by {difference:.1e}")

    def epoch() -> None:
        for minibatch in minibatches:
            plain.step(minibatch, torch.randn_like(minibatch) if plain.noisy else minibatch)

    return card.seconds(epoch, 0.02 if card.quick else 0.3) / len(minibatches)


def throughput(card: Card) -> None:
    rows = []
    for inputs, model in itertools.product(INPUTS.values(), ("cae", "dae")):
        one = members(model, "sigmoid", sigma2=(0.25,), hidden_units=card.units,
                      learning_rate=LEARNING_RATE)  # fmt: skip
        plain = plain_seconds(card, one, inputs)
        for size in (1, 2) if card.quick else (1, 12, 36):
            seeds = range(-(-size // len(SIGMA2)))
            trials = members(model, "sigmoid", seeds=seeds, hidden_units=card.units)[:size]
            seconds = step_seconds(card, trials, inputs) / size
            rows.append((
                inputs, model, size, f"{1e6 * seconds:.1f}", f"{1e6 * plain:.0f}",
                f"{plain / seconds:.1f}",
            ))  # fmt: skip
    table(
        "a member's step, microseconds, against one plain torch trial at a time (target: 20 times)",
        ("inputs", "model", "stack", "a member", "plain", "times faster"), rows,
    )  # fmt: skip


# --- how much memory does it take? -------------------------------------------------------------


def memory(card: Card) -> None:
    if card.device.type != "cuda":
        print("\nmemory: counted on CPU tensors by tests/engine/test_footprint.py")
        return
    rows = []
    cases = itertools.product(("cae", "dae2", "cae_h"), (784, 192), (1, 12))
    for model, inputs, size in cases:
        seeds = range(-(-size // len(SIGMA2)))
        trials = members(model, "sigmoid", seeds=seeds)[:size]
        gc.collect()  # a stack and its parts refer to each other
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        stack = card.stack(trials, card.noise(5_030, inputs))
        kept = [stack.measure()]
        for epoch in (1, 2):
            stack.train_epoch(epoch)
            kept = [stack.measure()]
        card.wait()
        actual = torch.cuda.max_memory_allocated() - before
        reserved = torch.cuda.max_memory_reserved()
        predicted = footprint(trials, 5_030, inputs)
        rows.append((
            model, inputs, size, f"{predicted.allocated / 2**20:.0f}", f"{actual / 2**20:.0f}",
            f"{predicted.allocated / actual - 1:+.1%}", f"{predicted.reserved / 2**20:.0f}",
            f"{reserved / 2**20:.0f}",
        ))  # fmt: skip
        del stack, kept
    table(
        "memory of a stack, MiB (target: within 10 %; reserved is never below what is taken)",
        ("model", "inputs", "stack", "predicted", "allocated", "", "reserve", "reserved"), rows,
    )  # fmt: skip


# --- the paper ---------------------------------------------------------------------------------


def estimate(card: Card, chosen: Mapping[int, str]) -> None:
    """The time of the whole of paper.yaml from a few steps and measurements of every third stack.

    By the way that was chosen for cae; a stack that it refuses steps by torch.
    """
    total, trials = 0.0, 0
    every = 25 if card.quick else 3
    for stack in paper_stacks()[::every]:
        trial = stack[0]
        inputs, t = INPUTS[trial.dataset], trial.training
        stack = [replace(m, training=replace(t, hidden_units=card.units)) for m in stack]
        step = step_seconds(card, stack, inputs, chosen[inputs])
        samples = 500 if card.quick else 10_000
        measured = card.stack(stack, card.noise(samples, inputs),
                              routine=TORCH + ON_CARD + chosen[inputs])  # fmt: skip
        measuring = card.seconds(measured.measure, 0.01) * t.samples / samples
        epoch = step * (t.samples // t.batch_size) + measuring
        total += t.epochs * epoch + measuring
        trials += len(stack)
    whole = sum(map(len, paper_stacks()))
    title = f"estimate: {whole} trials of the paper x 50 epochs x {card.units} units"
    table(title, ("minutes", "aim"), [(f"{total * whole / trials / 60:.1f}", "6")])


def prepared(dataset: str) -> tuple[str, Tensor]:
    """The name of the data as it goes into the rows, and the matrix."""
    try:
        return dataset, torch.from_numpy(data.prepare(dataset, samples=50_000).x)
    except (RequestError, ImportError) as error:
        print(f"  {dataset}: {error}; noise instead, which tells times and no more")
        noise = torch.randn(50_000, INPUTS[dataset], generator=torch.Generator().manual_seed(0))
        return f"noise instead of {dataset}", noise


def paper(card: Card, minutes: float, output: Path) -> None:
    """Train the paper's stacks, each to its end, until the time is over; write a CSV of rows."""
    stop = time.perf_counter() + 60 * minutes
    output.mkdir(parents=True, exist_ok=True)
    file, matrices, done = output / "paper-epochs.csv", {}, 0
    stacks = paper_stacks()[: 3 if card.quick else None]
    columns = ["sweep", "trial_id", *stacks[0][0].values(), "epoch", "epoch_seconds", "device",
               "status", "activation_fraction", "dead_units", "dead_fraction",
               "reconstruction_error", "regularization", "loss", "weight_norm_mean", "bias_mean",
               "pre_activation_mean"]  # fmt: skip
    began = time.perf_counter()
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        for trials in stacks:
            dataset = trials[0].dataset
            if dataset not in matrices:
                name, x = prepared(dataset)
                matrices[dataset] = name, (x[:500] if card.quick else x).to(card.device)
            name, x = matrices[dataset]
            if card.quick:
                small = replace(trials[0].training, hidden_units=card.units, epochs=2, samples=500)
                trials = [replace(t, training=small) for t in trials]
            rows = _trained(card, trials, name, x, stop)
            if rows is None:
                break
            writer.writerows(rows)
            stream.flush()
            done += len(trials)
    table(
        f"paper.yaml: {file}",
        ("trials trained", "of", "minutes"),
        [(done, sum(map(len, stacks)), f"{(time.perf_counter() - began) / 60:.1f}")],
    )


def _trained(
    card: Card, trials: Sequence[Trial], dataset: str, x: Tensor, stop: float
) -> list[dict[str, object]] | None:
    """The rows of a stack trained to its end, or None where the time is over before."""
    stack = card.stack(trials, x, tf32=card.tf32)
    rows: list[dict[str, object]] = []
    for epoch in range(trials[0].training.epochs + 1):
        if time.perf_counter() > stop:
            return None
        start = time.perf_counter()
        if epoch:
            stack.train_epoch(epoch)
        measured = stack.measure().rows()
        seconds = (time.perf_counter() - start) / len(trials)
        rows += [
            {**trial.values(), "sweep": "paper", "trial_id": trial.trial_id, "dataset": dataset,
             "samples": x.shape[0], "epoch": epoch, "epoch_seconds": seconds,
             "device": stack.device_name, **row}
            for trial, row in zip(trials, measured, strict=True)
        ]  # fmt: skip
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run?")
    parser.add_argument("--tf32", action="store_true", help="train with TF32 products")
    parser.add_argument("--paper", type=float, metavar="MINUTES", help="train paper.yaml instead")
    parser.add_argument("--output", type=Path, default=Path(os.environ.get("OUT", "results/gpu")))
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("torch sees no GPU here; --device cpu --quick runs the same code", file=sys.stderr)
        return 2
    card = Card(torch.device(arguments.device), arguments.quick, arguments.tf32)
    cuda = card.device.type == "cuda"
    name = torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} threads"
    print(f"{name}; torch {torch.__version__}; CUDA {torch.version.cuda or 'none'}; "
          f"{'TF32' if card.tf32 else 'float32'}")  # fmt: skip
    if arguments.paper is not None:
        paper(card, arguments.paper, arguments.output)
        return 0
    right = check(card)
    floors = Floors.measured(card)
    table("the card", ("float32 TFLOP/s", "TF32 TFLOP/s", "copy GB/s"),
          [(f"{floors.float32 / 1e12:.1f}", f"{floors.tf32 / 1e12:.1f}",
            f"{floors.copy / 1e9:.0f}")])  # fmt: skip
    agree, chosen = ways_to_step(card, floors)
    throughput(card)
    memory(card)
    estimate(card, chosen)
    return 0 if right and agree else 1


if __name__ == "__main__":
    raise SystemExit(main())
