"""What a choice means: its products, its step, what measures, and how a CPU's is found."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from sparseae.engine import c, choice, choice_on_cpu
from sparseae.engine.c import CStep
from sparseae.engine.choice import (
    Shape,
    decided,
    measuring_products,
    measuring_sums,
    operands_of,
    parts,
    products_of,
    steps_of,
    substitute,
    torch_products,
    usable,
)
from sparseae.engine.choice_on_cpu import VARIABLE, choose
from sparseae.engine.library import compiled
from sparseae.engine.products import PRODUCTS, ROUTINES, TORCH, Torch
from sparseae.engine.stack import Stack
from sparseae.engine.step import BACKENDS
from sparseae.engine.triton import VARIANTS, TritonBackend, TritonSums
from sparseae.errors import RequestError
from tests.engine.test_products import Noted
from tests.engine.test_stack import trials
from tests.marks import with_c

SHAPE = Shape(rows=10, inputs=31, units=17)
MIXED = "torch/onednn/torch"


@pytest.fixture
def forget():
    """Before and after: nothing is known of what is usable and of what is fast."""
    known = (choice.usable, choice_on_cpu._fastest)
    for cached in known:
        cached.cache_clear()
    yield
    for cached in known:
        cached.cache_clear()


def problem_of(model="cae", **changed):
    """What a step computes, of members of a stack that need not be there."""
    kept = Stack(trials(model, "sigmoid")[:1], torch.zeros(20, 6)).problem
    return dataclasses.replace(kept, **changed)


def test_a_shape_ends_where_speed_no_longer_changes():
    assert Shape.of(10, 20, 30) == Shape(rows=10, inputs=20, units=30)
    assert Shape.of(300, 2000, 3000) == Shape(rows=256, inputs=1024, units=1024)
    assert str(Shape(1, 2, 3)) == "1x2x3"  # as sweeps record it


@pytest.mark.parametrize(
    ("name", "products", "in_c"),
    [
        (TORCH, TORCH, ""),
        (MIXED, MIXED, ""),
        ("torch+c", TORCH, "+c"),
        (f"{MIXED}+run", MIXED, "+run"),
        ("onednn;triton-a", "onednn", ""),
        ("torch+run;triton-a", TORCH, "+run"),
    ],
)
def test_a_choice_has_products_and_may_step_in_c(name, products, in_c):
    assert parts(name) == (products, in_c)


def test_what_is_checked_and_timed_is_each_product_as_a_step_calls_it():
    t = {name: tensor.double() for name, tensor in operands_of(Shape(5, 7, 3)).items()}
    x, W, b, h, A, X, V = (t[name] for name in "xWbhAXV")
    shapes = [(5, 7), (3, 7), (3,), (5, 3), (3, 10), (10, 7), (3, 7)]
    assert [tuple(tensor.shape) for tensor in (x, W, b, h, A, X, V)] == shapes
    before = {name: tensor.clone() for name, tensor in t.items()}
    made = products_of(ROUTINES[TORCH], t)
    assert tuple(made) == PRODUCTS
    exact = {
        "encode": [x @ W.T + b, x @ W.T],
        "decode": [2.0 * (h @ W - x)],
        "gradient": [0.5 * V + A @ X],
    }
    for name, tensor in operands_of(Shape(5, 7, 3)).items():
        assert torch.equal(tensor.double(), t[name])  # whatever else was drawn
    for product, calls in made.items():
        for call, truth in zip(calls, exact[product], strict=True):
            torch.testing.assert_close(call(), truth)
    (decode,) = made["decode"]
    assert decode() is decode()  # into room that is there, as in a step
    for name, tensor in t.items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize(("error", "right"), [(0.0, True), (5e-6, True), (-5e-6, True),
                                              (2e-5, False), (-2e-5, False)])  # fmt: skip
@pytest.mark.parametrize("product", ["encode", "residual", "gradient"])
def test_a_routine_is_usable_where_it_errs_less_than_1e_5_of_the_largest_entry(
    forget, monkeypatch, product, error, right
):
    def wrong(self, *operands):
        exact = getattr(Torch, product)(self, *operands)
        largest = exact.double().abs().max()
        exact.view(-1)[3] += error * largest
        return exact

    monkeypatch.setitem(ROUTINES, "near", type("Near", (Torch,), {product: wrong})())
    monkeypatch.delitem(ROUTINES, "onednn")
    assert usable("near", SHAPE) == right
    assert usable("torch/near/near", SHAPE) == (right or product == "encode")


def test_an_operator_that_is_not_there_or_not_for_this_is_not_usable(forget, monkeypatch):
    for error in (AttributeError, RuntimeError):

        def missing(self, *operands, error=error):
            raise error

        monkeypatch.setitem(ROUTINES, "none", type("None_", (Torch,), {"gradient": missing})())
        assert not usable("none", SHAPE)
        usable.cache_clear()


def test_torch_is_usable_whatever_it_computes(forget, monkeypatch):
    """There is nothing that a sweep could do instead."""
    monkeypatch.setitem(ROUTINES, TORCH, object())
    assert usable(TORCH, SHAPE)
    assert not usable("torch/torch", SHAPE)
    assert not usable("vendor", SHAPE)


@pytest.mark.parametrize("there", [True, False])
def test_a_step_in_c_is_usable_where_it_is_compiled_for_float32(forget, monkeypatch, there):
    monkeypatch.setattr(
        choice, "compiled", lambda dtype: (there and dtype == torch.float32) or None
    )
    assert usable("torch+c", SHAPE) == there
    assert usable("torch+run", SHAPE) == there
    assert usable(TORCH, SHAPE)


@pytest.mark.parametrize(
    ("chosen", "there", "nearest"),
    [
        ("onednn+run", {"onednn"}, "onednn"),
        ("onednn+run", {"onednn+run"}, TORCH),
        ("vendor", set(), TORCH),
    ],
)
def test_the_nearest_to_a_choice_are_its_products_then_torchs(monkeypatch, chosen, there, nearest):
    monkeypatch.setattr(choice, "usable", lambda name, shape: name in there and shape == SHAPE)
    assert substitute(chosen, SHAPE) == nearest


def test_the_plain_way_is_left_for_a_tenth_and_no_less():
    assert decided({TORCH: 1.0, "a": 0.8, "b": 0.7}) == "b"
    assert decided({TORCH: 1.0, "a": 0.92}) == TORCH
    assert decided({"": 1.0, TORCH: 0.5}, plain=TORCH) == TORCH
    assert decided({"": 1.0, TORCH: 0.95}, plain="") == ""


@pytest.fixture
def built(monkeypatch):
    """Backends that build what they are told instead of steps; the fused one is there."""
    for backend in BACKENDS.values():

        def build(self, problem, groups, variant, update=None):
            return self.name, problem, groups, variant, update

        monkeypatch.setattr(type(backend), "build", build)
    monkeypatch.setattr(TritonBackend, "missing", lambda self, device, dtype: (
        "no half precision" if device.type == "cpu" and dtype == torch.float16 else None
    ))  # fmt: skip


META = torch.device("meta")


@pytest.mark.parametrize(
    ("changed", "chosen", "by", "variant"),
    [
        ({}, TORCH, "torch", TORCH),
        ({}, MIXED, "torch", MIXED),
        ({}, "onednn;triton-b", "torch", "onednn"),  # a CPU's member alone
        ({"dtype": torch.float64}, MIXED, "torch", TORCH),
        ({"together": 2}, MIXED, "torch", TORCH),
        ({"together": 2}, "onednn+run", "torch", TORCH),
        ({"device": META}, "onednn+run", "torch", TORCH),
        ({"together": 2}, "onednn+run;triton-b", "triton", "b"),
        ({"device": META}, "torch;triton-a", "triton", "a"),
        ({"together": 2}, "torch;triton-z", "torch", TORCH),
        ({"together": 2}, "torch;b", "triton", "b"),
        ({"together": 2, "dtype": torch.float16}, "torch;triton-b", "torch", TORCH),
        ({"together": 2, "model": "edae"}, "torch;triton-b", "torch", TORCH),
        pytest.param({}, "onednn+c", "c", "c", marks=with_c),
        pytest.param({}, "onednn+run", "c", "run", marks=with_c),
        pytest.param({"dtype": torch.float64}, "onednn+run", "c", "run", marks=with_c),
    ],
)
def test_a_choice_decides_what_makes_a_step(built, changed, chosen, by, variant):
    problem, groups = problem_of(**changed), [object()]
    assert steps_of(problem, groups, chosen) == (by, problem, groups, variant, None)


@with_c
@pytest.mark.parametrize(("dtype", "routine"), [(torch.float32, "onednn"), (torch.float64, TORCH)])
def test_of_a_model_that_c_refuses_it_makes_the_update(built, dtype, routine):
    problem, groups = problem_of("edae", dtype=dtype), [object()]
    *told, update = steps_of(problem, groups, "onednn+run")
    assert told == ["torch", problem, groups, routine]
    assert update.func is c.updating
    assert update.args == (problem, compiled(dtype), ROUTINES[routine])


def test_what_a_member_alone_is_measured_by():
    assert measuring_products(problem_of(), "onednn") is ROUTINES["onednn"]
    assert measuring_products(problem_of(dtype=torch.float64), "onednn") is ROUTINES[TORCH]
    assert measuring_products(problem_of(device=META), "onednn") is ROUTINES[TORCH]
    assert measuring_products(problem_of(together=2), "onednn") is None
    assert torch_products(problem_of(), MIXED + "+run") == MIXED
    assert torch_products(problem_of(device=META), MIXED) == TORCH


@with_c
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_steps_in_c_is_measured_in_c(dtype):
    assert measuring_products(problem_of(dtype=dtype), "onednn+c") is compiled(dtype)


def test_what_steps_by_fused_kernels_is_measured_by_them(built):
    problem = problem_of(together=2)
    sums = measuring_sums(problem, "torch;triton-b")
    assert (sums.func, sums.args) == (TritonSums, (problem, VARIANTS["b"]))
    assert measuring_sums(problem, TORCH) is None
    assert measuring_sums(problem_of(), "torch;triton-b") is None


def test_what_the_variable_asks_for_must_be_known_and_there(forget, monkeypatch):
    for value, says in (
        ("torch/tor/torch", "SPARSEAE_GEMM: unknown routine 'tor'; did you mean 'torch'?"),
        ("torch/onednn", "SPARSEAE_GEMM: 'torch/onednn' is neither one routine nor one each for "
                         "encode, decode, gradient"),
        ("onednn+run", "SPARSEAE_GEMM: onednn+run is missing or wrong on this machine"),
    ):  # fmt: skip
        monkeypatch.setenv(VARIABLE, value)
        monkeypatch.setattr(choice_on_cpu, "usable", lambda name, shape: False)
        with pytest.raises(RequestError) as raised:
            choose(SHAPE, threads=1)
        assert str(raised.value) == says
    monkeypatch.setattr(choice_on_cpu, "usable", lambda *asked: asked == ("onednn+run", SHAPE))
    assert choose(SHAPE, threads=1) == "onednn+run"


@pytest.mark.parametrize("value", ["", None])
def test_without_the_variable_the_fastest_for_the_shape_and_threads_is_chosen(monkeypatch, value):
    monkeypatch.delenv(VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(VARIABLE, value)
    monkeypatch.setattr(choice_on_cpu, "_fastest", lambda *asked: asked)
    assert choose(SHAPE, threads=3) == (SHAPE, 3)


@pytest.mark.parametrize(
    ("there", "in_c", "chosen"),
    [
        (False, 0.1, "onednn/torch/torch"),
        (True, 0.8, "onednn/torch/torch+run"),
        (True, 0.95, "onednn/torch/torch"),
    ],
)
def test_each_product_takes_its_fastest_routine_then_whole_steps_decide(
    forget, monkeypatch, there, in_c, chosen
):
    threads = []

    def seconds(shape):
        threads.append(torch.get_num_threads())
        slow, quick = {TORCH: 1.0, "onednn": 0.95}, {TORCH: 1.0, "onednn": 0.5}
        return {"encode": quick, "decode": slow, "gradient": slow} if shape == SHAPE else {}

    def least(steps):
        threads.append(torch.get_num_threads())
        assert steps == {name: (SHAPE, name) for name in steps}
        return {name: in_c if name.endswith("+run") else 1.0 for name in steps}

    monkeypatch.setattr(choice_on_cpu, "_seconds_of_products", seconds)
    monkeypatch.setattr(choice_on_cpu, "_least", least)
    monkeypatch.setattr(choice_on_cpu, "_steps", lambda *asked: asked)
    monkeypatch.setattr(choice_on_cpu, "usable", lambda name, shape: there and shape == SHAPE)
    before = torch.get_num_threads()
    assert choice_on_cpu._fastest(SHAPE, before + 1) == chosen
    assert set(threads) == {before + 1}
    assert torch.get_num_threads() == before


def test_each_usable_routine_is_timed_at_all_calls_of_each_product(monkeypatch):
    noted = Noted()

    def told(name, *operands):
        if name != "encode":
            return name
        x, _, b, *_ = operands
        return name, b is not None, tuple(x.shape), x.is_inference()

    def least(timed):
        found = {}
        for name, call in timed.items():
            noted.calls.clear()
            call()
            found[name] = [told(*made) for made in noted.calls]
        return found

    monkeypatch.setitem(ROUTINES, "noted", noted)
    monkeypatch.setattr(choice_on_cpu, "_least", least)
    there = {(TORCH, SHAPE), ("noted", SHAPE)}
    monkeypatch.setattr(choice_on_cpu, "usable", lambda *asked: asked in there)
    encode = [("encode", biased, (10, 31), True) for biased in (True, False)]
    assert choice_on_cpu._seconds_of_products(SHAPE) == {
        "encode": {TORCH: [], "noted": encode},
        "decode": {TORCH: [], "noted": ["residual"]},
        "gradient": {TORCH: [], "noted": ["gradient"]},
    }


@with_c
def test_the_steps_that_are_timed_are_whole_of_the_shape_by_the_choice_and_stay(monkeypatch):
    made = []

    class Kept(Stack):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            made.append(self)

    monkeypatch.setattr(choice_on_cpu, "Stack", Kept)
    choice_on_cpu._steps(SHAPE, "torch")
    timed = choice_on_cpu._steps(SHAPE, "torch+c")
    other, stack = made
    assert torch.equal(stack.x, other.x)  # each choice takes the same steps
    assert isinstance(stack.steps[0], CStep)
    assert stack.W.shape == (1, SHAPE.units, SHAPE.inputs)
    assert stack.x.shape == (4 * SHAPE.rows, SHAPE.inputs)
    assert stack.training.batch_size == SHAPE.rows
    kept, order = stack.W.clone(), []
    monkeypatch.setattr(Kept, "train_epoch", lambda self, n: (order.append(n), super(
        Kept, self).train_epoch(n)))  # fmt: skip
    timed()
    assert order == [1]
    assert stack.V.abs().max() > 0
    torch.testing.assert_close(stack.W, kept)  # however often they are taken


@pytest.mark.parametrize(("took", "rounds"), [((1.0, 1.0), 8), ((1.5, 0.5), 8), ((10.0, 30.0), 3)])
def test_ways_take_turns_for_a_while_and_a_few_times_and_the_least_counts(
    monkeypatch, took, rounds
):
    now, turns = [100.0], []

    def way(name, seconds):
        def call():
            turns.append(name)
            now[0] += seconds + (turns.count(name) != 2)  # the second turn is the least

        return call

    monkeypatch.setattr(choice_on_cpu, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(choice_on_cpu, "_SECONDS", 30.0)
    calls = {name: way(name, seconds) for name, seconds in zip("ab", took, strict=True)}
    assert choice_on_cpu._least(calls) == dict(zip("ab", took, strict=True))
    assert turns == ["a", "b"] * rounds
