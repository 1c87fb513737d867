"""Every way to compute a step, on every registered model x activation x constraint.

A class that registers itself is asked here without a line being added. What a backend refuses
stands in `REFUSED`; what this machine lacks is skipped with the reason.
"""

import dataclasses
import functools
import itertools

import pytest
import torch

from sparseae.engine import randomness
from sparseae.engine.choice import IN_C, ON_CARD, WHOLE, measuring_sums
from sparseae.engine.measurements import Measurer
from sparseae.engine.minibatches import Minibatches
from sparseae.engine.products import TORCH
from sparseae.engine.stack import Stack
from sparseae.engine.step import BACKENDS
from sparseae.model import ACTIVATIONS, CONSTRAINTS, MODELS
from sparseae.model.coefficients import Coefficients
from sparseae.model.network import Network
from sparseae.model.trial import Training, Trial
from tests.marks import with_c

TRAINING = Training(
    hidden_units=8, batch_size=10, learning_rate=0.002, corruptions=2, max_norm=0.8,
    weight_decay=0.1, rho=0.05,
)  # fmt: skip
SAMPLES, INPUTS = 57, 6  # five minibatches, and a short one: six steps

#: How a stack is made to train in each way, and whether a member's bits are those of it alone.
ROUTINES = {
    "torch": TORCH,
    "c": TORCH + IN_C,
    "c-run": TORCH + WHOLE,
    "triton": f"{TORCH}{ON_CARD}triton-a",
}
WAYS = [
    pytest.param("torch", None, id="torch"),
    pytest.param("torch", 6, id="torch-at-once"),
    pytest.param("c", None, id="c", marks=with_c),
    pytest.param("c-run", None, id="c-run", marks=with_c),
]

#: What a backend does not take: models, and activations. Everything else it must.
OF_NO_FORM = {"edae", "cae_h", "dae2", "dae_bias", "dae_weights"}
REFUSED = {
    "torch": (set(), set()),
    "c": (OF_NO_FORM, set()),
    "triton": (OF_NO_FORM, {"maxout"}),
}

KINDS = list(itertools.product(MODELS, ACTIVATIONS, CONSTRAINTS))
#: Every model and activation with one constraint, every constraint with one activation.
FEWER = [
    (model, activation, constraint)
    for model, activation, constraint in KINDS
    if constraint == "unit_norm" or activation == "sigmoid"
]


def trials(model, activation, constraint, sigma2=(0.0, 0.25, 1.0), seeds=(0, 1), **training):
    how = dataclasses.replace(TRAINING, **training)
    return [
        Trial(model=model, activation=activation, sigma2=s2, constraint=constraint, dataset="d",
              seed=seed, training=how)
        for s2, seed in itertools.product(sigma2, seeds)
    ]  # fmt: skip


@functools.cache
def data(dtype=torch.float64) -> torch.Tensor:
    stream = torch.Generator().manual_seed(1)
    return torch.randn(SAMPLES, INPUTS, generator=stream).to(dtype)


def stack_of(members, backend, together, x=None) -> Stack:
    together = None if together is None else len(members)
    x = data() if x is None else x
    return Stack(members, x, dtype=x.dtype, routine=ROUTINES[backend], together=together)


@functools.cache
def reference(model, activation, constraint) -> tuple[torch.Tensor, torch.Tensor]:
    """W and b of the members after an epoch, each by its own steps of `Model.gradient`."""
    final = []
    for trial in trials(model, activation, constraint):
        t = trial.training
        objective, s, rule = MODELS[model](t), ACTIVATIONS[activation](), CONSTRAINTS[constraint]()
        W = randomness.initial_weights(trial.seed, t.hidden_units, INPUTS).double().unsqueeze(0)
        b, V, vb = W.new_zeros(1, t.hidden_units), torch.zeros_like(W), 0.0
        c = Coefficients.of([trial], W)
        rule.project(W, c)
        draws = objective.encoder_input.draws
        for run in Minibatches(data(), [trial.seed], t.batch_size, draws).runs(1):
            for step, x in enumerate(run.x):
                eps = None if run.eps is None else run.eps[step]
                gradient = objective.gradient(Network(W, b), x, eps, s, c)
                V = t.momentum * V + gradient.weights(W)
                if (decay := rule.decay(c)) is not None:
                    V = V + decay.number * W
                vb = t.momentum * vb + gradient.db
                W, b = W - t.learning_rate * V, b - t.learning_rate * vb
                rule.project(W, c)
        final.append((W[0], b[0]))
    return torch.stack([W for W, _ in final]), torch.stack([b for _, b in final])


