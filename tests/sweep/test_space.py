"""Spaces of several blocks, and axes in pairs: what is trained is what is written there."""

import itertools
import shlex
from pathlib import Path

import jsonschema
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import sparseae
from sparseae.analysis.behind import behind
from sparseae.analysis.page import expected_trials
from sparseae.cli import app
from sparseae.errors import RequestError
from sparseae.model.trial import TRAINING_TYPES
from sparseae.results.reader import load
from sparseae.sweep.config import Sweep, difference
from sparseae.sweep.extension import Addition, extended
from sparseae.sweep.plan import stacks
from sparseae.sweep.schema import schema
from sparseae.yamltext import parse

BLOCK = {"model": ["cae"], "activation": ["relu"], "sigma2": [0, 0.25], "dataset": ["digits"]}
TRAINING = {"epochs": 2, "hidden_units": 8, "samples": 100}
PAIRED = BLOCK | {"hidden_units": [4, 8, 16], "learning_rate": [0.01, 0.002, 0.002]}
VALID = jsonschema.Draft202012Validator(schema())


def sweep(space, **more) -> Sweep:
    raw = {"name": "s", "space": space, "training": TRAINING} | more
    VALID.validate(raw)
    made = Sweep.load(raw)
    VALID.validate(made.resolved())
    assert Sweep.load(made.resolved()) == made
    assert Sweep.recorded(made.text(), "sweep.yaml") == made
    assert expected_trials(made.resolved()) == len(made.trials())
    return made


def ids(made: Sweep) -> set[str]:
    return {trial.trial_id for trial in made.trials()}


def some(values: list) -> st.SearchStrategy[list]:
    return st.lists(st.sampled_from(values), min_size=1, max_size=3, unique=True)


axes = st.fixed_dictionaries(
    {
        "model": some(["cae", "dae", "cae_h"]),
        "activation": some(["relu", "sigmoid"]),
        "sigma2": some([0, 0.25, 1.0]),
        "dataset": some(["digits", "gaussian"]),
    },
    optional={
        "seed": some([0, 1, 2]),
        "hidden_units": some([4, 8]),
        "gamma": some([0.1, 0.2]),
        "constraint": some(["none", "unit_norm"]),
    },
)


def test_the_papers_sigma2_are_0_a_thousandth_and_the_squares_of_tenths():
    (block,) = sweep(BLOCK | {"sigma2": "paper"}).space
    squares = [(k / 10) ** 2 for k in range(1, 11)]
    assert block["sigma2"] == pytest.approx((0.0, 0.001, *squares), rel=1e-15)


@settings(max_examples=30, deadline=None)
@given(st.lists(axes, min_size=1, max_size=3))
def test_blocks_are_the_union_of_their_sweeps_each_trial_once(blocks):
    together = sweep(blocks)
    alone = [Sweep.load({"name": "s", "space": block, "training": TRAINING}) for block in blocks]
    assert ids(together) == set().union(*map(ids, alone))
    points = sum(len(one.trials()) + one.merged for one in alone)
    assert len(together.trials()) + together.merged == points

    members = [trial.trial_id for plan in stacks(together) for trial in plan.trials]
    assert sorted(members) == sorted(ids(together))
    for part in alone:
        assert not difference(part, together)


@settings(max_examples=30, deadline=None)
@given(
    block=axes.filter(lambda block: "hidden_units" not in block),
    pairs=st.lists(
        st.tuples(st.sampled_from([4, 8, 16]), st.sampled_from([0.1, 0.01]), st.integers(0, 2)),
        min_size=1, max_size=4, unique=True,
    ),
    in_block=st.booleans(),
)  # fmt: skip
def test_paired_axes_go_through_their_values_together(block, pairs, in_block):
    units, rates, seeds = map(list, zip(*pairs, strict=True))
    whole = block | {"hidden_units": units, "learning_rate": rates, "seed": seeds}
    names = ["learning_rate", "seed", "hidden_units"]
    zipped = sweep(whole | {"zip": names}) if in_block else sweep(whole, zip=names)
    of_pairs = [
        sweep(block | {"hidden_units": [m], "learning_rate": [rate], "seed": [seed]})
        for m, rate, seed in pairs
    ]
    assert ids(zipped) == set().union(*map(ids, of_pairs))
    assert len(zipped.trials()) == len(pairs) * len(of_pairs[0].trials())


