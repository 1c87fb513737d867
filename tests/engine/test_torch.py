"""The routines of the matrix products: right, chosen by measuring, and blind to the stack."""

import pytest
import torch

from sparseae.engine import choice, choice_on_cpu, products
from sparseae.engine.choice import IN_C, Shape, decided, usable
from sparseae.engine.choice_on_cpu import VARIABLE, choose
from sparseae.engine.products import ROUTINES, TORCH
from sparseae.engine.stack import Stack
from sparseae.errors import RequestError
from sparseae.model.trial import Training, Trial
from tests.marks import with_c

SHAPE = Shape(rows=10, inputs=31, units=17)
ONEDNN, MIXED = "onednn", "torch/onednn/torch"

with_onednn = pytest.mark.skipif(
    not usable(ONEDNN, SHAPE), reason="this build of torch has no oneDNN"
)


@pytest.fixture
def forget():
    """Before and after: nothing measured is known."""
    for known in (choice_on_cpu._fastest, choice.usable):
        known.cache_clear()
    yield
    for known in (choice_on_cpu._fastest, choice.usable):
        known.cache_clear()


@pytest.mark.parametrize("name", ROUTINES)
@torch.inference_mode()
def test_a_routine_computes_its_products(name):
    if not usable(name, SHAPE):
        pytest.skip(f"{name} is not usable here")
    t, routine = choice.operands_of(SHAPE), ROUTINES[name]
    x, W, b, h = t["x"], t["W"], t["b"], t["h"]
    torch.testing.assert_close(routine.encode(x, W, b), x @ W.T + b)
    torch.testing.assert_close(routine.encode(x, W, None), x @ W.T)
    out = torch.empty_like(x)
    torch.testing.assert_close(routine.decode(h, W, out), h @ W)
    torch.testing.assert_close(routine.residual(h, W, x, 0.3, out), 0.3 * (h @ W - x))
    V = t["V"].clone()
    routine.gradient(t["A"], t["X"], V, 0.9)
    torch.testing.assert_close(V, 0.9 * t["V"] + t["A"] @ t["X"])


def test_the_variable_overrides_the_measurement(monkeypatch):
    monkeypatch.setenv(VARIABLE, "torch")
    assert choose(SHAPE, threads=1) == TORCH
    monkeypatch.setenv(VARIABLE, "onedn")
    with pytest.raises(RequestError, match=r"SPARSEAE_GEMM.*'onedn'.*onednn"):
        choose(SHAPE, threads=1)


def test_a_missing_operator_is_not_chosen(forget, monkeypatch):
    monkeypatch.setattr(products.OneDNN, "encode", lambda *_: torch.ops.mkldnn.no_such_operator())
    assert not usable(ONEDNN, SHAPE)
    monkeypatch.delenv(VARIABLE, raising=False)
    assert choice.parts(choose(SHAPE, threads=1))[0] == TORCH
    monkeypatch.setenv(VARIABLE, "onednn")
    with pytest.raises(RequestError, match="onednn is missing or wrong"):
        choose(SHAPE, threads=1)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_reduced_precision_is_not_taken_for_float32(forget, monkeypatch, precision):
    def fast(self, x, W, b):
        y = x.to(precision).float() @ W.t().to(precision).float()
        return y if b is None else y + b

    monkeypatch.setattr(products.OneDNN, "encode", fast)
    assert not usable(ONEDNN, SHAPE)


@with_onednn
def test_the_fastest_is_chosen(forget, monkeypatch):
    class Slow(products.Torch):
        def encode(self, x, W, b):
            for _ in range(50):
                y = super().encode(x, W, b)
            return y

        def residual(self, *operands):
            for _ in range(50):
                y = super().residual(*operands)
            return y

        def gradient(self, A, X, V, momentum):
            for _ in range(50):
                super().gradient(A, X, V.clone(), momentum)
            return super().gradient(A, X, V, momentum)

    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setitem(ROUTINES, "torch", Slow())
    assert choice.parts(choose(SHAPE, threads=1))[0] == ONEDNN


