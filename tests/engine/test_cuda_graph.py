"""A batched stack's epoch: the program of a GPU on CPU tensors, and a fake of the graph API.

No GPU was at hand. `FakeGraph` records every operator of a step with the tensors that it ran on, as
a CUDA graph records kernels and addresses, and runs those again: a number that Python changed from
step to step would be seen. It cannot show that CUDA accepts the capture.
"""

import dataclasses
import gc
import logging
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from sparseae.engine import cuda_graph
from sparseae.engine.minibatches import Minibatches
from sparseae.engine.stack import Stack
from sparseae.model import MODELS
from tests.engine.test_stack import data, trials


def trained(members, x, epochs=3, program=None) -> Stack:
    """All members step at once, as on a GPU; one alone is a program too."""
    stack = Stack(members, x, together=len(members), at_once=True)
    if program is not None:
        program(stack)
    for epoch in range(1, epochs + 1):
        stack.train_epoch(epoch)
    return stack


class _Recorder(TorchDispatchMode):
    def __init__(self, calls: list) -> None:
        super().__init__()
        self._calls = calls

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self._calls.append((func, args, kwargs or {}, result))
        return result


class FakeGraphs:
    """Stands in for ``torch.cuda.CUDAGraph`` and ``torch.cuda.graph``."""

    def __init__(self, stack: Stack, broken: int = 0) -> None:
        self.events: list[str] = []
        state = [stack.W, stack.V, stack.b, stack.vb, stack.probe, stack.program.position]
        outer = self

        class FakeGraph:
            def __init__(self) -> None:
                self.calls: list = []
                self.streams: list[torch.Generator] = []

            def register_generator_state(self, stream: torch.Generator) -> None:
                self.streams.append(stream)

            def replay(self) -> None:
                outer.events.append("replay")
                for func, args, kwargs, recorded in self.calls:
                    again = func(*args, **kwargs)
                    pairs = zip(tree_flatten(recorded)[0], tree_flatten(again)[0], strict=True)
                    for old, new in pairs:
                        if isinstance(old, torch.Tensor):
                            old.copy_(new)

        class capture:
            def __init__(self, graph, stream, capture_error_mode) -> None:
                assert stream == "the current stream"
                assert capture_error_mode == "thread_local"
                self.graph, self.recorder = graph, _Recorder(graph.calls)

            def __enter__(self) -> None:
                outer.events.append("capture")
                assert {id(s) for s in self.graph.streams} == {
                    id(s) for s in stack.minibatches.streams
                }
                # A capture executes nothing: what the fake executes is undone.
                self.saved = [t.clone() for t in state]
                self.states = [s.get_state() for s in self.graph.streams]
                self.recorder.__enter__()

            def __exit__(self, *error) -> None:
                self.recorder.__exit__(*error)
                for tensor, saved in zip(state, self.saved, strict=True):
                    tensor.copy_(saved)
                if outer.events.count("capture") <= broken:
                    raise RuntimeError("CUDA error: operation not permitted\nmore lines")
                for stream, saved in zip(self.graph.streams, self.states, strict=True):
                    stream.set_state(saved)

        self.graph_type, self.capture = FakeGraph, capture

    def install(self, monkeypatch, stack: Stack) -> None:
        monkeypatch.setattr(torch.cuda, "CUDAGraph", self.graph_type)
        monkeypatch.setattr(torch.cuda, "graph", self.capture)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda: "the current stream")
        stack.program.may_capture = True


def captured(members, x, monkeypatch, broken=0, epochs=3) -> tuple[Stack, FakeGraphs]:
    graphs = []

    def install(stack):
        graphs.append(FakeGraphs(stack, broken))
        graphs[0].install(monkeypatch, stack)

    return trained(members, x, epochs, program=install), graphs[0]


@pytest.mark.parametrize("activation", ["relu", "softplus", "maxout"])
@pytest.mark.parametrize("model", MODELS)
def test_a_captured_step_is_the_eager_one(model, activation, monkeypatch):
    """To the bit: the capture changes neither weights nor streams, the graph holds the step."""
    members, x = trials(model, activation), data()
    eager = trained(members, x, epochs=2)
    graphed, graphs = captured(members, x, monkeypatch, epochs=2)
    assert torch.equal(graphed.W, eager.W)
    assert torch.equal(graphed.b, eager.b)
    # 57 samples are 5 minibatches of 10 and one of 7; the very first runs as it is.
    assert graphs.events == ["capture"] + ["replay"] * (2 * 5 - 1)


