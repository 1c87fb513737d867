"""Configurations: what they mean, and that what is wrong is refused in one line."""

import enum
import itertools
import json
import re
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from sparseae.errors import RequestError
from sparseae.model.trial import Training, Trial
from sparseae.sweep.config import Sweep, difference
from sparseae.sweep.plan import cut, stacks
from sparseae.sweep.space import PAPER_SIGMA2
from sparseae.yamltext import MOST_BYTES, parse, recorded, written

FOLDER = Path(__file__).parents[2] / "tune_configs"
CONFIGS = sorted(FOLDER.rglob("*.yaml"))

BASE = {
    "name": "small",
    "space": {
        "model": ["dae", "cae"],
        "activation": ["relu", "sigmoid"],
        "sigma2": [0, 0.25],
        "dataset": ["digits"],
        "seed": [0, 1],
    },
    "training": {"epochs": 2, "hidden_units": 16},
}


def changed(**parts) -> dict:
    return {**BASE, **parts}


def in_space(**axes) -> dict:
    return changed(space={**BASE["space"], **axes})


def test_trials_are_the_product_of_the_axes():
    trials = Sweep.load(BASE).trials()
    points = {(t.model, t.activation, t.sigma2, t.seed) for t in trials}
    assert points == set(
        itertools.product(["dae", "cae"], ["relu", "sigmoid"], [0.0, 0.25], [0, 1])
    )
    assert len({t.trial_id for t in trials}) == len(trials) == 16
    assert {t.training for t in trials} == {Training(epochs=2, hidden_units=16)}
    assert {t.constraint for t in trials} == {"unit_norm"}


def test_the_papers_sigma2():
    assert Sweep.load(in_space(sigma2="paper")).axes["sigma2"] == PAPER_SIGMA2
    assert len(PAPER_SIGMA2) == 12


def test_a_training_key_may_be_an_axis():
    trials = Sweep.load(in_space(learning_rate=["1e-3", 0.002])).trials()
    assert {t.training.learning_rate for t in trials} == {0.001, 0.002}
    assert len(trials) == 32


def test_later_overrides_win_and_excludes_leave_out():
    sweep = Sweep.load(
        changed(
            overrides=[
                {"when": {"activation": "sigmoid"}, "training": {"learning_rate": 0.005}},
                {"when": {"model": ["dae"], "sigma2": 0.25}, "training": {"learning_rate": 0.01}},
            ],
            exclude=[{"model": "cae", "activation": ["sigmoid"]}],
        )
    )
    rates = {(t.model, t.activation, t.sigma2): t.training.learning_rate for t in sweep.trials()}
    assert rates == {
        ("dae", "relu", 0.0): 0.001,
        ("dae", "relu", 0.25): 0.01,
        ("dae", "sigmoid", 0.0): 0.005,
        ("dae", "sigmoid", 0.25): 0.01,
        ("cae", "relu", 0.0): 0.001,
        ("cae", "relu", 0.25): 0.001,
    }
    assert sweep.excluded == 4


def test_trials_that_an_override_makes_equal_are_one():
    sweep = Sweep.load(
        in_space(learning_rate=[0.001, 0.002])
        | {"overrides": [{"when": {"model": "dae"}, "training": {"learning_rate": 0.003}}]}
    )
    assert sweep.merged == 8
    assert len(sweep.trials()) == 24


def test_of_an_axis_of_epochs_the_longest_stays():
    sweep = Sweep.load(in_space(epochs=[3, 5, 2]))
    assert {t.training.epochs for t in sweep.trials()} == {5}
    assert sweep.merged == 32


PYTHONS = {
    "numpy array": np.array([0.0, 0.25]),
    "numpy scalars": [np.float64(0), np.float64(0.25)],
    "series": pd.Series([0, 0.25]),
    "index": pd.Index([0, 0.25]),
    "tensor": torch.tensor([0, 0.25]),
    "tuple": (0, 0.25),
    "set": {0.25, 0},
    "generator": (k / 4 for k in range(2)),
    "view": {0: "a", 0.25: "b"}.keys(),
    "fractions": [Fraction(0), Fraction(1, 4)],
    "decimals": [Decimal(0), Decimal("0.25")],
    "arrow": pa.array([0, 0.25]),
}


