"""The step in C: the closed forms, to the bit whatever compiled them, and done without."""

import ctypes
import dataclasses
import os

import pytest
import torch

from sparseae.engine import choice, choice_on_cpu
from sparseae.engine import library as module
from sparseae.engine.choice import IN_C, WHOLE, Shape, usable
from sparseae.engine.choice_on_cpu import VARIABLE, choose
from sparseae.engine.library import Buffers, Compiled, Steps, compiled, turned
from sparseae.engine.products import TORCH
from sparseae.engine.stack import Stack
from sparseae.engine.step import BACKENDS
from sparseae.errors import RequestError
from sparseae.model.activations import Gate, Polynomial
from sparseae.model.trial import FUNCTIONS, Training, Trial
from tests.marks import with_c

SHAPE = Shape(rows=10, inputs=31, units=17)
DTYPES = [torch.float32, torch.float64]
FLAGS = module._FLAGS

pytestmark = with_c


def noise(*sizes, dtype=torch.float64):
    stream = torch.Generator().manual_seed(1)
    return [torch.randn(size, generator=stream, dtype=torch.float64).to(dtype) for size in sizes]


def clear(*known):
    for cached in known:
        cached.cache_clear()


@pytest.fixture
def forget(monkeypatch):
    """Before and after: nothing is known of what is compiled and of what is fast."""
    known = (module.compiled, choice.usable, choice_on_cpu._fastest)
    monkeypatch.delenv(VARIABLE, raising=False)
    clear(*known)
    yield
    clear(*known)


#: The compiler's quickest: what is asked of a library is then not its speed.
QUICK = ("-O0", *(flag for flag in FLAGS if not flag.startswith("-O")))


@pytest.fixture
def cache(forget, tmp_path, monkeypatch):
    """The folder of what is compiled, quickly, which is not there yet."""
    monkeypatch.setattr(module, "_FLAGS", QUICK)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    clear(module._library)
    yield tmp_path / "sparseae"
    clear(module._library)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("inputs", [1, 15, 16, 37, 64])
@pytest.mark.parametrize("norms", [(1.0, 1.0), (0.0, 2.0), (0.0, float("inf"))])
@pytest.mark.parametrize("leave_out", ["nothing", "products", "factors", "db"])
def test_an_update_is_sgd_with_momentum_and_scaled_rows(dtype, inputs, norms, leave_out):
    m = 9
    W, V, G, b, vb, db, k = noise(*[(m, inputs)] * 3, *[m] * 4)
    W[2], V[2], G[2] = 0, 0, 0  # a row of zeros has no direction
    optional = {"products": G, "factors": k, "db": db}
    optional |= dict.fromkeys(optional.keys() & {leave_out})
    own = [t.clone().to(dtype) for t in (W, V, b, vb)]
    compiled(dtype).update(
        *own, momentum=0.9, learning_rate=0.01, norms=norms,
        **{key: None if t is None else t.to(dtype) for key, t in optional.items()},
    )  # fmt: skip

    V = V if optional["products"] is None else 0.9 * V + G
    V = V if optional["factors"] is None else V + k.unsqueeze(1) * W
    W = W - 0.01 * V
    length = W.norm(dim=1, keepdim=True)
    W = torch.where(length > 0, W / length * length.clamp(*norms), W)
    if optional["db"] is not None:
        vb = db + 0.9 * vb
        b = b - 0.01 * vb
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {}
    for computed, exact in zip(own, (W, V, b, vb), strict=True):
        torch.testing.assert_close(computed, exact.to(dtype), **tolerance)


def test_what_is_not_a_number_stays_visible():
    W, V, G = noise(*[(4, 20)] * 3)
    b, vb = noise(4, 4)
    G[1, 3], G[2, 17] = float("nan"), float("inf")
    compiled(torch.float64).update(
        W, V, b, vb, products=G, factors=None, db=None, momentum=0.9, learning_rate=0.1,
        norms=(1.0, 1.0),
    )  # fmt: skip
    assert W.isfinite().all(1).tolist() == [True, False, False, True]