def test_two_pairs_are_two_groups_and_a_block_has_its_own():
    both = PAIRED | {"seed": [0, 1], "data_seed": [5, 6]}
    made = sweep(both, zip=[["hidden_units", "learning_rate"], ["seed", "data_seed"]])
    keys = [
        (t.training.hidden_units, t.training.learning_rate, t.seed, t.training.data_seed)
        for t in made.trials()
        if t.sigma2 == 0
    ]
    assert keys == [
        (*pair, *seeds)
        for seeds, pair in itertools.product(
            [(0, 5), (1, 6)], [(4, 0.01), (8, 0.002), (16, 0.002)]
        )
    ]  # fmt: skip
    grid = BLOCK | {"hidden_units": [4, 8], "learning_rate": [0.1, 0.2, 0.3], "zip": []}
    made = sweep([PAIRED, grid, BLOCK], zip=["hidden_units", "learning_rate"])
    assert len(made.trials()) == 2 * (3 + 6 + 1)


PAIR = ["hidden_units", "learning_rate"]
LEAVES_OUT = "zip: [] in the block leaves it out"
REFUSED = [
    (None, {}, "space: is missing"),
    ([], {}, "space: is empty"),
    ((), {}, "space: is empty"),
    ("relu", {}, "space: must be a mapping, not 'relu'"),
    ([BLOCK, "relu"], {}, "space[1]: must be a mapping, not 'relu'"),
    ({}, {}, "space.model: is missing"),
    ([BLOCK, {}], {}, "space[1].model: is missing"),
    (BLOCK | {"sigma2": [0, -1]}, {},
     "space.sigma2[1]: must be greater than or equal to 0, not -1"),
    (BLOCK | {"seed": []}, {}, "space.seed: is empty"),
    ([BLOCK, BLOCK | {"seed": []}], {}, "space[1].seed: is empty"),
    (BLOCK | {"sede": [1]}, {}, "space.sede: unknown key; did you mean 'seed'?"),
    ([BLOCK, BLOCK | {"sede": [1]}], {}, "space[1].sede: unknown key; did you mean 'seed'?"),
    (BLOCK | {"dataset": ["digits", "digts"]}, {},
     "space.dataset[1]: unknown data set 'digts'; did you mean 'digits'? (or the path of a .npy or "
     ".parquet)"),
    ([BLOCK, BLOCK | {"dataset": "digts"}], {},
     "space[1].dataset[0]: unknown data set 'digts'; did you mean 'digits'? (or the path of a .npy "
     "or .parquet)"),
    (BLOCK | {"dataset": "y" * 300 + ".npy"}, {},
     f"space.dataset[0]: '{'y' * 27}...{'y' * 24}.npy': File name too long"),
    (BLOCK | {"seed": [1, 0, 1]}, {}, "space.seed[2]: 1 stands here twice"),
    (PAIRED, {}, "space.learning_rate[2]: 0.002 stands here twice"),
    ([BLOCK, PAIRED], {}, "space[1].learning_rate[2]: 0.002 stands here twice"),
    (BLOCK, {"training": 3}, "training: must be a mapping, not 3"),
    (BLOCK, {"training": {"epoch": 1}}, "training.epoch: unknown key; did you mean 'epochs'?"),
    (PAIRED, {"zip": {"seed": [1]}}, "zip: must be a list, not {'seed': [1]}"),
    (PAIRED | {"zip": 3}, {}, "space.zip: must be a list, not 3"),
    ([BLOCK, PAIRED | {"zip": 3}], {}, "space[1].zip: must be a list, not 3"),
    (PAIRED, {"zip": ["seed", ["q", "p"]]}, "zip[0]: must be a list, not 'seed'"),
    (PAIRED, {"zip": [3, "seed"]}, "zip: must be names of axes, not 3"),
    (PAIRED, {"zip": [PAIR, [3, "seed"]]}, "zip[1]: must be names of axes, not 3"),
    (PAIRED, {"zip": ["hidden_units", "learning_rat"]},
     "zip: learning_rat: unknown key; did you mean 'learning_rate'?"),
    (PAIRED | {"zip": [["hidden_units", "learning_rat"]]}, {},
     "space.zip[0]: learning_rat: unknown key; did you mean 'learning_rate'?"),
    (BLOCK, {"zip": ["seed"]}, "zip: must name two axes or more, not ['seed']"),
    (PAIRED, {"zip": [PAIR, ["seed"]]}, "zip[1]: must name two axes or more, not ['seed']"),
    (PAIRED, {"zip": [[]]}, "zip[0]: must name two axes or more, not []"),
    (PAIRED, {"zip": ["seed", "seed"]}, "zip: seed stands here twice"),
    (PAIRED, {"zip": [PAIR, ["seed", "hidden_units"]]}, "zip: hidden_units stands here twice"),
    (PAIRED | {"zip": ["seed", "seed"]}, {}, "space.zip: seed stands here twice"),
    ([BLOCK], {"zip": ["rho", "q"]}, "zip: space has no rho"),
    ([BLOCK, PAIRED | {"zip": ["rho", "q"]}], {}, "space[1]: has no rho"),
    (PAIRED, {"zip": ["hidden_units", "rho"]},
     "space: has no rho, which zip pairs with hidden_units"),
    (PAIRED, {"zip": ["rho", "seed", "hidden_units"]},
     "space: has no rho, which zip pairs with seed"),
    (PAIRED | {"zip": ["hidden_units", "rho"]}, {},
     "space: has no rho, which zip pairs with hidden_units"),
    ([PAIRED, BLOCK | {"hidden_units": [4]}], {"zip": PAIR},
     f"space[1]: has no learning_rate, which zip pairs with hidden_units; {LEAVES_OUT}"),
    ([BLOCK, PAIRED | {"zip": ["hidden_units", "rho"]}], {},
     "space[1]: has no rho, which zip pairs with hidden_units"),
    (PAIRED | {"learning_rate": [1, 2]}, {"zip": PAIR},
     "space: zip pairs values one by one, and hidden_units has 3 values and learning_rate has 2 "
     "values"),
    ([BLOCK, PAIRED | {"hidden_units": 4, "zip": PAIR}], {},
     "space[1]: zip pairs values one by one, and hidden_units has 1 value and learning_rate has 3 "
     "values"),
    ([PAIRED, PAIRED | {"hidden_units": [4, 8]}], {"zip": PAIR},
     "space[1]: zip pairs values one by one, and hidden_units has 2 values and learning_rate has 3 "
     f"values; {LEAVES_OUT}"),
    ([PAIRED | {"hidden_units": [4, 8]}], {"zip": PAIR},
     "space[0]: zip pairs values one by one, and hidden_units has 2 values and learning_rate has 3 "
     "values"),
    (PAIRED | {"hidden_units": [4, 8, 4], "learning_rate": [1, 2, 1]}, {"zip": PAIR},
     "space: the pair hidden_units 4, learning_rate 1.0 stands here twice"),
    ([BLOCK, PAIRED | {"hidden_units": [4, 8, 4], "learning_rate": [1, 2, 1], "zip": PAIR}], {},
     "space[1]: the pair hidden_units 4, learning_rate 1.0 stands here twice"),
]  # fmt: skip