@pytest.mark.parametrize("kind", PYTHONS)
def test_values_of_python_programs_are_what_their_lists_are(kind):
    sweep = Sweep.load(in_space(sigma2=PYTHONS[kind]))
    assert sweep == Sweep.load(in_space(sigma2=[0, 0.25]))
    assert sweep.trials()[0].trial_id == Sweep.load(BASE).trials()[0].trial_id
    assert Sweep.load(yaml.safe_load(sweep.text())) == sweep


def test_scalars_ranges_paths_and_names_of_python_programs(tmp_path):
    class Model(enum.StrEnum):
        DAE = "dae"

    np.save(tmp_path / "x.npy", np.eye(4))
    sweep = Sweep.load(
        {
            "name": np.str_("small"),
            "space": MappingProxyType({
                "model": Model.DAE, "activation": np.array(["relu"]), "sigma2": np.float32(0.25),
                "dataset": tmp_path / "x.npy", "seed": range(3),
            }),
            "training": {"epochs": np.int64(2), "hidden_units": np.array(16), "whiten": np.True_},
            "keep_weights": np.bool_(True),
        }
    )  # fmt: skip
    assert sweep.axes["seed"] == (0, 1, 2)
    assert sweep.axes["dataset"] == (str(tmp_path / "x.npy"),)
    assert sweep.training["whiten"] is True
    assert yaml.safe_load(sweep.text()) == sweep.resolved()


def test_a_list_without_an_end_is_refused():
    with pytest.raises(RequestError, match="more than 1,000,000 values"):
        Sweep.load(in_space(seed=itertools.count()))
    around: list = []
    around.append(around)
    with pytest.raises(RequestError, match="nested too deeply"):
        Sweep.load(in_space(seed=around))


def test_one_set_needs_no_list():
    assert Sweep.load(BASE, "training.epochs=7").training["epochs"] == 7


def test_minus_zero_is_zero():
    (trial, *_) = Sweep.load(in_space(sigma2="-0.0")).trials()
    assert trial.trial_id == Sweep.load(in_space(sigma2=0)).trials()[0].trial_id


def test_an_axis_of_one_models_parameter_does_not_multiply_the_others():
    sweep = Sweep.load(in_space(model=["cae", "corollary2"], q=[1, 2], p=[0, 4]))
    assert len(sweep.trials()) == 8 + 4 * 8
    assert sweep.merged == 3 * 8
    assert {(t.training.q, t.training.p) for t in sweep.trials() if t.model == "cae"} == {(2, 2)}
    assert len({t.trial_id for t in sweep.trials()}) == 40


def test_the_trial_id_is_the_one_of_the_first_release():
    trial = Trial(model="cae", activation="relu", sigma2=0.25, constraint="unit_norm",
                  dataset="digits", seed=0)  # fmt: skip
    assert trial.trial_id == "f8fda8080543b33b"


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("f", "sqare", "space.f[0]: unknown f 'sqare'; did you mean 'square'?"),
        ("q", 0, "space.q[0]: must be greater than or equal to 1, not 0"),
        ("p", 1.5, "space.p[0]: must be a valid integer, not 1.5"),
        ("gamma", -1, "space.gamma[0]: must be greater than or equal to 0, not -1"),
    ],
)
def test_parameters_of_the_families_are_checked(key, value, words):
    with pytest.raises(RequestError) as refused:
        Sweep.load(in_space(**{key: [value]}))
    assert str(refused.value) == words


def test_epochs_do_not_change_the_trial_id_and_all_else_does():
    ids = {t.trial_id for t in Sweep.load(BASE).trials()}
    longer = Sweep.load(BASE, ["training.epochs=9"]).trials()
    assert {t.trial_id for t in longer} == ids
    wider = Sweep.load(BASE, ["training.hidden_units=17"]).trials()
    assert not {t.trial_id for t in wider} & ids


def test_set_changes_one_key():
    sweep = Sweep.load(BASE, ["space.sigma2=[0,1]", "training.epochs=7", "name=other"])
    assert sweep.axes["sigma2"] == (0.0, 1.0)
    assert sweep.training["epochs"] == 7
    assert sweep.training["hidden_units"] == 16
    assert sweep.name == "other"