def results(library: ctypes.CDLL, dtype: torch.dtype) -> list[torch.Tensor]:
    """All that two steps write, smooth and gated."""
    m, n, rows = 43, 101, 13
    found, written = Compiled(library, dtype), []
    for slope in (Polynomial(0.2, 1.0, -1.0), Gate()):
        member = noise(*[(m, n)] * 2, m, m, 1, dtype=dtype)
        x, eps, offset, bends, scales = noise((rows, n), (2 * rows, n), m, m, m, dtype=dtype)
        buffers = Buffers(member[0], 2 * rows, smooth=False, several=True)
        steps = Steps(
            found, member, buffers, 2, slope, sigma=0.3, scale=0.1, momentum=0.9, rate=0.01,
            decay=0.1, lowest=1.0, highest=1.0, bend=0.0, share=0.3, with_bias=True, lam=0.2,
        )  # fmt: skip
        steps.forward(x.data_ptr(), eps.data_ptr())
        steps.back(x.data_ptr(), offset, bends, scales)
        written += [*member[:4], buffers.X, buffers.A]
    return written


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_bits_do_not_depend_on_the_vector_registers(cache, monkeypatch, dtype):
    monkeypatch.setattr(module, "_FLAGS", FLAGS)
    here = results(module._library(dtype), dtype)
    capability = torch.backends.cpu.get_cpu_capability()
    other = {"AVX512": "AVX2", "AVX2": None}[capability]
    # Narrower registers, or on an older machine two operations at a time.
    flags = module._VECTORS[other] if other else ("-mavx",)
    monkeypatch.setitem(module._VECTORS, capability, flags)
    module._library.cache_clear()
    for one, other in zip(results(module._library(dtype), dtype), here, strict=True):
        assert torch.equal(one, other)
    assert len(list(cache.iterdir())) == 2  # each under a name of its own


def test_it_is_compiled_once(cache):
    assert compiled(torch.float32)
    (made,) = cache.iterdir()
    before = made.stat().st_mtime_ns
    module._library.cache_clear()
    assert module._library(torch.float32) is not None
    assert [made] == list(cache.iterdir())
    assert made.stat().st_mtime_ns == before


@pytest.mark.parametrize("which", ["folder", "one above", "file"])
@pytest.mark.parametrize("how", ["written by others", "another user's"])
def test_what_others_could_have_put_into_the_cache_is_not_loaded(cache, monkeypatch, which, how):
    assert module._library(torch.float32) is not None
    (made,) = cache.iterdir()
    place = {"folder": cache, "one above": cache.parent, "file": made}[which]
    if how == "written by others":
        place.chmod(0o777)
    elif os.geteuid() == 0:
        os.chown(place, 65534, 0)
    else:
        pytest.skip("only root can give a file away")
    loaded = []
    monkeypatch.setattr(module, "_loaded", lambda file, *_: loaded.append(file))
    module._library.cache_clear()
    module._library(torch.float32)
    assert loaded  # it is made again, in a folder of this process
    assert not any(file.is_relative_to(cache) for file in loaded)


def test_a_cache_that_cannot_be_written_is_done_without(cache):
    cache.write_text("not a folder")
    assert usable(TORCH + IN_C, SHAPE)


@pytest.mark.parametrize("compiler", ["no-such-compiler", "false"])
def test_without_a_compiler_torch_makes_the_step(cache, monkeypatch, caplog, compiler):
    monkeypatch.setenv("CC", compiler)
    assert not usable(TORCH + IN_C, SHAPE)
    assert choice.parts(choose(SHAPE, threads=1))[1] == ""
    # A compiler that fails is worth a word; one that is not there is not.
    assert [r.levelname for r in caplog.records] == (["WARNING"] if compiler == "false" else [])
    monkeypatch.setenv(VARIABLE, TORCH + IN_C)
    with pytest.raises(RequestError, match=r"torch\+c is missing or wrong"):
        choose(SHAPE, threads=1)
    assert choice.substitute(TORCH + IN_C, SHAPE) == TORCH