def test_a_capture_that_fails_twice_is_told_once_and_changes_nothing(monkeypatch, caplog):
    cuda_graph._warn.cache_clear()
    members, x = trials("dae"), data()
    eager = trained(members, x)
    with caplog.at_level(logging.WARNING):
        fallen, graphs = captured(members, x, monkeypatch, broken=2)
    assert torch.equal(fallen.W, eager.W)
    assert graphs.events == ["capture", "capture"]
    (record,) = caplog.records
    assert record.name == cuda_graph.__name__
    assert record.getMessage() == (
        "a step could not be captured as a CUDA graph and runs kernel by kernel: "
        "CUDA error: operation not permitted"
    )


def test_a_capture_that_fails_once_is_tried_again(monkeypatch, caplog):
    members, x = trials("dae"), data()
    eager = trained(members, x)
    graphed, graphs = captured(members, x, monkeypatch, broken=1)
    assert torch.equal(graphed.W, eager.W)
    assert graphs.events == ["capture", "capture"] + ["replay"] * (3 * 5 - 1)
    assert not caplog.records


def test_nothing_is_collected_within_a_capture(monkeypatch):
    """What a former stack leaves would spoil it."""
    enabled = []

    def watch(stack):
        graphs = FakeGraphs(stack)
        graphs.install(monkeypatch, stack)
        run = stack.program._step

        def step(size):
            enabled.append((gc.isenabled(), "capture" in graphs.events))
            run(size)

        monkeypatch.setattr(stack.program, "_step", step)

    trained(trials("cae"), data(), epochs=1, program=watch)
    assert (False, True) in enabled
    assert (False, False) not in enabled
    assert gc.isenabled()


@pytest.mark.parametrize("batch_size", [10, 19, 57, 100])
@pytest.mark.parametrize("model", ["sae", "dae"])
def test_any_batch_size_gives_the_steps_of_members_apart(model, batch_size):
    """With and without a short last minibatch; with one minibatch, full or short."""
    members, x = trials(model, "sigmoid", batch_size=batch_size), data()
    batched = trained(members, x)
    apart = Stack(members, x)
    assert apart.program is None
    for epoch in (1, 2, 3):
        apart.train_epoch(epoch)
    torch.testing.assert_close(batched.W, apart.W)
    torch.testing.assert_close(batched.b, apart.b)


@pytest.mark.parametrize("model", ["cae", "dae", "edae", "cae_h"])
def test_no_stack_size_shows(model):
    """The random numbers are the same, and the rest differs by rounding."""
    members, x = trials(model, "softplus"), data()
    whole = trained(members, x)
    for start, stop in ((0, 1), (1, 3), (3, 6)):
        part = trained(members[start:stop], x)
        torch.testing.assert_close(part.W, whole.W[start:stop])


def test_a_state_goes_on_as_if_uninterrupted():
    members, x = trials("dae", "sigmoid"), data()
    through = trained(members, x, epochs=4)
    before = trained(members, x, epochs=2)
    resumed = Stack(members, x, together=len(members))
    resumed.load_state_dict({k: v.clone() for k, v in before.state_dict().items()})
    for epoch in (3, 4):
        resumed.train_epoch(epoch)
    assert torch.equal(resumed.W, through.W)
    assert torch.equal(resumed.V, through.V)


def test_a_diverged_member_harms_no_neighbour():
    x = data() * 5
    calm = trials("cae", "softplus", "none", learning_rate=0.0005)
    wild = trials("cae", "softplus", "none", sigma2=(0.25,), seeds=(0,), learning_rate=50.0)
    stack = trained([calm[0], *wild, *calm[1:]], x)
    assert stack.measure().diverged.tolist() == [False, True] + [False] * 5
    alone = trained(calm, x)
    torch.testing.assert_close(stack.W[[0, 2, 3, 4, 5, 6]], alone.W)


def test_a_loss_that_overflowed_is_seen_where_the_weights_are_finite():
    """Only the sum of squared errors tells."""
    members = trials("ae", "sigmoid", sigma2=(0.0,), learning_rate=1e-30)
    stack = trained(members, data() * 1e19, epochs=1)
    assert stack.W.isfinite().all()
    assert stack.diverged.all()