def test_what_is_resolved_is_read_back(tmp_path):
    sweep = Sweep.load(changed(exclude=[{"model": "cae", "sigma2": [0.25]}], keep_weights=True))
    text = yaml.safe_dump(sweep.resolved())
    assert Sweep.load(yaml.safe_load(text)) == sweep
    file = tmp_path / "c.yaml"
    file.write_text(text)
    assert Sweep.load(file) == sweep


def test_goes_on_with_more_values_and_more_epochs_only():
    old = Sweep.load(BASE)
    for more in ("space.sigma2=[1.0,0,0.25]", "training.epochs=3", "resources.cpu=2", "stack=[]"):
        assert difference(old, Sweep.load(BASE, [more])) == []
    (line,) = difference(old, Sweep.load(BASE, ["training.batch_size=64"]))
    assert line == "training.batch_size: 50 -> 64"
    assert difference(old, Sweep.load(BASE, ["training.epochs=1"])) == ["training.epochs: 2 -> 1"]
    assert difference(old, Sweep.load(BASE, ["space.seed=[0]"])) == ["space.seed: [0, 1] -> [0]"]


def test_tf32_has_one_value_throughout_and_is_no_trials():
    old, new = Sweep.load(BASE), Sweep.load(BASE, ["tf32=true", "training.epochs=3"])
    assert difference(old, new) == ["tf32: False -> True"]
    assert [t.trial_id for t in old.trials()] == [t.trial_id for t in new.trials()]


def test_the_difference_leaves_out_what_may_change():
    more = ["space.sigma2=[0,0.25,1]", "training.epochs=9", "resources.cpu=2"]
    new = Sweep.load(BASE, [*more, "training.batch_size=64"])
    assert difference(Sweep.load(BASE), new) == ["training.batch_size: 50 -> 64"]
    slower = [{"when": {"model": "dae"}, "training": {"learning_rate": 0.0005}}]
    (line,) = difference(Sweep.load(BASE), Sweep.load(changed(overrides=slower), more))
    assert line.startswith("overrides: [] -> [{'when': {'model': 'dae'}")


def test_a_training_key_becomes_an_axis_where_its_value_stays_one():
    old = Sweep.load(BASE)
    assert difference(old, Sweep.load(BASE, ["space.batch_size=[50,64]"])) == []
    (line,) = difference(old, Sweep.load(BASE, ["space.batch_size=[64]"]))
    assert line == "space.batch_size: absent -> [64]"


