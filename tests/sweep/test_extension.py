"""A sweep with more of some of its curves, in the configuration's own words."""

import pytest

import sparseae
from sparseae.errors import RequestError
from sparseae.results.location import Location
from sparseae.sweep.config import Sweep
from sparseae.sweep.extension import ASKED, Addition, Pace, as_asked, extended

SWEEP = {
    "name": "small",
    "space": {
        "model": ["dae", "cae", "sae"],
        "activation": ["relu", "sigmoid"],
        "sigma2": [0, 0.25, 1.0],
        "dataset": ["digits"],
        "seed": [0, 1],
    },
    "training": {"epochs": 3, "hidden_units": 16, "samples": 200},
    "overrides": [{"when": {"activation": "sigmoid"}, "training": {"learning_rate": 0.005}}],
    "exclude": [{"model": "sae", "sigma2": 1.0}],
}


def points(sweep: Sweep) -> set[tuple]:
    return {
        (t.model, t.activation, t.sigma2, t.seed, t.training.epochs, t.training.learning_rate)
        for t in sweep.trials()
    }


def ids(sweep: Sweep, model: str, activation: str) -> tuple[str, ...]:
    return tuple(
        t.trial_id for t in sweep.trials() if (t.model, t.activation) == (model, activation)
    )


def test_only_what_is_wanted_is_added():
    sweep = Sweep.load(SWEEP)
    made = extended(sweep, [Addition(ids(sweep, "cae", "relu"), seeds=2)])
    new = points(made) - points(sweep)
    assert points(sweep) < points(made)
    assert new == {("cae", "relu", s, seed, 3, 0.001) for s in (0, 0.25, 1.0) for seed in (2, 3)}


def test_epochs_and_sigma2_are_those_of_one_curve():
    sweep = Sweep.load(SWEEP)
    addition = Addition(ids(sweep, "dae", "sigmoid"), epochs=9, sigma2=(0.04,))
    made = extended(sweep, [addition])
    changed = points(made) - points(sweep)
    sigma2 = (0, 0.04, 0.25, 1.0)
    assert changed == {("dae", "sigmoid", s, seed, 9, 0.005) for s in sigma2 for seed in (0, 1)}
    assert {t.trial_id for t in sweep.trials()} <= {t.trial_id for t in made.trials()}


def test_several_additions_and_one_after_the_other():
    sweep = Sweep.load(SWEEP)
    cae, sae = ids(sweep, "cae", "relu"), ids(sweep, "sae", "relu")
    # Two statements want more of one curve: its seeds are the same.
    once = extended(sweep, [Addition(cae, seeds=1), Addition((*cae, *sae), seeds=2)])
    assert {seed for m, a, _, seed, *_ in points(once) if (m, a) == ("cae", "relu")} == {0, 1, 2, 3}
    assert {seed for m, a, _, seed, *_ in points(once) if (m, a) == ("sae", "relu")} == {0, 1, 2, 3}
    assert not any(m == "sae" and s == 1.0 for m, _, s, *_ in points(once))
    twice = extended(once, [Addition(ids(once, "dae", "relu"), seeds=1)])
    assert {seed for m, a, _, seed, *_ in points(twice) if (m, a) == ("dae", "relu")} == {0, 1, 2}
    assert points(once) < points(twice)
    assert len(points(twice)) == len(points(once)) + 3


def test_a_sweep_along_epochs_is_refused():
    sweep = Sweep.load(SWEEP | {"space": SWEEP["space"] | {"epochs": [2, 3]}})
    with pytest.raises(RequestError, match="epochs"):
        extended(sweep, [Addition(ids(sweep, "cae", "relu"), seeds=1)])


def test_who_runs_what_he_asked_for_goes_on_with_all_of_it(tmp_path):
    done = sparseae.run(SWEEP, results=tmp_path, in_process=True)
    location, sweep = Location.of(done.place), Sweep.load(SWEEP)
    (location / ASKED).write_bytes((location / "sweep.yaml").read_bytes())
    more = extended(sweep, [Addition(ids(sweep, "cae", "relu"), seeds=1)])
    sparseae.run(more, results=tmp_path, in_process=True)
    again = sparseae.run(SWEEP, results=tmp_path, in_process=True)
    assert (again.trials, again.trained) == (len(more.trials()), 0)
    # Another sweep of this name is refused as ever.
    with pytest.raises(RequestError, match="holds another sweep"):
        sparseae.run(SWEEP, results=tmp_path, in_process=True, set_values=["space.seed=[0]"])
    assert as_asked(location, more) == more


def test_time_is_work_by_pace():
    sweep = Sweep.load(SWEEP)
    trials = sweep.trials()[:4]
    pace = Pace(2)
    whole = pace.seconds(dict.fromkeys(trials, -1))
    assert whole > 0
    assert Pace(1, pace.known).seconds(dict.fromkeys(trials, -1)) == pytest.approx(2 * whole)
    assert pace.seconds(dict.fromkeys(trials, 2)) < whole
    assert pace.seconds({}) == 0
