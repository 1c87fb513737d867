"""The engine's speed on one core, as ratios of things measured side by side in this run.

    pip install -e ".[benchmark]"        # JAX
    python benchmarks/engine.py

For every model, activation and number of inputs the candidates take turns, an epoch of a few steps
each, and the least time of each counts: what else the machine does hits all alike. Each peer is
checked to end in the engine's weights before it is timed.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

# Before torch and JAX start their threads: one core for all of them.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.peers import LEARNING_RATE, MOMENTUM, PEERS, Peer
from sparseae.engine.choice import Shape, operands_of, usable
from sparseae.engine.choice_on_cpu import choose
from sparseae.engine.library import compiled, turned
from sparseae.engine.measurements import ROWS as MEASURE_ROWS
from sparseae.engine.products import ROUTINES
from sparseae.engine.stack import Stack
from sparseae.model.trial import Training, Trial

WORKER_START = 15.0  # seconds that a worker has to import its libraries and warm up
MODELS, ACTIVATIONS = ("cae", "dae", "sae"), ("relu", "sigmoid")  # that the peers have too
SIGMA2 = (0.25, 0.0, 0.01, 0.09, 0.49, 1.0)  # the first is the one trained alone


def trials(model: str, activation: str, members: int, units: int, batch: int) -> list[Trial]:
    """Members that differ in sigma2."""
    training = Training(
        hidden_units=units, batch_size=batch, learning_rate=LEARNING_RATE, momentum=MOMENTUM
    )
    return [
        Trial(model=model, activation=activation, sigma2=sigma2, constraint="unit_norm",
              dataset="noise", seed=0, training=training)
        for sigma2 in SIGMA2[:members]
    ]  # fmt: skip


def check(peer: type[Peer], members: Sequence[Trial], x: Tensor) -> None:
    """That the peer's updates are the engine's, on the same minibatches and noise.

    Raises:
        AssertionError: if the weights moved otherwise, beyond what float32 rounds (a relu at its
            kink may fall to either side).
    """
    stack, first = Stack(members, x), members[0]
    before = stack.W.clone()
    sigma2 = [trial.sigma2 for trial in members]
    other = peer(first.model, first.activation, sigma2, before, stack.b.clone())
    for run in stack.minibatches.runs(1):
        for step, minibatch in enumerate(run.x[:, 0]):
            other.step(minibatch, minibatch if run.eps is None else run.eps[step, 0, 0])
    stack.train_epoch(1)
    moved = (stack.W - before).norm()
    assert (other.weights() - stack.W).norm() < 1e-3 * moved, f"{peer.name} trains otherwise"


def floors(inputs: int, units: int, batch: int, rows: int) -> dict[str, list[Callable]]:
    """By product the calls of each routine: a training step's and a measured chunk's GEMMs."""
    products: dict[str, list[Callable]] = {}
    shape = Shape.of(batch, inputs, units)
    routines = [routine for name, routine in ROUTINES.items() if usable(name, shape)]
    if (in_c := compiled(torch.float32)) is not None:
        routines.append(in_c)
    for routine in routines:
        # The gradient's operand turned over already: that is fastest.
        t = operands_of(Shape(batch, inputs, units))
        c = operands_of(Shape(rows, inputs, units))
        for operands in (t, c) if routine is in_c else ():
            h = operands["h"]
            operands["h"] = turned(h, *h.shape).copy_(h)
        out, chunk, V = torch.empty_like(t["x"]), torch.empty_like(c["x"]), t["V"]
        calls = {
            "encode": lambda r=routine, t=t: r.encode(t["x"], t["W"], t["b"]),
            "decode": lambda r=routine, t=t, o=out: r.residual(t["h"], t["W"], t["x"], 1.0, o),
            "backward": lambda r=routine, t=t: r.encode(t["x"], t["W"], None),
            "gradient": lambda r=routine, t=t, V=V: r.gradient(t["A"], t["X"], V, 0.5),
            "measure, encode": lambda r=routine, t=c: r.encode(t["x"], t["W"], t["b"]),
            "measure, decode": lambda r=routine, t=c, o=chunk: r.decode(t["h"], t["W"], o),
        }
        for product, call in calls.items():
            products.setdefault(product, []).append(call)
    return products


@torch.inference_mode()
def floor_seconds(products: Mapping[str, list[Callable]], steps: int, chunks: int) -> float:
    """An epoch's GEMMs, each by the routine that was fastest this time."""
    total = 0.0
    for product, calls in products.items():
        repeat = chunks if product.startswith("measure") else steps
        total += min(_seconds(call, repeat) for call in calls)
    return total


def _seconds(call: Callable[[], object], repeat: int = 1) -> float:
    start = time.perf_counter()
    for _ in range(repeat):
        call()
    return time.perf_counter() - start