REFUSED = {
    "unknown key 'spcae'": (changed(spcae={}), ["spcae", "'space'"]),
    "misspelt model": (in_space(model=["dea"]), ["space.model[0]", "'dea'", "'dae'"]),
    "misspelt data": (in_space(dataset=["digit"]), ["space.dataset[0]", "'digits'"]),
    "negative sigma2": (in_space(sigma2=[0, -1]), ["space.sigma2[1]", "-1"]),
    "nan": (in_space(sigma2=[float("nan")]), ["space.sigma2[0]", "nan"]),
    "empty axis": (in_space(seed=[]), ["space.seed", "empty"]),
    "twice": (in_space(sigma2=[0, 0.0]), ["space.sigma2[1]", "twice"]),
    "no model": (changed(space={"activation": "relu"}), ["space.model", "missing"]),
    "wrong type": (changed(training={"epochs": "many"}), ["training.epochs", "'many'"]),
    "flag as number": (changed(training={"epochs": True}), ["training.epochs", "True"]),
    "unknown training key": (changed(training={"epohcs": 1}), ["training.epohcs", "'epochs'"]),
    "out of range": (changed(training={"momentum": 1}), ["training.momentum", "less than 1"]),
    "odd maxout": (in_space(activation="maxout", hidden_units=[15]), ["maxout", "15"]),
    "unstackable": (changed(stack=["model"]), ["stack[0]", "'model'"]),
    "when misspelt": (
        changed(overrides=[{"when": {"modle": "dae"}, "training": {}}]),
        ["overrides[0].when.modle", "'model'"],
    ),
    "when matches nothing": (
        changed(overrides=[{"when": {"model": "sae"}, "training": {}}]),
        ["overrides[0].when.model", "'sae'"],
    ),
    "all excluded": (changed(exclude=[{"seed": [0, 1]}]), ["exclude", "no trial"]),
    "training no mapping": (changed(training=[]), ["training", "mapping", "[]"]),
    "exclude no list": (changed(exclude={}), ["exclude", "list", "{}"]),
    "too few samples": (
        in_space(dataset="gaussian") | {"training": {"samples": 50}},
        ["space.dataset", "gaussian", "50"],
    ),
    "name not text": (changed(name=2026), ["name", "quote", "2026"]),
    "bad name": (changed(name="../x"), ["name", "../x"]),
    "bad resources": (changed(resources={"gpu": "all"}), ["resources.gpu", "'auto'", "'all'"]),
    "unknown resource": (changed(resources={"cpus": 1}), ["resources.cpus", "'cpu'"]),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_what_is_wrong_is_named_in_one_line(case):
    raw, words = REFUSED[case]
    with pytest.raises(RequestError) as caught:
        Sweep.load(raw)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_a_key_that_stands_twice_is_refused():
    with pytest.raises(RequestError, match="line 2: the key 'a' stands here twice"):
        parse("a: 1\na: 2\n", "x.yaml")
    with pytest.raises(RequestError, match="line 3: the key 'b' stands here twice"):
        parse("a:\n  b: 1\n  'b': 2\n", "x.yaml")


def test_anchors_and_merges_are_yaml_too():
    text = "a: &a {b: 1, c: 2}\nd: {<<: *a, c: 3}\ne: *a\n"
    assert parse(text, "x.yaml") == {"a": {"b": 1, "c": 2}, "d": {"b": 1, "c": 3},
                                     "e": {"b": 1, "c": 2}}  # fmt: skip


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("010", "write 10 or 8"),
        ("-0100", "write -100 or -64"),
        ("08", "write 8"),
        ("1:30", "write 90"),
        ("1:00:00", "write 3600"),
        ("1_000", "write 1000"),
        ("1_0.5", "write 10.5"),
        ("0x1F", "write 31"),
        ("0o17", "write 15"),
        ("0b11", "write 3"),
        ("!!int 010", "write 10 or 8"),
        ("!!float 1_0", "write 10"),
    ],
)
def test_a_number_that_readers_of_yaml_disagree_about_is_refused(written, meant):
    with pytest.raises(RequestError, match=f"line 2: .* {meant}, or quote it"):
        parse(f"name: x\nepochs: {written}\n", "x.yaml")
    with pytest.raises(RequestError, match=f"--set training.epochs: .* {meant}"):
        Sweep.load(BASE, [f"training.epochs={written}"])


def test_a_scalar_is_what_yaml_1_2_says():
    text = "[1e3, -1.5e-3, .5, +7, 0, 0.0, true, null, ~, 2026-01-01, 1:99, 12ab, '010', =]"
    assert parse(text, "x.yaml") == [
        1000.0, -0.0015, 0.5, 7, 0, 0.0, True, None, None, "2026-01-01", "1:99", "12ab", "010", "=",
    ]  # fmt: skip


def test_a_flag_takes_the_words_that_yaml_1_1_has_for_it_and_a_name_keeps_them():
    for word, value in (("yes", True), ("On", True), ("no", False), ("OFF", False)):
        assert Sweep.load(BASE, [f"keep_weights={word}"]).keep_weights is value
        assert Sweep.load(BASE, [f"space.whiten=[{word}]"]).axes["whiten"] == (value,)
        assert Sweep.load(BASE, [f"name={word}"]).name == word


#: What a configuration is made of; text also of what numbers are made of.
SCALARS = (
    st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=6)
    | st.text("+-._:0123456789abefoxEn", max_size=6)
    | st.booleans()
    | st.none()
)


@example("08")
@example("0E0")
@given(SCALARS)
def test_what_yaml_1_1_wrote_is_read_as_it_was(value):
    """So that every sweep.yaml goes on."""
    assert recorded(yaml.safe_dump({"k": value}), "x.yaml")["k"] == value


@example("08")
@example("0E0")
@example("1e3")
@example("0o17")
@example("yes")
@example("\x85")
@example("a\u2028b")
@given(SCALARS)
def test_what_the_tool_writes_means_the_same_to_every_reader(value):
    for style in (None, True):
        text = written({"k": [value]}, default_flow_style=style)
        for read in (parse, recorded):
            assert read(text, "x.yaml") == {"k": [value]}
        assert yaml.safe_load(text) == {"k": [value]}


