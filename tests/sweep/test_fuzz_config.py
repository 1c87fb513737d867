"""Any input at all is a sweep that can be planned, or a refusal in one line; nothing else."""

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseae.errors import RequestError
from sparseae.model.trial import STACKABLE, TRAINING_TYPES
from sparseae.sweep.config import Sweep, difference
from sparseae.sweep.plan import cost, cut, stacks
from sparseae.yamltext import parse

BASE: dict[str, Any] = {
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
TEXT = yaml.safe_dump(
    BASE
    | {
        "overrides": [{"when": {"activation": "sigmoid"}, "training": {"learning_rate": 0.005}}],
        "exclude": [{"model": "cae", "seed": [1]}],
        "resources": {"cpu": 1, "gpu": "auto"},
    }
)


def is_sound_or_refused(source: Any, set_values: tuple[str, ...] = ()) -> Sweep | None:
    try:
        sweep = Sweep.load(source, set_values)
    except RequestError as error:
        message = str(error)
        assert message
        assert len(message.splitlines()) == 1, message
        assert message.isprintable(), message
        assert len(message) < 1000, message
        return None
    assert Sweep.load(yaml.safe_load(yaml.safe_dump(sweep.resolved()))) == sweep
    assert difference(sweep, sweep) == []
    trials = sweep.trials()
    assert len({t.trial_id for t in trials}) == len(trials) > 0
    pieces = cut(stacks(sweep), 3)
    assert {t.trial_id for p in pieces for t in p.trials} == {t.trial_id for t in trials}
    assert all(cost(piece.trials[0]) > 0 for piece in pieces)
    return sweep


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-3, 70)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=3)
    | st.dates()
    | st.sampled_from(["dae", "relu", "maxout", "digits", "gaussian", "paper", "auto", "1e-3", "/"])
)
WORDS = sorted(
    {"when", "training", "cpu", "gpu", "model", "activation", "sigma2", "dataset", "seed", "name"}
    | set(TRAINING_TYPES)
)
keys = st.sampled_from(WORDS) | st.text(max_size=4) | st.integers(0, 3)
plain = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=250, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([*Sweep.model_fields, "other"]),
        plain | st.lists(st.dictionaries(keys, plain, max_size=3), max_size=2),
        min_size=1,
        max_size=3,
    )
)
def test_any_value_of_any_key(changes):
    is_sound_or_refused(BASE | changes)


@settings(max_examples=250, deadline=None)
@given(
    part=st.sampled_from(["space", "training"]),
    changes=st.dictionaries(
        st.sampled_from(WORDS), scalars | st.lists(scalars, max_size=3), min_size=1, max_size=3
    ),
)
def test_any_value_of_any_axis_and_training_key(part, changes):
    is_sound_or_refused(BASE | {part: BASE[part] | changes})


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60) | st.binary(max_size=60))
def test_any_text(text):
    try:
        raw = parse(text, "x.yaml")
    except RequestError as error:
        assert str(error).isprintable()
    else:
        is_sound_or_refused(raw if isinstance(raw, dict) else {"name": raw})


snippets = st.sampled_from(
    ["[", "]", "{", "}", ": ", "- ", "\n", "  ", "&a ", "*a", "<<: *a\n", "!!bool ", "!!timestamp ",
     "!!int ", "!!set ", "!!binary ", "? ", "| ", "'", '"', "---\n", "%TAG", "#", "1e-3", ".nan",
     ".inf", "-", "~", "\t", "\x00", "\ud800", "0x" + "f" * 5000]
)  # fmt: skip


@settings(max_examples=250, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, len(TEXT)), st.integers(0, 6), snippets | st.text(max_size=3)),
        min_size=1,
        max_size=4,
    )
)
def test_a_configuration_with_typing_errors(tmp_path_factory, edits):
    text = TEXT
    for place, length, new in edits:
        text = text[:place] + new + text[place + length :]
    file = tmp_path_factory.mktemp("fuzz") / "c.yaml"
    file.write_bytes(text.encode(errors="surrogatepass"))
    is_sound_or_refused(file)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.builds(
            "{}{}{}".format,
            st.lists(st.sampled_from([*BASE, *WORDS, "space", ""]), max_size=3).map(".".join)
            | st.text(max_size=8),
            st.sampled_from(["=", ""]),
            st.text(max_size=8) | st.sampled_from(["[0, 1]", "1e-3", "{a: 1}", "null", "[", "*a"]),
        ),
        max_size=2,
    )
)
def test_any_set(values):
    is_sound_or_refused(BASE, tuple(values))