def test_a_gain_by_chance_is_none():
    assert decided({TORCH: 1.0, ONEDNN: 0.95}) == TORCH  # not worth other digits
    assert decided({TORCH: 1.0, ONEDNN: 0.85}) == ONEDNN


@with_onednn
@torch.inference_mode()
def test_a_mixed_choice_takes_each_product_from_its_routine(monkeypatch):
    t = choice.operands_of(SHAPE)
    mixed, parts = products.routine_of(MIXED), (ROUTINES[TORCH], ROUTINES[ONEDNN])
    x, W, h = t["x"], t["W"], t["h"]
    encoded, decoded = mixed.encode(x, W, t["b"]), mixed.decode(h, W, torch.empty_like(x))
    assert torch.equal(encoded, parts[0].encode(x, W, t["b"]))
    assert torch.equal(decoded, parts[1].decode(h, W, torch.empty_like(x)))
    assert usable(MIXED, SHAPE)
    assert not usable("torch/onednn", SHAPE)
    assert not usable("torch/onednn/vendor", SHAPE)
    monkeypatch.setenv(VARIABLE, "torch/onednn")
    with pytest.raises(RequestError, match=r"SPARSEAE_GEMM.*encode, decode, gradient"):
        choose(SHAPE, threads=1)
    monkeypatch.setenv(VARIABLE, MIXED)
    assert choose(SHAPE, threads=1) == MIXED


def training_of(routine: str, units: int, inputs: int, samples: int):
    x = torch.randn(samples, inputs, generator=torch.Generator().manual_seed(1))
    training = Training(hidden_units=units, batch_size=10, learning_rate=0.002)
    trials = [
        Trial(model="cae", activation="sigmoid", sigma2=s2, constraint="unit_norm", dataset="d",
              seed=seed, training=training) for s2 in (0.0, 0.25) for seed in (0, 1)
    ]  # fmt: skip

    def trained(members):
        stack = Stack(members, x, routine=routine)
        stack.train_epoch(1)
        return stack

    return trials, trained


@pytest.mark.parametrize(
    "routine",
    [
        TORCH,
        *(pytest.param(r, marks=with_onednn) for r in (ONEDNN, MIXED)),
        pytest.param(TORCH + IN_C, marks=with_c),
        pytest.param(ONEDNN + IN_C, marks=[with_onednn, with_c]),
    ],
)
# The last minibatch has 1, 2, 9 and 10 samples; sizes of which no multiple fills cache lines.
@pytest.mark.parametrize(
    ("threads", "samples"), [(1, 31), (1, 32), (1, 39), (1, 40), (2, 31), (2, 39)]
)
@pytest.mark.parametrize(("units", "inputs"), [(17, 31), (257, 65)])
def test_a_member_is_the_trial_alone(routine, threads, samples, units, inputs):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        trials, trained = training_of(routine, units, inputs, samples)
        together, measured = trained(trials), trained(trials).measure()
        for row, trial in enumerate(trials):
            alone = trained([trial])
            assert torch.equal(together.W[row], alone.W[0])
            assert torch.equal(together.V[row], alone.V[0])
            assert torch.equal(together.b[row], alone.b[0])
            mine = alone.measure()
            assert measured.reconstruction_error[row] == mine.reconstruction_error[0]
            assert measured.regularization[row] == mine.regularization[0]
    finally:
        torch.set_num_threads(before)


@with_onednn
@with_c
@pytest.mark.parametrize("routine", [ONEDNN, TORCH + IN_C, ONEDNN + IN_C, MIXED + IN_C])
def test_routines_train_the_same_to_rounding(routine):
    trials, by_torch = training_of(TORCH, 33, 20, 41)
    _, other = training_of(routine, 33, 20, 41)
    torch.testing.assert_close(other(trials).W, by_torch(trials).W, rtol=1e-4, atol=1e-6)


@with_onednn
def test_double_precision_does_without_a_choice():
    (trial, *_), _ = training_of(TORCH, 6, 5, 12)
    stack = Stack([trial], torch.randn(12, 5), dtype=torch.float64, routine=ONEDNN)
    stack.train_epoch(1)