@pytest.mark.parametrize("name", ["08", "0E0", "1e3", "010", "yes", "null"])
def test_a_name_like_a_number_is_read_back_from_the_record(name):
    sweep = Sweep.load(BASE, [f"name='{name}'"])
    assert Sweep.recorded(sweep.text(), "sweep.yaml") == sweep
    assert Sweep.load(parse(sweep.text(), "sweep.yaml")) == sweep
    before = yaml.safe_dump(sweep.resolved(), sort_keys=False, allow_unicode=True)
    assert Sweep.recorded(before, "sweep.yaml") == sweep, "as versions before wrote it"


def test_a_record_has_every_value_however_many():
    sweep = Sweep.load(BASE | {"space": BASE["space"] | {"seed": range(30_000)}})
    text = sweep.text()
    assert len(text) > MOST_BYTES
    assert recorded(text, "sweep.yaml") == sweep.resolved()


@given(st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.booleans())
def test_a_number_of_json_is_read_as_it_was(value):
    assert parse(json.dumps({"k": value}), "x.yaml")["k"] == value


@given(st.from_regex(r"[-+]?[0-9_:.xob]{1,6}(e[0-9])?", fullmatch=True))
def test_a_number_is_what_python_reads_or_refused(text):
    try:
        read = parse(f"k: {text}", "x.yaml")["k"]
    except RequestError:
        return
    old = yaml.safe_load(f"k: {text}")["k"]
    assert read == old or read == float(text), "YAML 1.1 read the same, or could not read it"


@pytest.mark.parametrize("content", [b"\x00\xff", b"[" * 5000, b"a: &a [*a", b"- x", b""])
def test_a_file_that_is_no_configuration_is_refused(tmp_path, content):
    file = tmp_path / "c.yaml"
    file.write_bytes(content)
    with pytest.raises(RequestError) as caught:
        Sweep.load(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_configurations_that_we_ship_are_sound(path):
    sweep = Sweep.load(path)
    assert sweep.name == path.stem
    comment = " ".join(
        line.removeprefix("#") for line in path.read_text().splitlines() if line.startswith("#")
    )
    (trials,) = re.findall(r"([\d,]+) trials", comment)
    assert len(sweep.trials()) == int(trials)
    for workers in (2, 64):
        pieces = cut(stacks(sweep), workers)
        assert sum(len(piece.trials) for piece in pieces) == int(trials)


def test_paper_yaml_is_section_3():
    trials = Sweep.load(FOLDER / "paper.yaml").trials()
    assert len(trials) == 4 * 3 * 12 * 2 * 2 + 12 * 2
    assert {t.training.hidden_units for t in trials} == {1000}
    assert {t.training.epochs for t in trials} == {50}
    edae = [t for t in trials if t.model == "edae"]
    assert {(t.activation, t.constraint) for t in edae} == {("relu", "unit_norm")}


def test_a_long_name_of_no_data_set_is_shown_short():
    with pytest.raises(RequestError, match="unknown data set") as caught:
        Sweep.load({"name": "x", "space": {"model": ["ae"], "activation": ["relu"], "sigma2": [0],
                                           "dataset": ["0x" + 2000 * "f"]}})  # fmt: skip
    assert len(str(caught.value)) < 300


def test_a_narrowed_space_leaves_behind_what_the_file_says_of_the_rest():
    paper = FOLDER / "paper.yaml"
    narrowed = Sweep.load(paper, ["space.model=[cae, edae]", "space.activation=[sigmoid]"])
    assert {trial.model for trial in narrowed.trials()} == {"cae"}
    assert {trial.training.learning_rate for trial in narrowed.trials()} == {0.005}
    assert Sweep.load(narrowed.resolved()) == narrowed
    relu = Sweep.load(paper, ["space.activation=[relu]"])
    assert not relu.overrides
    assert len(relu.trials()) == 12 * (4 * 2 + 1) * 2
    # What never was in the space is a slip still.
    with pytest.raises(RequestError, match=r"exclude\[0\].model: no trial has 'ae'"):
        Sweep.load(paper, ["space.model=[cae]", "exclude=[{model: ae}]"])