WRONG = {
    "the noise": ("s->sigma * eps", "s->sigma * s->sigma * eps"),
    "encoding": (".ldb = padded, .alpha = 1,", ".ldb = padded, .alpha = 1.01,"),
    "the residual": (".beta = -scale", ".beta = -1.01 * scale"),
    "the way back": ("di += k * *(const eight *)", "di -= k * *(const eight *)"),
    "the slope": ("(c1 + c2 * (h))", "(c1 - c2 * (h))"),
    "the weight gradient": (".beta = momentum", ".beta = momentum * momentum"),
    "the penalty": ("s->lam * s->share", "s->lam"),
    "the update": ("wi -= rate * vi", "wi += rate * vi"),
    "a row that is short": ("norm < lowest ||", ""),
    "a row that is long": ("|| norm > highest", ""),
    "a later block of units": ("s->b + j, s->vb + j", "s->b, s->vb"),
    "the decay": ("s->decay * W[i]", "W[i]"),
    "relu": ("chosen(x < zero, zero, x)", "chosen(x < zero, x, zero)"),
    "sigmoid": ("1.0 / 6,", "1.0 / 5,"),
    "tanh": ("x = 2 * x - 1", "x = 2 * x"),
    "the penalty of the mean": ("? s->pole : rho", "? 0 : rho"),
    "the next step": ("x += apart", "x += 0"),
    "the probe": ("*s->probe +=", "*s->probe -="),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_compiler_that_computes_wrong_is_not_used(cache, monkeypatch, tmp_path, what):
    right, wrong = WRONG[what]
    source = "".join(file.read_text() for file in module._SOURCES)
    assert right in source
    (tmp_path / "step.c").write_text(source.replace(right, wrong))
    monkeypatch.setattr(module, "_SOURCES", [tmp_path / "step.c"])
    assert compiled(torch.float32) is None


@pytest.mark.parametrize(("in_c", "chosen"), [(0.8, TORCH + WHOLE), (0.95, TORCH), (2.0, TORCH)])
def test_it_is_chosen_where_whole_steps_gain_by_it(forget, monkeypatch, in_c, chosen):
    def least(calls):
        return {name: in_c if name.endswith(WHOLE) else 1.0 for name in calls}

    monkeypatch.setattr(choice_on_cpu, "_least", least)
    assert choose(SHAPE, threads=1) == chosen


@pytest.mark.parametrize("threads", [1, 2])
def test_whatever_is_chosen_can_be_used(forget, threads):
    assert usable(choose(Shape(50, 64, 256), threads), Shape(50, 64, 256))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 6, 16, 50, 71])
@pytest.mark.parametrize("units", [1, 7, 24])
@pytest.mark.parametrize("inputs", [1, 15, 16, 64, 83, 112])
def test_products(dtype, rows, units, inputs):
    x, W, b, V, A, X = noise(
        (rows, inputs), (units, inputs), units, (units, inputs), (units, 2 * rows),
        (2 * rows, inputs), dtype=dtype,
    )  # fmt: skip
    c = compiled(dtype)
    # Room that is longer than a minibatch, as the measurement's last chunk has it.
    wide = turned(W, rows + 3, units)
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {}

    def close(one, other):
        torch.testing.assert_close(one, other, **tolerance)

    h = c.encode(x, W, b)
    close(h, x @ W.T + b)
    close(c.encode(x, W, None, wide[:rows]), x @ W.T)
    for own in (h, wide[:rows], (x @ W.T).contiguous()):
        close(c.decode(own, W, torch.empty_like(x)), own @ W)
        close(c.residual(own, W, x, 0.3, torch.empty_like(x)), 0.3 * (own @ W - x))
    close(c.gradient(A, X, V.clone(), 0.9), 0.9 * V + A @ X)


