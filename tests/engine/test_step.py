"""What a group of members has for a step, and how a backend is found."""

import pytest
import torch

from sparseae.engine.stack import Stack
from sparseae.engine.step import BACKENDS, Backend
from tests.engine.test_stack import data, trials


def members(seeds, sigma2=(0.0, 0.25, 1.0)):
    stack = Stack(trials("cae", "sigmoid", sigma2=sigma2, seeds=seeds), data(), together=9)
    (group,) = stack.groups
    return group


@pytest.mark.parametrize("seeds", [(5,), (5, 3), (2, 9, 4)])
def test_each_member_gets_what_is_its_seeds(seeds):
    group = members(seeds)
    # Of a stack's seeds, in order; members go through theirs for each sigma2.
    wanted = [sorted(seeds).index(seed) for _ in range(3) for seed in seeds]
    assert group.seeds == wanted
    assert group.seed_rows.tolist() == wanted
    assert group.one_seed == (len(seeds) == 1)
    x = torch.randn(len(seeds), 4, 5, 6)
    assert torch.equal(group.of_members(x), x[wanted])


def test_some_of_a_stacks_seeds_are_found_among_all():
    stack = Stack(trials(seeds=(7, 2)), data())
    assert stack.seeds == [2, 7]
    assert [group.seeds for group in stack.groups] == [[1], [0]] * 3
    assert all(group.one_seed for group in stack.groups)
    x = torch.randn(2, 3)
    assert torch.equal(stack.groups[0].of_members(x)[0], x[1])


@pytest.mark.parametrize("unit_rows", [False, True])
def test_a_groups_network_is_of_its_weights(unit_rows):
    group = members((1, 2))
    net = group.network(unit_rows)
    assert net.W is group.W
    assert net.b is group.b
    assert (net.row_norms() is None) == unit_rows


def test_a_group_on_another_device_finds_its_seeds_there():
    stack = Stack(trials(), data(), device="meta")
    assert stack.groups[0].seed_rows.device.type == "meta"


def test_a_backend_with_a_name_is_found_by_it_and_one_without_is_not(monkeypatch):
    known = dict(BACKENDS)
    assert set(known) >= {"torch", "c", "triton"}
    assert all(backend.name == name for name, backend in known.items())

    class Unnamed(Backend):
        def missing(self, device, dtype):
            return "all"

        def refuses(self, problem):
            return None

        def build(self, problem, groups, variant):
            return []

    assert known == BACKENDS
    monkeypatch.setitem(BACKENDS, "named", known["torch"])

    class Named(Unnamed):
        name = "named"

    assert isinstance(BACKENDS["named"], Named)

    class Deeper(Named):
        """Its name is its parent's: it does not take the place."""

    assert type(BACKENDS["named"]) is Named