@st.composite
def configurations(draw: st.DrawFn) -> dict[str, Any]:
    """Configurations that are right, but that the excludes may leave no trial."""

    def some(values: list, most: int = 3) -> st.SearchStrategy[list]:
        return st.lists(st.sampled_from(values), min_size=1, max_size=most, unique=True)

    space = {
        "model": draw(some(["ae", "dae", "cae", "mdae", "sae", "edae"])),
        "activation": draw(some(["relu", "softplus", "sigmoid", "tanh", "maxout"])),
        "sigma2": draw(st.just("paper") | some([0, 0.001, 0.25, 1, "1e-2"])),
        "constraint": draw(some(["unit_norm", "none", "max_norm", "weight_decay"])),
        "dataset": draw(some(["digits", "gaussian", "mnist"])),
        "seed": draw(some([0, 1, 2, 7])),
    }
    training = {
        "epochs": draw(st.integers(0, 9)),
        "hidden_units": draw(st.sampled_from([4, 10])),
        "learning_rate": draw(st.floats(1e-6, 1)),
        "momentum": draw(st.floats(0, 1, exclude_max=True)),
        "whiten": draw(st.booleans()),
    }
    if draw(st.booleans()):
        space["learning_rate"] = draw(some([0.001, 0.002, 0.5]))
    one_of = st.sampled_from(["model", "activation", "constraint", "seed"])
    when = one_of.flatmap(lambda axis: some(space[axis]).map(lambda values: {axis: values}))
    changes = st.fixed_dictionaries({}, optional={"epochs": st.integers(0, 9), "rho": st.just(0.1)})
    override = st.fixed_dictionaries({"when": when, "training": changes})
    return {
        "name": "right",
        "space": space,
        "training": training,
        "stack": draw(st.lists(st.sampled_from(STACKABLE), unique=True)),
        "overrides": draw(st.lists(override, max_size=2)),
        "exclude": draw(st.lists(when, max_size=2)),
    }


@settings(max_examples=80, deadline=None)
@given(configurations())
def test_what_is_right_is_planned(raw):
    sweep = is_sound_or_refused(raw)
    if sweep is None:  # only for want of a trial
        with pytest.raises(RequestError, match="exclude: leaves no trial"):
            Sweep.load(raw)
        return
    size = len(sweep.trials()) + sweep.excluded + sweep.merged
    assert size == math.prod(len(values) for values in sweep.axes.values())
    for stack in stacks(sweep):
        values = [trial.values() for trial in stack.trials]
        differing = {key for key in values[0] if len({v[key] for v in values}) > 1}
        assert differing <= set(sweep.stack)


def bomb(levels: int) -> str:
    """Ten to the power of ``levels`` scalars, in YAML of a page."""
    text = "&l0 [x, x, x, x, x, x, x, x, x, x]"
    for level in range(1, levels):
        text = f"&l{level} [{text}{f', *l{level - 1}' * 9}]"
    return text


def merge_bomb(levels: int) -> str:
    lines = ["l0: &l0 {k: 1}"]
    for level in range(1, levels):
        lines.append(f"l{level}: &l{level} {{<<: [{', '.join([f'*l{level - 1}'] * 10)}]}}")
    return "\n".join(lines)


HOSTILE = {
    "aliases that write out to 10^9 words": f"name: {bomb(9)}",
    "merges that write out to 10^9 keys": merge_bomb(10),
    "an alias of what it stands in": "&a {name: *a}",
    "too deep": "name: " + "[" * 600,
    "too long": "- 1\n" * (128 << 10),
    "an integer that Python does not print": "name: 0x" + "f" * 5000,
    "a key that is such an integer": "0x" + "f" * 5000 + ": 1",
    "a tag that executes": "name: !!python/object/apply:os.system [id]",
    "a value that its tag cannot be": "name: !!bool perhaps",
    "two documents": "name: a\n---\nname: b",
    "a line break in a key": '"a\\nb": 1',
    "UTF-16": "name: x".encode("utf-16"),
    "NUL": b"name: \x00",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused(tmp_path: Path, case):
    text = HOSTILE[case]
    file = tmp_path / "c.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert is_sound_or_refused(file) is None


@pytest.mark.parametrize("place", ["a\nb.yaml", "a\0b", "x" * 5000, "", "/dev/zero", "/"])
def test_paths_that_are_no_file_are_refused(place):
    assert is_sound_or_refused(place) is None


@pytest.mark.parametrize("name", ["a\n/b", "a\0/b.npy", "x/" * 3000, "\ud800/x", "/dev/null"])
def test_data_that_are_no_file_are_refused(name):
    assert is_sound_or_refused(BASE | {"space": BASE["space"] | {"dataset": name}}) is None


def test_set_is_held_to_the_same():
    assert is_sound_or_refused(BASE, (f"name={bomb(9)}",)) is None
