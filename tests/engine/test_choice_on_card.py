"""How a card's way is found: each is compared with float64, and those that are right are timed.

On a CPU, where stand-ins for the fused kernels step by torch, and a little wrong where they are
told to.
"""

import dataclasses
import math
from types import SimpleNamespace

import pytest
import torch

from sparseae.engine import choice_on_card
from sparseae.engine.choice_on_card import Way, choose_on_card, compared, fastest
from sparseae.engine.stack import Stack
from sparseae.engine.step import Step
from sparseae.engine.triton import VARIANTS
from tests.engine.test_stack import trials

STEPS, INPUTS = 4, 6
NAMES = ["", *(f"triton-{variant}" for variant in VARIANTS)]


class Fused(Step):
    """Torch's step that goes so much too far."""

    def __init__(self, stack, too_far):
        (self.step,), self.W, self.too_far = stack.steps, stack.W, too_far

    def run(self, run):
        before = self.W.clone()
        self.step.run(run)
        self.W.copy_(before + (1 + self.too_far) * (self.W - before))


@dataclasses.dataclass
class Told:
    """What ways do: how far wrong they step and measure, and which raise or are refused."""

    too_far: dict = dataclasses.field(default_factory=dict)
    measured: dict = dataclasses.field(default_factory=dict)
    raises: tuple = ()
    refused: tuple = ()
    #: Seconds of each epoch, and of the measurement behind it.
    seconds: tuple = (0.0, 1.0, 8.0, 4.0, 6.0)
    quicker: dict = dataclasses.field(default_factory=dict)


@pytest.fixture
def found(monkeypatch):
    """Asks `compared` of stand-ins; returns the ways and what was done to find them."""

    def ask(members, told, **options):
        did = SimpleNamespace(made=[], runs=[], turns=[], precisions=[])
        now = [0.0]

        class StandIn(Stack):
            def __init__(self, members, x, device, dtype, routine, **options):
                did.made.append((members, x, device, dtype, routine, options))
                self.name = routine.removeprefix("torch;")
                self.exact = dtype == torch.float64
                if self.name in told.raises:
                    raise RuntimeError("no such kernel\nand a long story")
                super().__init__(members, x, device, dtype, "torch", **options)
                if not self.exact and self.name not in told.refused:
                    self.steps = [Fused(self, told.too_far.get(self.name, 0.0))]

            def took(self, what, seconds):
                did.turns.append((self.name, what))
                now[0] += seconds / told.quicker.get(self.name, 1.0)

            def run(self, run):
                if run.rows.shape[0] > 1:  # not of an epoch's program
                    did.runs.append(run)
                    did.precisions.append(torch.backends.cuda.matmul.fp32_precision)
                super().run(run)

            def train_epoch(self, epoch):
                super().train_epoch(epoch)
                self.epoch = epoch
                self.took(epoch, told.seconds[epoch])

            def measure(self):
                found = super().measure()
                if self.exact:
                    return found
                self.took("measure", told.seconds[getattr(self, "epoch", 1)] / 2)
                error = found.reconstruction_error * (1 + told.measured.get(self.name, 0.0))
                return dataclasses.replace(found, reconstruction_error=error)

        monkeypatch.setattr(choice_on_card, "_STEPS", STEPS)
        monkeypatch.setattr(choice_on_card, "Stack", StandIn)
        monkeypatch.setattr(choice_on_card, "TritonStep", Fused)
        clock = SimpleNamespace(perf_counter=lambda: now[0])
        monkeypatch.setattr(choice_on_card, "time", clock)
        return compared(members, INPUTS, "cpu", **options), did

    return ask


def test_every_way_takes_the_same_steps_and_those_that_are_right_take_turns(found):
    members = trials("dae", "sigmoid", "none")
    ways, did = found(members, Told(quicker={"triton-b": 2.0}))
    assert list(ways) == NAMES
    x = did.made[0][1]
    assert x.shape == (STEPS * members[0].training.batch_size, INPUTS)
    options = {"tf32": False, "together": len(members), "at_once": True}
    routines = [f"torch;{name}" for name in ["", *NAMES]]
    for (told, data, device, _, routine, given), name in zip(did.made, routines, strict=True):
        assert (told, device, routine, given) == (members, "cpu", name, options)
        assert data is x
    assert [made[3] for made in did.made] == [torch.float64] + [torch.float32] * len(NAMES)
    first = [(name, what) for name in NAMES for what in ("measure", 1)]
    turns = [(name, what) for n in (2, 3, 4) for name in NAMES for what in (n, "measure")]
    assert did.turns == first + turns
    for name, way in ways.items():
        quicker = 2.0 if name == "triton-b" else 1.0
        assert (way.seconds, way.measuring_seconds) == (4.0 / STEPS / quicker, 2 / STEPS / quicker)
        assert way.right
        assert way.error < 1e-5
        assert way.measuring_error < 1e-5
    assert fastest(ways) == "triton-b"


def test_what_is_compared_does_not_depend_on_what_was_drawn_before(found):
    members = trials("dae", "sigmoid", "none")
    (_, one), (_, other) = (found(members, Told()) for _ in range(2))
    assert torch.equal(one.made[0][1], other.made[0][1])
    assert torch.equal(one.runs[0].eps, other.runs[0].eps)