@pytest.mark.parametrize("corruptions", [1, 2])
@pytest.mark.parametrize("model", ["ae", "dae", "dae_pairs", "cae", "mdae"])
def test_a_run_in_one_call_has_the_bits_of_its_steps(model, corruptions):
    """Where the activation's are torch's: those of relu."""
    x = torch.randn(57, 19, generator=torch.Generator().manual_seed(1))
    training = Training(hidden_units=13, batch_size=10, learning_rate=0.01, corruptions=corruptions)
    trials = [
        Trial(model=model, activation="relu", sigma2=sigma2, constraint="unit_norm", dataset="d",
              seed=0, training=training) for sigma2 in (0.0, 0.5)
    ]  # fmt: skip
    whole, apart = (Stack(trials, x, routine=TORCH + way) for way in (WHOLE, IN_C))
    for stack in (whole, apart):
        for epoch in (1, 2):
            stack.train_epoch(epoch)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, apart.state_dict()[name])


@pytest.mark.parametrize("units", [47, 48, 49, 96, 131])
@pytest.mark.parametrize(
    ("model", "activation", "constraint"),
    [("dae", "relu", "unit_norm"), ("cae", "softplus", "none"), ("mdae", "sigmoid", "weight_decay"),
     ("sae", "tanh", "max_norm")],
)  # fmt: skip
def test_any_number_of_units_steps_as_by_torch(units, model, activation, constraint):
    """Whole blocks of units, which come back through their weights together, and what is left."""
    x = torch.randn(57, 21, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    training = Training(
        hidden_units=units, batch_size=18, learning_rate=0.01, weight_decay=0.1, max_norm=0.9
    )
    trial = Trial(model=model, activation=activation, sigma2=0.5, constraint=constraint,
                  dataset="d", seed=0, training=training)  # fmt: skip
    made, known = (Stack([trial], x, dtype=x.dtype, routine=TORCH + way) for way in (WHOLE, ""))
    for stack in (made, known):
        stack.train_epoch(1)
    for name, tensor in made.state_dict().items():
        torch.testing.assert_close(tensor, known.state_dict()[name], rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", ["relu", "sigmoid", "tanh"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_an_activation_is_right_to_the_last_digits_and_beyond_what_exp_holds(dtype, name):
    last = torch.finfo(dtype)
    # Every length of a rest behind the last whole register, and what has no exponential.
    a = torch.cat([torch.linspace(-90, 90, 1009), torch.tensor([1e4, -1e4, -0.0, torch.inf])])
    a = torch.cat([a.to(dtype), a.new_tensor([-torch.inf, torch.nan])])
    call = module._library(dtype)["activate"]
    call.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_long, ctypes.c_int]
    room = a.new_zeros(a.numel() + 16)
    room[: a.numel()] = a
    number = {"relu": 1, "sigmoid": 2, "tanh": 3}[name]
    call(room.data_ptr(), room.data_ptr(), a.numel(), number)
    h, exact = room[: a.numel()], getattr(torch, name)(a.double())
    assert h[-1].isnan()
    near = {"rtol": 2 * last.eps, "atol": 4 * last.eps if name == "tanh" else 2 * last.tiny}
    torch.testing.assert_close(h[:-1].double(), exact[:-1], **near)


def made(
    model: str, activation: str, constraint: str, routine: str, dtype=torch.float64, **keys
) -> Stack:
    """Two members, trained for an epoch of which the last minibatch is short."""
    x = torch.randn(27, 11, generator=torch.Generator().manual_seed(1)).to(dtype)
    training = Training(hidden_units=8, batch_size=10, learning_rate=0.02, **keys)
    trials = [
        Trial(model=model, activation=activation, sigma2=sigma2, constraint=constraint,
              dataset="d", seed=3, training=training) for sigma2 in (0.0, 0.5)
    ]  # fmt: skip
    stack = Stack(trials, x, dtype=dtype, routine=routine)
    stack.train_epoch(1)
    return stack


@pytest.mark.parametrize("products", [TORCH, "onednn"])
@pytest.mark.parametrize("constraint", ["unit_norm", "weight_decay"])
@pytest.mark.parametrize("model", ["edae", "dae2"])
def test_an_update_in_c_goes_with_the_products_of_any_routine(model, constraint, products):
    """Of a model that no step in C knows: the gradient is torch's."""
    if not usable(products + IN_C, SHAPE):
        pytest.skip(f"no {products} here")
    one, other = (
        made(model, "sigmoid", constraint, routine, torch.float32, weight_decay=0.5)
        for routine in (products + IN_C, TORCH)
    )
    for mine, known in ((one.W, other.W), (one.b, other.b), (one.V, other.V)):
        torch.testing.assert_close(mine, known, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("model", "activation", "constraint", "keys", "whole"),
    [
        ("cae", "sigmoid", "unit_norm", {}, True),
        ("cae", "tanh", "unit_norm", {}, True),
        ("mdae", "relu", "unit_norm", {}, True),
        ("cae", "softplus", "unit_norm", {}, False),  # whose exponential is torch's
        ("cae", "sigmoid", "none", {}, False),  # whose lengths a step asks torch for
        ("dae", "sigmoid", "none", {}, True),
        ("sae", "sigmoid", "none", {}, True),
        ("sae", "sigmoid", "unit_norm", {"rho": 0.05}, False),
        ("corollary1", "sigmoid", "unit_norm", {"f": "square"}, False),
    ],
)
def test_a_run_is_one_call_where_the_loops_know_all_of_it(
    monkeypatch, model, activation, constraint, keys, whole
):
    assert compiled(torch.float64)  # it is asked for steps of its own
    calls = []
    known = Steps.run, Steps.forward
    for name, method in zip(("run", "forward"), known, strict=True):

        def counting(self, *args, name=name, method=method):
            calls.append(name)
            method(self, *args)

        monkeypatch.setattr(Steps, name, counting)
    made(model, activation, constraint, TORCH + WHOLE, **keys)
    assert set(calls) == {"run" if whole else "forward"}
    calls.clear()
    made(model, activation, constraint, TORCH + IN_C, **keys)
    assert set(calls) == {"forward"}


@pytest.mark.parametrize("way", [IN_C, WHOLE])
@pytest.mark.parametrize("constraint", ["unit_norm", "none"])
@pytest.mark.parametrize("activation", ["relu", "sigmoid", "softplus", "maxout"])
@pytest.mark.parametrize(
    ("model", "keys"),
    [
        *(("corollary2", {"q": 2, "p": p}) for p in range(5)),
        *(("corollary2", {"q": q, "p": 2}) for q in (1, 3)),
        *(("corollary1", {"f": f}) for f in FUNCTIONS),
        ("sae", {}),
        ("sae", {"rho": 0.05}),
        ("sae", {"encoder_bias": False}),
        ("edae", {"encoder_bias": False}),
    ],
)
def test_a_penalty_of_any_power_and_any_f_is_torchs(model, keys, activation, constraint, way):
    one, other = (
        made(model, activation, constraint, routine, **keys) for routine in (TORCH + way, TORCH)
    )
    for mine, known in ((one.W, other.W), (one.b, other.b), (one.V, other.V)):
        torch.testing.assert_close(mine, known, rtol=1e-9, atol=1e-11)


def test_what_the_steps_in_c_do_not_take_they_say():
    c, kept = BACKENDS["c"], made("cae", "sigmoid", "none", TORCH).problem
    assert c.refuses(kept) is None
    assert c.refuses(dataclasses.replace(kept, together=2)) == "it steps one member at a time"
    edae = made("edae", "sigmoid", "none", TORCH).problem
    assert c.refuses(edae) == "edae is of no form that it knows"
    mine = type("Mine", (type(kept.model.penalty),), {})(2, 2)
    model = type("Model", (type(kept.model),), {"penalty": mine})(kept.training)
    unknown = "cae's penalty is of no form that it knows"
    assert c.refuses(dataclasses.replace(kept, model=model)) == unknown
    cubed = made("corollary2", "sigmoid", "none", TORCH, q=3).problem
    assert c.refuses(cubed) == "it knows the square of a slope, not the power 3"
    assert c.refuses(made("corollary2", "relu", "none", TORCH, q=3).problem) is None


def test_what_the_steps_in_c_lack_they_say():
    c, cpu = BACKENDS["c"], torch.device("cpu")
    assert c.missing(cpu, torch.float64) is None
    assert c.missing(cpu, torch.float16) == "no C compiler, or no AVX2"
    assert c.missing(torch.device("meta"), torch.float64) == "it is not for meta"