@pytest.mark.parametrize(("backend", "together"), WAYS)
@pytest.mark.parametrize(("model", "activation", "constraint"), KINDS)
def test_six_steps_are_the_references(model, activation, constraint, backend, together):
    stack = stack_of(trials(model, activation, constraint), backend, together)
    backend = backend.removesuffix("-run")
    refused = BACKENDS[backend].refuses(stack.problem)
    models, activations = REFUSED[backend]
    assert (refused is not None) == (model in models or activation in activations), refused
    kept = stack.x.clone()
    stack.train_epoch(1)
    W, b = reference(model, activation, constraint)
    torch.testing.assert_close(stack.W, W, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(stack.b, b, rtol=1e-9, atol=1e-11)
    assert torch.equal(stack.x, kept)


@pytest.mark.parametrize(("backend", "together"), WAYS)
@pytest.mark.parametrize(("model", "activation", "constraint"), FEWER)
def test_a_member_is_the_trial_alone(model, activation, constraint, backend, together):
    """Where members step apart to the bit, otherwise to rounding; what is measured too."""
    members, x = trials(model, activation, constraint), data(torch.float32)
    whole = stack_of(members, backend, together, x)
    whole.train_epoch(1)
    measured = whole.measure()
    for row in (0, 3):
        alone = stack_of(members[row : row + 1], backend, together, x)
        alone.train_epoch(1)
        mine = alone.measure()
        if together is None:
            assert torch.equal(whole.W[row], alone.W[0])
            assert torch.equal(whole.b[row], alone.b[0])
            assert measured.rows()[row] == mine.rows()[0]
        else:
            torch.testing.assert_close(whole.W[row], alone.W[0])
            together_, alone_ = measured.rows()[row], mine.rows()[0]
            assert together_.pop("status") == alone_.pop("status") == "ok"
            assert together_ == pytest.approx(alone_, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(("backend", "together"), WAYS)
@pytest.mark.parametrize("model", MODELS)
def test_what_is_not_a_number_stays_in_its_lane(model, backend, together):
    members = trials(model, "sigmoid", "none")
    wild = trials(model, "sigmoid", "none", sigma2=(0.25,), seeds=(0,), learning_rate=1e300)
    stack = stack_of([members[0], *wild, *members[1:]], backend, together)
    stack.train_epoch(1)
    calm = stack_of(members, backend, together)
    calm.train_epoch(1)
    assert stack.measure().diverged.tolist() == [False, True] + [False] * 5
    torch.testing.assert_close(stack.W[[0, 2, 3, 4, 5, 6]], calm.W, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("backend", "together"), WAYS)
@pytest.mark.parametrize("constraint", CONSTRAINTS)
@pytest.mark.parametrize("model", MODELS)
def test_a_row_of_zeros_has_no_direction_and_makes_no_nan(model, constraint, backend, together):
    stack = stack_of(trials(model, "relu", constraint), backend, together)
    stack.W[:, 3] = 0
    stack.train_epoch(1)
    assert stack.W.isfinite().all()
    assert not stack.diverged.any()


@pytest.mark.parametrize(("backend", "together"), WAYS)
def test_two_stacks_that_take_turns_do_not_disturb_each_other(backend, together):
    one, other = (stack_of(trials("cae", name, "none"), backend, together)
                  for name in ("sigmoid", "tanh"))  # fmt: skip
    for first, second in zip(one.minibatches.runs(1), other.minibatches.runs(1), strict=True):
        one.run(first)
        other.run(second)
    for stack, name in ((one, "sigmoid"), (other, "tanh")):
        torch.testing.assert_close(stack.W, reference("cae", name, "none")[0])


@pytest.mark.parametrize(("backend", "together"), WAYS)
def test_the_weights_stay_where_they_are(backend, together):
    """What a graph has recorded, and what a stack's views rest on, is addresses."""
    stack = stack_of(trials("sae", "sigmoid", "max_norm"), backend, together)
    before = [t.data_ptr() for t in (stack.W, stack.V, stack.b, stack.vb, stack.parameters)]
    views = [group.data_ptr() for step in stack.groups for group in (step.W, step.V, step.b)]
    stack.train_epoch(1)
    assert before == [t.data_ptr() for t in (stack.W, stack.V, stack.b, stack.vb, stack.parameters)]
    assert views == [
        group.data_ptr() for step in stack.groups for group in (step.W, step.V, step.b)
    ]


WITHOUT_TRITON = BACKENDS["triton"].missing(torch.device("cpu"), torch.float64)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of lanes that are masked
@pytest.mark.skipif(WITHOUT_TRITON is not None, reason=str(WITHOUT_TRITON))
@pytest.mark.parametrize(("model", "activation", "constraint"), FEWER)
def test_the_fused_kernels_steps_are_the_references(model, activation, constraint):
    """Two steps of two members, the second of a short minibatch, in Triton's interpreter."""
    members = trials(model, activation, constraint)[3:5]
    x = data()[:17]
    stack, other = (stack_of(members, backend, 2, x) for backend in ("triton", "torch"))
    refused = BACKENDS["triton"].refuses(stack.problem)
    models, activations = REFUSED["triton"]
    assert (refused is not None) == (model in models or activation in activations), refused
    if refused:
        return
    assert type(stack.steps[0]).__name__ == "TritonStep"
    for either in (stack, other):
        either.train_epoch(1)
    # The numbers that Triton takes from Python are in float32.
    for mine, known in ((stack.W, other.W), (stack.V, other.V), (stack.b, other.b)):
        torch.testing.assert_close(mine, known, rtol=1e-6, atol=1e-7)
    assert (stack.probe > 0).all()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of lanes that are masked
@pytest.mark.skipif(WITHOUT_TRITON is not None, reason=str(WITHOUT_TRITON))
@pytest.mark.parametrize(("model", "activation"), list(itertools.product(MODELS, ACTIVATIONS)))
def test_the_fused_kernels_measure_what_the_products_do(model, activation):
    """Two members on two whole chunks and a short one, weights of any length."""
    members = trials(model, activation, "none")[3:5]
    stack = stack_of(members, "torch", 2)
    fused, chosen = BACKENDS["triton"], ROUTINES["triton"]
    sums = measuring_sums(stack.problem, chosen)
    assert (sums is None) == (fused.refuses(stack.problem) is not None)
    if sums is None:
        return
    stack.b.copy_(torch.linspace(-1, 1, stack.b.numel()).view_as(stack.b))
    numbers = Coefficients.of(members, stack.W)
    measured, known = (
        Measurer(
            stack.problem, numbers, stack.x, stack.W, stack.b, None, 2, rows=20, chunk_sums=way
        ).measure(torch.zeros(2, dtype=torch.bool))
        for way in (sums, None)
    )  # fmt: skip
    for mine, theirs in zip(measured.rows(), known.rows(), strict=True):
        assert mine.pop("status") == theirs.pop("status") == "ok"
        assert mine == pytest.approx(theirs, rel=1e-6)
    for name in ("activation_fraction", "pre_activation_mean", "weight_norm"):
        torch.testing.assert_close(getattr(measured.units, name), getattr(known.units, name))
