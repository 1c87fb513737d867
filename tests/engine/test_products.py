"""The matrix products: each routine's, of a member alone and of all at once, and their names."""

import pytest
import torch

from sparseae.engine.choice import Shape, usable
from sparseae.engine.products import (
    PRODUCTS,
    ROUTINES,
    TORCH,
    Alone,
    Batched,
    Mixed,
    Routine,
    Torch,
    joined,
    names_of,
    routine_of,
)
from sparseae.model.network import Network

ONEDNN = "onednn"
MEMBERS = 3

with_onednn = pytest.mark.skipif(
    not usable(ONEDNN, Shape(10, 31, 17)), reason="this build of torch has no oneDNN"
)


def operands(*lead: int) -> dict[str, torch.Tensor]:
    """Operands of each product, of a member or of some."""
    sizes = {
        "x": (5, 7),
        "W": (4, 7),
        "b": (4,),
        "h": (5, 4),
        "A": (4, 6),
        "X": (6, 7),
        "V": (4, 7),
    }
    stream = torch.Generator().manual_seed(0)
    return {name: torch.randn(*lead, *size, generator=stream) for name, size in sizes.items()}


class Noted(Torch):
    """Torch, which notes each product that it is asked for, with its operands."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []


def _noting(name: str):
    def call(self, *operands):
        self.calls.append((name, *operands))
        return getattr(Torch, name)(self, *operands)

    return call


for _name in ("encode", "decode", "residual", "gradient"):
    setattr(Noted, _name, _noting(_name))


def close(one, other):
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("routine", "lead"),
    [
        (ROUTINES[TORCH], ()),
        pytest.param(ROUTINES[ONEDNN], (), marks=with_onednn),
        (Batched(), (MEMBERS,)),
    ],
)
@torch.inference_mode()
def test_a_routine_makes_each_product_where_it_is_asked_to(routine, lead):
    t = operands(*lead)
    x, W, b, h, A, X, V = (t[name] for name in "xWbhAXV")
    of_rows = b.unsqueeze(-2)
    close(routine.encode(x, W, b), x @ W.mT + of_rows)
    close(routine.encode(x, W, None), x @ W.mT)
    for bias, exact in ((b, x @ W.mT + of_rows), (None, x @ W.mT)):
        close(routine.encode(x, W, bias, torch.full_like(h, 9.0)), exact)
    for call, exact in (
        (lambda out: routine.decode(h, W, out), h @ W),
        (lambda out: routine.residual(h, W, x, 0.3, out), 0.3 * (h @ W - x)),
    ):
        room = torch.full_like(x, 9.0)
        assert call(room) is room
        close(room, exact)
    sums = V.clone()
    assert routine.gradient(A, X, sums, 0.9) is sums
    close(sums, 0.9 * V + A @ X)


@pytest.mark.parametrize(("routine", "lead"), [(ROUTINES[TORCH], ()), (Batched(), (MEMBERS,))])
def test_torch_encodes_into_the_room_that_it_is_given(routine, lead):
    t = operands(*lead)
    for bias in (t["b"], None):
        room = torch.empty_like(t["h"])
        assert routine.encode(t["x"], t["W"], bias, room) is room


def test_what_adds_within_the_product_leaves_nothing_to_be_added():
    t = operands()
    sums = t["V"].clone()
    assert ROUTINES[TORCH].accumulate(t["A"], t["X"], sums, 0.9) is None
    close(sums, 0.9 * t["V"] + t["A"] @ t["X"])


@with_onednn
def test_what_cannot_add_leaves_it_to_the_pass_that_follows():
    t = operands()
    sums = t["V"].clone()
    close(ROUTINES[ONEDNN].accumulate(t["A"], t["X"], sums, 0.9), t["A"] @ t["X"])
    assert torch.equal(sums, t["V"])


def test_hidden_units_are_left_as_encode_leaves_them():
    like = torch.zeros(2, dtype=torch.float64)
    room = ROUTINES[TORCH].hidden(like, 5, 4)
    assert (room.shape, room.dtype) == ((5, 4), torch.float64)


def test_a_routine_with_a_name_registers_itself(monkeypatch):
    monkeypatch.setitem(ROUTINES, "mine", None)  # and is forgotten
    known = set(ROUTINES)
    mine = type("Mine", (Routine,), {"name": "mine"})
    assert isinstance(ROUTINES["mine"], mine)
    type("Nameless", (mine,), {})
    assert ROUTINES.keys() == known
    assert type(ROUTINES["mine"]) is mine


def test_a_choice_names_one_routine_or_one_for_each_product():
    assert names_of("a") == ["a", "a", "a"]
    assert names_of("a/b/c") == ["a", "b", "c"]
    for choice in ("a/b", "a/b/c/d"):
        with pytest.raises(ValueError, match=r"^'a/b.*neither one.*for encode, decode, gradient$"):
            names_of(choice)
    assert joined(["a", "a", "a"]) == "a"
    assert joined(["a", "b", "a"]) == "a/b/a"


def test_each_product_is_its_own_routines(monkeypatch):
    one, two, three = (type(name, (Torch,), {})() for name in "ABC")
    monkeypatch.setattr("sparseae.engine.products.ROUTINES", {"a": one, "b": two, "c": three})
    mixed = routine_of("a/b/c")
    assert isinstance(mixed, Mixed)
    assert len(PRODUCTS) == 3
    assert mixed.encode == one.encode
    assert (mixed.decode, mixed.residual) == (two.decode, two.residual)
    assert (mixed.gradient, mixed.accumulate) == (three.gradient, three.accumulate)
    assert routine_of("b") is routine_of("b/b/b") is two
    for choice in ("a/a/b", "a/b/b", "a/b/a"):
        assert isinstance(routine_of(choice), Mixed)
    with pytest.raises(KeyError):
        routine_of("a/d/a")


@pytest.mark.parametrize("routine", ["torch", pytest.param(ONEDNN, marks=with_onednn)])
@torch.inference_mode()
def test_a_member_alone_has_the_products_of_a_network(routine):
    t = operands(1)
    x, W, b, h = (t[name] for name in "xWbh")
    alone, network = Alone(W, b, ROUTINES[routine]), Network(W, b)
    assert alone.W is W
    assert alone.b is b
    before = {name: tensor.clone() for name, tensor in t.items()}
    for mine, known in (
        (alone.encode(x), network.encode(x)),
        (alone.back(x), network.back(x)),
        (alone.back(x, 2 * b), network.back(x, 2 * b)),
        (alone.decode(h), network.decode(h)),
        (alone.residual(h, x), network.residual(h, x)),
        (alone.residual(h, x, 0.3), network.residual(h, x, 0.3)),
        (alone.product(t["A"], t["X"]), network.product(t["A"], t["X"])),
        (alone.row_norms(), W.norm(dim=2)),
    ):
        assert mine.shape == known.shape
        close(mine, known)
    for name, tensor in t.items():
        assert torch.equal(tensor, before[name])
    assert Alone(W, b, ROUTINES[routine], unit_rows=True).row_norms() is None


def test_a_member_alone_is_computed_by_its_routine():
    t, noted = operands(1), Noted()
    alone = Alone(t["W"], t["b"], noted)
    alone.encode(t["x"])
    alone.back(t["x"])
    alone.decode(t["h"])
    alone.residual(t["h"], t["x"])
    assert [name for name, *_ in noted.calls] == ["encode", "encode", "decode", "residual"]