@pytest.mark.parametrize(("space", "more", "words"), REFUSED)
def test_what_is_wrong_is_refused_in_one_line_with_its_block(space, more, words):
    with pytest.raises(RequestError) as refused:
        Sweep.load({"name": "s", "space": space} | more)
    assert str(refused.value) == words
    assert words.isprintable()


def test_a_block_has_every_axis_in_order_and_what_else_it_names():
    raw = {"hidden_units": (4, 8), "sigma2": 0, "dataset": "digits", "model": "cae",
           "learning_rate": "1e-3", "activation": ["relu"]}  # fmt: skip
    (block,) = Sweep.load({"name": "s", "space": raw}).space
    assert list(block.items()) == [
        ("model", ("cae",)), ("activation", ("relu",)), ("sigma2", (0.0,)),
        ("constraint", ("unit_norm",)), ("dataset", ("digits",)), ("seed", (0,)),
        *((key, block[key]) for key in TRAINING_TYPES if key in raw),
    ]  # fmt: skip
    assert (block["hidden_units"], block["learning_rate"]) == ((4, 8), (0.001,))
    (own,) = sweep(BLOCK | {"constraint": "none", "seed": [3]}).space
    assert (own["constraint"], own["seed"]) == (("none",), (3,))


def test_pairs_stand_in_the_sweep_and_in_the_block_that_has_its_own():
    for written in (PAIR, [PAIR]):
        made = sweep([PAIRED, BLOCK], zip=written)
        assert made.zip == (tuple(PAIR),)
        assert all("zip" not in block for block in made.space)
    groups = [["hidden_units", "learning_rate"], ["seed", "data_seed"]]
    both = PAIRED | {"seed": [0, 1], "data_seed": [5, 6], "zip": groups}
    made = sweep([both, BLOCK | {"zip": []}])
    assert made.zip == ()
    assert [block.get("zip") for block in made.space] == [tuple(map(tuple, groups)), ()]