@pytest.mark.parametrize(
    ("tf32", "error", "right"),
    [(False, 5e-4, True), (False, 2e-3, False), (True, 2e-2, True), (True, 4e-2, False)],
)
@pytest.mark.parametrize("where", ["too_far", "measured"])
def test_a_way_that_errs_is_not_timed(found, where, tf32, error, right):
    told = Told(quicker={"triton-a": 4.0}, **{where: {"triton-a": error}})
    ways, _ = found(trials("cae", "sigmoid", "none"), told, tf32=tf32)
    way = ways["triton-a"]
    differs = way.error if where == "too_far" else way.measuring_error
    assert differs == pytest.approx(error, rel=0.05)
    assert way.right == right
    assert math.isfinite(way.seconds) == math.isfinite(way.measuring_seconds) == right
    assert fastest(ways) == ("triton-a" if right else "")


def test_torchs_way_needs_not_be_right(found):
    (alone, *_) = trials("cae", "sigmoid", "none")
    ways, _ = found([alone], Told(too_far={"": 0.5}))
    assert ways[""].error > 0.1
    assert ways[""].right
    assert math.isfinite(ways[""].seconds)


def test_what_cannot_run_is_said_and_what_is_refused_is_left_out(found, caplog):
    told = Told(raises=("triton-b",), refused=("triton-c",))
    ways, _ = found(trials("cae", "sigmoid", "none"), told)
    assert list(ways) == ["", "triton-a", "triton-d"]
    (record,) = caplog.records
    assert (record.name, record.levelname) == (choice_on_card.__name__, "WARNING")
    assert record.getMessage() == "triton-b cannot be used: no such kernel"


@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.parametrize("model", ["cae", "dae"])
def test_the_steps_that_are_compared_have_the_same_rows_and_noise(found, model, tf32):
    members = trials(model, "sigmoid", "none")
    _, did = found(members, Told(), tf32=tf32)
    first, *others = did.runs
    assert len(others) == len(NAMES)
    assert set(did.precisions) == {"tf32" if tf32 else "ieee"}
    x, batch = did.made[0][1], members[0].training.batch_size
    assert first.rows.shape == (6, 2, batch)
    assert first.rows.min() >= 0
    assert STEPS * batch > first.rows.max() >= STEPS * batch - INPUTS  # of all samples
    assert torch.equal(first.data, x.double())
    for run in others:
        assert torch.equal(run.data, x)
        assert torch.equal(run.rows, first.rows)
        if model == "dae":
            assert run.eps.dtype == torch.float32
            assert first.eps.dtype == torch.float64
            assert run.eps.shape == first.eps.shape == (6, 2, 2, batch, INPUTS)
            assert torch.equal(run.eps, first.eps.float())
        else:
            assert run.eps is first.eps is None


def test_a_difference_is_the_largest_of_any_member():
    def measured(squares, active):
        return SimpleNamespace(
            reconstruction_error=torch.tensor(squares, dtype=torch.float64),
            activation_fraction=torch.tensor(active, dtype=torch.float64),
        )

    known = measured([2.0, 4.0], [0.5, 0.25])
    for squares, active, difference in (
        ([2.0, 4.0], [0.5, 0.25], 0.0),
        ([2.0, 5.0], [0.5, 0.25], 0.25),
        ([1.0, 4.0], [0.75, 0.25], 0.5),
        ([2.0, 5.0], [0.5, 0.75], 0.5),
    ):
        assert choice_on_card._difference(measured(squares, active), known) == difference


def test_a_card_is_waited_for_before_and_after_what_is_timed(monkeypatch):
    did, card = [], torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "synchronize", did.append)
    times = iter([5.0, 7.5])
    clock = SimpleNamespace(perf_counter=lambda: did.append("clock") or next(times))
    monkeypatch.setattr(choice_on_card, "time", clock)
    stack = SimpleNamespace(device=card)
    assert choice_on_card._seconds(stack, lambda: did.append("work")) == 2.5
    assert did == [card, "clock", "work", card, "clock"]


def test_the_fastest_right_way_is_chosen_by_a_step_and_its_share_of_the_measurement(monkeypatch):
    ways = {
        "": Way(0.0, 0.0, True, 4.0, 2.0),
        "triton-a": Way(0.0, 0.0, True, 1.0, 4.5),
        "triton-b": Way(0.0, 0.0, False, 0.1, 0.1),
        "triton-c": Way(0.0, 0.0, True, 2.0, 3.0),
    }
    assert fastest(ways) == "triton-c"
    asked = []
    monkeypatch.setattr(
        choice_on_card, "compared", lambda *told, **options: asked.append((told, options)) or ways
    )
    assert choose_on_card(["trial"], 7, "cuda") == "triton-c"
    assert choose_on_card(["trial"], 7, "cuda", tf32=True) == "triton-c"
    assert asked == [((["trial"], 7, "cuda"), {"tf32": tf32}) for tf32 in (False, True)]