def compare(
    model: str, activation: str, inputs: int, *, units: int, batch: int, steps: int, rounds: int,
    size: int,
) -> dict[str, float]:  # fmt: skip
    """Least seconds a member and step of everything; ``size`` members in the stack."""
    x = torch.randn(steps * batch, inputs)
    rows = min(MEASURE_ROWS, x.shape[0])
    chunks = math.ceil(x.shape[0] / rows)
    products = floors(inputs, units, batch, rows)
    routine = choose(Shape.of(batch, inputs, units), threads=1)
    alone = trials(model, activation, 1, units, batch)
    together = trials(model, activation, size, units, batch)
    one, six = (Stack(members, x, routine=routine) for members in (alone, together))

    def epoch(stack: Stack) -> Callable[[], object]:
        return lambda: stack.train_epoch(1)

    # By name: updates of a member in a call, and the call.
    candidates: dict[str, tuple[int, Callable[[], object]]] = {
        "engine": (steps, epoch(one)),
        "engine, measuring": (steps, one.measure),
        "engine, stack": (steps * size, epoch(six)),
        "engine, stack, measuring": (steps * size, six.measure),
    }
    half = steps // 2 * batch  # rows of the peers' epochs, which nothing but steps are made of
    for peer in PEERS:
        for members in (alone, together) if peer.stacks else (alone,):
            check(peer, members, x[: 3 * batch])
            sigma2 = [trial.sigma2 for trial in members]
            made = peer(model, activation, sigma2, *_initial(members, x))
            name = peer.name if members is alone else f"{peer.name}, stack"
            updates = half // batch * len(members)
            candidates[name] = (updates, lambda made=made: made.epoch(x[:half], batch))
    least = dict.fromkeys(["floor", *candidates], math.inf)
    for _ in range(rounds + 1):  # the first compiles and allocates
        least["floor"] = min(least["floor"], floor_seconds(products, steps, chunks) / steps)
        for name, (updates, call) in candidates.items():
            least[name] = min(least[name], _seconds(call) / updates)
    return least


def _initial(members: Sequence[Trial], x: Tensor) -> tuple[Tensor, Tensor]:
    stack = Stack(members, x)
    return stack.W.clone(), stack.b.clone()


def two_cores(cores: Sequence[int], inputs: int, units: int, batch: int) -> float:
    """Throughput of two processes on two cores, in units of one process on one."""

    def rate(used: Sequence[int]) -> float:
        start = time.time() + WORKER_START
        shape = [str(number) for number in (inputs, units, batch)]
        workers = [
            subprocess.Popen(
                [sys.executable, __file__, "--worker", *shape, str(core), str(start)],
                stdout=subprocess.PIPE,
                text=True,
            )
            for core in used
        ]
        return sum(float(worker.communicate()[0]) for worker in workers)

    # In turn, and the best of each.
    pairs = [(rate(cores[:1]), rate(cores)) for _ in range(2)]
    return max(two for _, two in pairs) / max(one for one, _ in pairs)


def work(inputs: int, units: int, batch: int, core: int, start: float) -> None:
    """A worker of `two_cores`: prints its epochs a second over two seconds from ``start``."""
    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    stack = Stack(trials("cae", "sigmoid", 6, units, batch), torch.randn(10 * batch, inputs))
    stack.train_epoch(1)
    time.sleep(start - time.time())  # fails where the others have begun without it
    epochs, began = 0, time.perf_counter()
    while time.perf_counter() - began < 2:
        stack.train_epoch(1)
        epochs += 1
    print(epochs / (time.perf_counter() - began))


#: The most that is aimed at of "to its GEMMs", by inputs; of a peer it is at least 1.
AIMS = {784: 1.15, 192: 1.2, 64: 1.35}

COLUMNS = ("inputs", "model", "activation", "members", "ms a step", "to its GEMMs", "aim",
           "torch module", "torch.func", "JAX", "aim")  # fmt: skip


def rows_of(
    inputs: int, model: str, activation: str, size: int, t: Mapping[str, float]
) -> list[list[str]]:
    """Table rows: the engine's time over its GEMMs', and each peer's over the engine's."""
    rows = []
    for members, suffix in ((1, ""), (size, ", stack")):
        engine = t[f"engine{suffix}"]
        whole = engine + t[f"engine{suffix}, measuring"]
        peers = [
            t.get(f"torch module{suffix}", t["torch module"]),  # a stack is its members in turn
            t[f"torch.func{suffix}"],
            t.get(f"JAX{suffix}", math.nan),
        ]
        aim = f"{AIMS[inputs]:.2f}" if inputs in AIMS else ""
        ratios = [f"{whole / t['floor']:.2f}", aim, *(f"{peer / engine:.2f}" for peer in peers)]
        ratios.append("1.00")
        name = [str(inputs), model, activation, str(members), f"{engine * 1e3:.3f}"]
        rows.append(name + ratios)
    return rows


def machine() -> str:
    """The processor and the libraries."""
    model = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        fields = dict(line.replace("\t", "").split(":", 1) for line in lines if ":" in line)
        model = ", ".join(f"{k}{fields.get(k, '')}" for k in ("model name", "cpu family", "model"))
    jax = sys.modules.get("jax")
    return (
        f"{model}; torch {torch.__version__} ({torch.backends.cpu.get_cpu_capability()}), "
        f"JAX {getattr(jax, '__version__', 'absent')}, Python {platform.python_version()}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, nargs="+", default=[784, 192, 64])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--activations", nargs="+", choices=ACTIVATIONS, default=ACTIVATIONS)
    parser.add_argument("--units", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--steps", type=int, default=30, help="steps of an epoch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--worker", type=float, nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(*map(int, arguments.worker[:4]), start=arguments.worker[4])
        return
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:1])
    torch.set_num_threads(1)
    print(machine())
    print(f"{arguments.units} units, batch {arguments.batch}, float32, one core, unit_norm\n")
    print("| " + " | ".join(COLUMNS) + " |")
    print("|" + "---|" * len(COLUMNS))
    for inputs in arguments.inputs:
        for model in arguments.models:
            for activation in arguments.activations:
                least = compare(
                    model, activation, inputs, units=arguments.units, batch=arguments.batch,
                    steps=arguments.steps, rounds=arguments.rounds, size=len(SIGMA2),
                )  # fmt: skip
                for row in rows_of(inputs, model, activation, len(SIGMA2), least):
                    print("| " + " | ".join(row) + " |", flush=True)
    print()
    if len(cores) > 1:
        inputs = max(arguments.inputs)
        ratio = two_cores(cores[:2], inputs, arguments.units, arguments.batch)
        print(f"{inputs} inputs: two processes on two cores do {ratio:.2f} times the work of one")


if __name__ == "__main__":
    main()