def test_an_override_may_ask_for_each_value_that_a_trial_can_have():
    space = [BLOCK | {"hidden_units": [4, 8]}, BLOCK | {"model": "dae", "gamma": 0.5}]
    for when in ({"hidden_units": 4}, {"hidden_units": 16}, {"model": ["cae", "dae"]},
                 {"gamma": 0.5}, {"momentum": 0.8}, {"seed": 0}):  # fmt: skip
        override = {"when": when, "training": {"epochs": 3}}
        training = TRAINING | {"hidden_units": 16, "momentum": 0.8}
        made = sweep(space, overrides=[override], training=training)
        assert any(trial.training.epochs == 3 for trial in made.trials())
    for key, value in (("hidden_units", 32), ("momentum", 0.9), ("model", "sae")):
        override = {"when": {key: value}, "training": {"epochs": 3}}
        with pytest.raises(RequestError, match=f"when.{key}: no trial has"):
            sweep(space, overrides=[override], training=TRAINING | {"momentum": 0.8})


def test_set_changes_an_axis_of_every_block_or_of_one():
    raw = {"name": "s", "space": [BLOCK, BLOCK | {"seed": [3, 4]}]}
    every = Sweep.load(raw, ["space.seed=[7, 8]", "space.model=[dae]"])
    assert [block["seed"] for block in every.space] == [(7, 8)] * 2
    assert every.axes["model"] == ("dae",)
    one = Sweep.load(raw, ["space.1.seed=[7]"])
    assert [block["seed"] for block in one.space] == [(0,), (7,)]
    for text, words in {
        "space.2.seed=[1]": "space has 2 entries, from 0",
        "space.1.seed.x=1": "seed is not a mapping",
        "overrides.when=1": "overrides is not a mapping",
    }.items():
        with pytest.raises(RequestError, match=words):
            Sweep.load(raw | {"overrides": []}, [text])


