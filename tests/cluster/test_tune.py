"""Runs end to end on a real Ray, and what Tune is told of them."""

import itertools

import pandas as pd
import pytest
import torch

from sparseae.results.location import Location
from sparseae.sweep.config import Sweep
from tests.sweep.test_run import SMALL, content, run


@pytest.mark.slow
def test_ray_tune_leaves_what_one_process_leaves(ray, tmp_path, monkeypatch):
    from ray import tune

    grids = []

    class Watched(tune.Tuner):
        def fit(self):
            grids.append(super().fit())
            return grids[-1]

    monkeypatch.setattr(tune, "Tuner", Watched)
    on_ray = run(tmp_path, folder="a", in_process=False)
    assert not on_ray.failed
    # Of what it was told the driver keeps neither rows nor units, and no file of Tune's own stays.
    kept = [metrics for trial in grids[0] for _, metrics in trial.best_checkpoints]
    assert len(kept) == len(grids[0]) > 0
    assert not any({"rows", "units"} & metrics.keys() for metrics in kept)
    assert not any({"rows", "units"} & trial.metrics.keys() for trial in grids[0])
    assert Location.of(tmp_path / "a" / "small" / "checkpoints").files() == []
    here = run(tmp_path, folder="b")
    pd.testing.assert_frame_equal(content(on_ray.frame), content(here.frame), check_exact=True)
    # What Ray's trials saved, a run in one process goes on from, and the other way round.
    further = run(tmp_path, "training.epochs=4", folder="a")
    beyond = run(tmp_path, "training.epochs=4", folder="b", in_process=False)
    pd.testing.assert_frame_equal(content(further.frame), content(beyond.frame), check_exact=True)


@pytest.mark.slow
def test_a_failed_tune_trial_is_reported_and_the_rest_goes_on(ray, tmp_path):
    """Weights cannot be written where a folder stands in the file's place."""
    blocked = Sweep.load(SMALL).trials()[0]
    (tmp_path / "a" / "small" / "weights" / f"{blocked.trial_id}.safetensors").mkdir(parents=True)
    results = run(tmp_path, "keep_weights=true", "max_failures=0", folder="a", in_process=False)
    assert blocked.trial_id in results.failed
    assert len(results.failed) < 8
    assert "safetensors" in results.failed[blocked.trial_id]


def test_tunes_trials_have_the_points_of_the_sweep_and_every_one_of_them():
    """What Tune shows of a trial; which trials there are, the pieces say."""
    from sparseae.cluster.tune import _config
    from sparseae.sweep.job import Task
    from sparseae.sweep.plan import stacks

    sweep = Sweep.load(SMALL, ["stack=[sigma2]"])
    shown = set()
    for index, plan in enumerate(stacks(sweep)):
        config = _config(Task(index, plan.trials), sweep)
        assert config.pop("piece") == index
        assert list(config) == list(sweep.axes)
        values = [config[axis] if axis == "sigma2" else [config[axis]] for axis in sweep.axes]
        shown |= {tuple(point) for point in itertools.product(*values)}
    assert shown == {tuple(t.values()[axis] for axis in sweep.axes) for t in sweep.trials()}


@pytest.mark.parametrize(("given", "threads"), [({"CPU": 2.0}, 2), ({"CPU": 0.5}, 1), ({}, 1)])
def test_a_tune_trial_computes_with_as_many_threads_as_it_was_given_cpus(
    given, threads, monkeypatch
):
    import ray

    from sparseae.cluster.tune import StackTrainable

    class Context:
        def get_assigned_resources(self):
            return given

    monkeypatch.setattr(ray, "get_runtime_context", Context)
    monkeypatch.setattr(ray, "get_gpu_ids", list)
    monkeypatch.setattr(StackTrainable, "_begin", lambda self, config: None)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        StackTrainable.setup(object.__new__(StackTrainable), {})
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_tune_starts_trials_where_ray_started_workers_with_itself():
    """Their environment is the driver's: else each trial's worker would start anew."""
    from ray.tune.execution import class_cache

    from sparseae.cluster.ray_internals import prompt_tune
    from sparseae.cluster.worker import StackTrainable

    def environment():
        return class_cache._ActorClassCache().get(StackTrainable)._default_options["runtime_env"]

    with prompt_tune(private=True):
        assert not environment().get("env_vars")
    assert environment()["env_vars"] == class_cache.DEFAULT_ENV_VARS != {}


def test_a_trial_is_left_to_the_worker_that_is_being_started_for_it():
    from ray.tune.experiment import Trial as TuneTrial
    from ray.tune.result import NODE_IP, PID

    from sparseae.cluster.tune import _FirstCome

    trials = [TuneTrial("x", stub=True, trial_id=str(number)) for number in range(5)]
    scheduler = _FirstCome(workers=2)
    for trial in trials:
        scheduler.on_trial_add(None, trial)
    trials[0].status = TuneTrial.RUNNING
    scheduler.on_trial_result(None, trials[0], {NODE_IP: "here", PID: 1})
    assert scheduler.choose_trial_to_run(None) is trials[2]  # 1 is the second worker's
    trials[2].status = TuneTrial.RUNNING
    trials[1].status = TuneTrial.RUNNING
    scheduler.on_trial_result(None, trials[1], {NODE_IP: "here", PID: 2})
    assert scheduler.choose_trial_to_run(None) is trials[3]
    trials[3].status = trials[4].status = TuneTrial.TERMINATED
    assert scheduler.choose_trial_to_run(None) is None
