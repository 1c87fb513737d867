"""The points of a space, written out: products, pairs, blocks, and what narrows them."""

import itertools

import pytest

from sparseae.model.space import (
    ZIP,
    axes_of,
    blocks,
    dimensions,
    every_value,
    narrowing,
    points,
    size,
)

PLAIN = {"model": ("cae", "dae"), "sigma2": (0.0, 0.25, 1.0), "seed": (0,)}
PAIRED = {ZIP: (("rate", "units"),), "rate": (0.1, 0.2), "model": ("cae", "dae"), "units": (8, 4)}


def test_a_block_is_the_product_of_its_axes_the_last_fastest():
    assert size(PLAIN) == 6
    assert list(points(PLAIN)) == [
        {"model": model, "sigma2": sigma2, "seed": 0}
        for model, sigma2 in itertools.product(("cae", "dae"), (0.0, 0.25, 1.0))
    ]
    assert list(dimensions(PLAIN)) == [
        (("model",), [("cae",), ("dae",)]),
        (("sigma2",), [(0.0,), (0.25,), (1.0,)]),
        (("seed",), [(0,)]),
    ]


def test_paired_axes_go_together_at_the_place_of_the_first():
    assert axes_of(PAIRED) == ["rate", "model", "units"]
    assert size(PAIRED) == 4
    assert list(dimensions(PAIRED)) == [
        (("rate", "units"), [(0.1, 8), (0.2, 4)]),
        (("model",), [("cae",), ("dae",)]),
    ]
    assert [tuple(point.items()) for point in points(PAIRED)] == [
        (("rate", 0.1), ("units", 8), ("model", "cae")),
        (("rate", 0.1), ("units", 8), ("model", "dae")),
        (("rate", 0.2), ("units", 4), ("model", "cae")),
        (("rate", 0.2), ("units", 4), ("model", "dae")),
    ]


def test_axes_of_different_lengths_are_no_pair():
    with pytest.raises(ValueError, match="zip"):
        list(points(PAIRED | {"units": (8, 4, 2)}))


@pytest.mark.parametrize("several", [False, True])
def test_a_block_has_the_pairs_of_the_configuration_that_concern_it_unless_it_has_its_own(several):
    pairs = [["rate", "units"], ["p", "q"]]
    first = {"rate": [1], "units": [2], "model": ["cae"]}
    others = [{"p": [1]}, {"rate": [1], ZIP: []}, {"model": ["cae"]}] if several else []
    found = blocks({"space": [first, *others] if several else first, ZIP: pairs})
    assert [block[ZIP] for block in found] == [[["rate", "units"]], [["p", "q"]], [], []][
        : 1 + len(others)
    ]
    assert found[0] == first | {ZIP: [["rate", "units"]]}
    for configuration in ({}, {"space": {}}, {"space": {}, ZIP: None}):
        assert blocks(configuration) == [{ZIP: []}]


def test_every_value_of_an_axis_stands_once_with_that_of_the_training():
    several = [{"model": ("cae",), "rate": (0.1, 0.2)}, {"model": ("dae", "cae"), ZIP: ()}]
    assert every_value(several, {"rate": 0.5, "units": 8}) == {
        "model": ("cae", "dae"), "rate": (0.1, 0.2, 0.5),
    }  # fmt: skip
    assert every_value(several, {"rate": 0.2})["rate"] == (0.1, 0.2)
    assert every_value(several, {})["rate"] == (0.1, 0.2, None)


def test_a_product_is_narrowed_in_the_axes_that_have_a_choice():
    configuration = {"space": {"model": ["cae", "dae"], "sigma2": [0, 1], "seed": [0, 1],
                               "constraint": ["none"]}}  # fmt: skip
    wanted = {"model": "dae", "sigma2": [0], "seed": [1], "constraint": "none", "rate": 0.5}
    assert narrowing(configuration, wanted) == {
        "space.model": ["dae"], "space.sigma2": [0], "space.seed": [1],
    }  # fmt: skip
    assert narrowing(configuration, wanted, free=["seed", "sigma2"]) == {"space.model": ["dae"]}


@pytest.mark.parametrize(
    "configuration",
    [
        {"space": [{"model": ["cae"]}, {"model": ["dae"], "rate": [0.5]}], "training": {"rate": 1}},
        {"space": {"model": ["cae", "dae"], "rate": [0.5, 1]}, ZIP: [["model", "rate"]]},
    ],
)
def test_of_blocks_and_pairs_every_axis_is_said_and_no_pair_is_left(configuration):
    wanted = {"model": "dae", "rate": 0.5}
    expected = {f"space.{ZIP}": [], "space.model": ["dae"], "space.rate": [0.5]}
    assert narrowing(configuration, wanted) == expected
    assert narrowing(configuration, wanted, free=["model"]) == expected


def test_of_one_block_in_a_list_too():
    one = {"space": [{"model": ["cae", "dae"], "seed": [0]}]}
    assert narrowing(one, {"model": "cae", "seed": 0}) == {"space.model": ["cae"]}