def test_a_sweep_of_blocks_goes_on_grows_and_refuses_another(tmp_path):
    def run(space, **more):
        raw = {"name": "s", "space": space, "training": TRAINING} | more
        return sparseae.run(raw, results=tmp_path, in_process=True)

    first = run(BLOCK)
    pair = PAIRED | {"model": ["dae"], "zip": ["hidden_units", "learning_rate"]}
    both = run([BLOCK, pair])
    assert (both.trials, both.trained) == (2 + 6, 6)
    kept = load(first.place)
    assert run([pair, BLOCK]).trained == 0
    pd.testing.assert_frame_equal(load(first.place), kept)
    with pytest.raises(RequestError, match=r"holds another sweep.*space: 2 blocks -> 1"):
        run(BLOCK)
    with pytest.raises(
        RequestError, match=r"space\[1\]\.hidden_units: \[4, 8, 16\] -> \[4, 8, 9\]"
    ):
        run([BLOCK, pair | {"hidden_units": [4, 8, 9]}])


def test_the_command_behind_a_curve_has_its_trials_alone(tmp_path):
    dae = BLOCK | {"model": ["dae", "cae"], "sigma2": [0, 1.0], "seed": [5, 6], "data_seed": [1, 1]}
    space = [BLOCK | {"seed": [0, 1, 2], "data_seed": [0]}, dae | {"zip": ["seed", "data_seed"]}]
    raw = {"name": "s", "space": space, "training": TRAINING}
    place = sparseae.run(raw, results=tmp_path, in_process=True).place
    found = [
        source
        for case in ("relu-flat", "relu-corruption-sparser")
        for *_, sources in behind(place, case)
        for source in sources
    ]
    assert len(found) >= 3
    for source in found:
        _, _, config, *options = shlex.split(source.command)
        narrowed = Sweep.load(config, options[1:-2:2])
        assert ids(narrowed) == set(source.trial_ids)
    trial_id = found[0].trial_ids[0]
    shown = CliRunner().invoke(app, ["trials", place, trial_id]).output.replace("\n", " ")
    command = shlex.split(shown[shown.index("sparseae run") :])
    assert ids(Sweep.load(command[2], command[4 : command.index("--results") : 2])) == {trial_id}


def test_some_curves_of_some_blocks_are_added_to():
    made = sweep([BLOCK, PAIRED | {"model": ["dae"], "zip": ["hidden_units", "learning_rate"]}])
    curve = {t.trial_id for t in made.trials() if t.training.hidden_units == 16}
    more = extended(made, [Addition(tuple(curve), seeds=2, sigma2=(1.0,))])
    assert ids(made) < ids(more)
    added = [trial for trial in more.trials() if trial.trial_id not in ids(made)]
    assert {(t.model, t.training.hidden_units) for t in added} == {("dae", 16)}
    assert len(added) == 3 * 3 - 2
    paired = sweep(BLOCK | {"seed": [0, 1], "data_seed": [0, 1], "zip": ["seed", "data_seed"]})
    with pytest.raises(RequestError, match="zip: a sweep that pairs seed cannot be added to"):
        extended(paired, [Addition(tuple(ids(paired)), seeds=1)])


def test_the_plan_counts_a_trial_of_two_blocks_once(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(
        "name: s\nspace:\n- &base {model: cae, activation: relu, sigma2: [0, 1], dataset: digits}\n"
        "- {<<: *base, model: [cae, dae]}\ntraining: {epochs: 2, hidden_units: 8, samples: 100}\n"
    )
    out = CliRunner().invoke(app, ["plan", str(file), "--workers", "1"])
    assert out.exit_code == 0, out.output
    assert "4 (2 equal to another)" in out.output


def test_the_documented_space_is_what_the_page_says_of_it():
    page = (Path(__file__).parents[2] / "docs/reference/configuration.md").read_text("utf-8")
    block = page.split("```yaml\n")[1].split("```")[0]
    made = Sweep.load({"name": "s"} | parse(block, "page"))
    assert len(made.trials()) == 2 * 12 * 3 + 3 * 3 * 3
    assert {(t.training.hidden_units, t.training.learning_rate) for t in made.trials()} == {
        (1000, 0.001), (64, 0.01), (256, 0.003), (1024, 0.001),
    }  # fmt: skip
