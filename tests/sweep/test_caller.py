"""Whatever a run sets in the process that called it is as it was afterwards."""

import faulthandler
import logging
import os
import random
import signal
import sys
import threading
import warnings

import matplotlib as mpl
import numpy as np
import pytest
import torch

import sparseae
import sparseae.analysis.plot  # what an import adds to the warnings' filters is not the run's
from sparseae.errors import RequestError
from sparseae.sweep import runner
from sparseae.sweep.caller import as_it_was
from sparseae.sweep.job import Observer

SWEEP = {
    "name": "small",
    "space": {"model": ["dae"], "activation": ["relu"], "sigma2": [0, 0.25], "dataset": ["digits"]},
    "training": {"epochs": 1, "hidden_units": 4, "samples": 100},
}


def state() -> dict[str, object]:
    """All of a process that a library may set, and that its other code relies on."""
    every = [None, *(n for n in logging.root.manager.loggerDict if n.startswith(("ray", "x")))]
    logs = {name: logging.getLogger(name) for name in every}
    mask = os.umask(0)
    os.umask(mask)
    return {
        "environment": dict(os.environ),
        "directory": os.getcwd(),
        "umask": mask,
        "loggers": {n: (g.level, g.handlers[:], g.propagate, g.disabled) for n, g in logs.items()},
        "signals": {n: signal.getsignal(n) for n in signal.valid_signals()},
        "hooks": (sys.excepthook, threading.excepthook, sys.unraisablehook),
        "streams": (sys.stdout, sys.stderr),
        "faulthandler": faulthandler.is_enabled(),
        "warnings": warnings.filters[:],
        "random": random.getstate(),
        "numpy": str(np.random.get_state()),  # noqa: NPY002
        "torch": torch.get_rng_state().tolist(),
        "threads": torch.get_num_threads(),
        "precision": torch.get_float32_matmul_precision(),
        "type": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "tf32": (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32),
        "matplotlib": dict(mpl.rcParams),
    }


def is_as(before: dict[str, object]) -> bool:
    """Whether the process is as it was, loggers that an import made since apart."""
    after = state()
    after["loggers"] = {name: after["loggers"][name] for name in before["loggers"]}
    assert after == before
    return True


def disturb() -> None:
    """What libraries do to a process, and worse."""
    os.environ.update({"TUNE_X": "1", "HOME": "/elsewhere"})
    os.environ.pop("PATH", None)
    os.chdir("/")
    os.umask(0o77)
    for name in (None, "ray.tune", "x"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
        logging.getLogger(name).addHandler(logging.NullHandler())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, lambda *_: None)
    sys.excepthook = lambda *_: None
    warnings.simplefilter("error")
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    torch.set_num_threads(torch.get_num_threads() + 1)
    torch.set_float32_matmul_precision("medium")
    torch.set_grad_enabled(False)


def test_everything_is_put_back_however_it_ends():
    logging.getLogger("ray.tune")
    logging.getLogger("x")
    before = state()
    with as_it_was():
        disturb()
    assert is_as(before)
    with pytest.raises(KeyboardInterrupt), as_it_was():
        disturb()
        raise KeyboardInterrupt
    assert is_as(before)


def test_it_may_be_entered_in_another_thread_where_no_signal_can_be_set():
    errors = []

    def work() -> None:
        try:
            with as_it_was():
                random.seed(1)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert errors == []


class Disturbs(Observer):
    def started(self, sweep, left, tasks):
        disturb()


def test_a_run_in_process_leaves_the_process_as_it_was(tmp_path):
    before = state()
    results = sparseae.run(SWEEP, results=tmp_path, in_process=True, observer=Disturbs())
    assert not results.failed
    sparseae.trends(results.frame)
    sparseae.plot.by_sigma2(results.frame, "relu", "unit_norm")
    assert is_as(before)


def test_a_run_that_raises_leaves_the_process_as_it_was(tmp_path, monkeypatch):
    def fail(*_):
        disturb()
        raise RuntimeError("no luck")

    monkeypatch.setattr(runner, "_train", fail)
    before = state()
    with pytest.raises(RuntimeError, match="no luck"):
        sparseae.run(SWEEP, results=tmp_path, in_process=True)
    with pytest.raises(RequestError):
        sparseae.run(SWEEP | {"name": "../x"}, results=tmp_path, in_process=True)
    assert is_as(before)


@pytest.mark.slow
def test_a_run_on_ray_leaves_the_process_and_its_own_tune_runs_as_they_were(tmp_path, monkeypatch):
    """Also those on a cluster that asks for no token, as the run's own Ray did."""
    import ray
    from ray import tune
    from ray.cluster_utils import Cluster

    import sparseae.cluster.tune

    monkeypatch.setenv("RAY_AIR_NEW_OUTPUT", "1")
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    before = state()
    assert not sparseae.run(SWEEP, results=tmp_path).failed
    assert is_as(before)
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        tuner = tune.Tuner(
            lambda config: {"loss": 1.0},
            run_config=tune.RunConfig(storage_path=str(tmp_path), name="own", verbose=0),
        )
        tuner.fit()
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert list((tmp_path / "own").rglob("result.json"))