def test_every_stackable_number_may_differ():
    x = data()
    base = trials("sae", "sigmoid", "max_norm", seeds=(0,))
    members = [
        dataclasses.replace(
            trial,
            training=dataclasses.replace(trial.training, learning_rate=rate, rho=rho, max_norm=c),
        )
        for trial, rate, rho, c in zip(
            base, (0.001, 0.01, 0.02), (0, 0.1, 0.2), (0.5, 0.8, 1), strict=True
        )
    ]
    whole = trained(members, x)
    for row, member in enumerate(members):
        torch.testing.assert_close(trained([member], x).W[0], whole.W[row])


@pytest.mark.parametrize("tf32", [False, True])
def test_tf32_is_asked_for_while_a_stack_trains_and_never_leaks(tf32, monkeypatch):
    matmul, seen = torch.backends.cuda.matmul, []
    stack = Stack(trials("cae"), data(), tf32=tf32, together=6)
    activation = stack.problem.activation
    value = activation.value

    def spy(a, **options):
        seen.append(matmul.fp32_precision)
        return value(a, **options)

    monkeypatch.setattr(activation, "value", spy)
    with cuda_graph.precision(tf32=not tf32):  # what the process has set
        stack.train_epoch(1)
        assert set(seen) == {"tf32" if tf32 else "ieee"}
        seen.clear()
        stack.measure()
        assert set(seen) == {"ieee"}
        assert matmul.fp32_precision == ("ieee" if tf32 else "tf32")


def test_precision_is_restored_whatever_happens():
    matmul = torch.backends.cuda.matmul
    for before in ("ieee", "tf32"):
        with cuda_graph.precision(tf32=before == "tf32"):
            with pytest.raises(ZeroDivisionError), cuda_graph.precision(tf32=before == "ieee"):
                assert matmul.fp32_precision != before
                raise ZeroDivisionError
            assert matmul.fp32_precision == before


def test_an_epoch_runs_on_a_stream_of_its_own_in_order_with_what_is_around_it(monkeypatch):
    did, devices = [], []

    class Stream:
        def __init__(self, name, device):
            self.name, self.device = name, device

        def wait_stream(self, other):
            did.append(f"{self.name} waits for {other.name}")

    class Within:
        def __init__(self, stream):
            self.stream = stream

        def __enter__(self):
            did.append(f"on {self.stream.name}")

        def __exit__(self, *error):
            did.append(f"off {self.stream.name}")
            assert error[0] in (None, ZeroDivisionError)

    def made(device):
        devices.append(device)
        return Stream("own", device)

    monkeypatch.setattr(torch.cuda, "Stream", made)

    def outer(device):
        assert device == card
        return Stream("outer", device)

    card = torch.device("cuda", 1)
    monkeypatch.setattr(torch.cuda, "current_stream", outer)
    monkeypatch.setattr(torch.cuda, "stream", Within)
    cuda_graph._stream.cache_clear()
    in_order = ["own waits for outer", "on own", "work", "off own", "outer waits for own"]
    with cuda_graph._side_stream(card):
        did.append("work")
    assert did == in_order
    did.clear()
    with pytest.raises(ZeroDivisionError), cuda_graph._side_stream(card):
        did.append("work")
        raise ZeroDivisionError
    assert did == in_order
    assert devices == [card]  # each costs a workspace of the GEMMs
    did.clear()
    with cuda_graph._side_stream(torch.device("cpu")):
        did.append("work")
    assert did == ["work"]
    cuda_graph._stream.cache_clear()


@pytest.mark.parametrize("on_card", [False, True])
def test_a_step_is_captured_on_a_card(on_card):
    minibatches = Stack(trials("cae"), data(), together=6, at_once=True).minibatches
    stands_in = SimpleNamespace(is_cuda=on_card, device=minibatches.data.device)
    minibatches.data = stands_in
    assert cuda_graph.Program(minibatches, lambda run: None).may_capture == on_card


def test_all_that_a_step_depends_on_lies_where_the_data_do():
    runs = []
    minibatches = Minibatches(torch.empty(25, 6, device="meta"), seeds=[0, 1], batch=10, draws=1)
    program = cuda_graph.Program(minibatches, runs.append)
    program.run(1)
    assert program.position.is_meta
    assert [tuple(run.rows.shape) for run in runs] == [(1, 2, 10), (1, 2, 10), (1, 2, 5)]
    assert all(run.rows.is_meta and run.eps.is_meta for run in runs)
    assert all(vars(program)[name].is_meta for name in ("_order", "_offsets"))
