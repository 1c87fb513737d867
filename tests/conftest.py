"""Real data for the tests: SPARSEAE_DATA_DIR, or the folder beside the checkout, as in CI."""

import os
import signal
from collections import Counter
from pathlib import Path

import pytest

# A shell starts what runs in its background deaf to Ctrl-C, which tests send themselves.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Two threads that wait for each other on a busy machine take minutes for seconds of tests.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The kernels of a GPU run on CPU tensors: it must be said before Triton is imported.
os.environ.setdefault("TRITON_INTERPRET", "1")


def _routine() -> str:
    """Runs of steps in C where this machine compiles them, as sweeps do."""
    import torch  # once the number of its threads is said

    from sparseae.engine.library import compiled

    return "torch" if compiled(torch.float32) is None else "torch+run"


# Which routine is fastest depends on what else runs: tests that compare two runs fix it. Forced to
# another, as `SPARSEAE_GEMM=onednn make test` does, every test must pass with that one too.
if not os.environ.get("SPARSEAE_GEMM"):
    os.environ["SPARSEAE_GEMM"] = _routine()

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture
def real_data(monkeypatch) -> Path:
    place = Path(os.environ.get("SPARSEAE_DATA_DIR", REPOSITORY.parent / "shared" / "data"))
    if not (place / "mnist").is_dir():
        pytest.skip(f"no real MNIST and CIFAR-10 in {place}: set SPARSEAE_DATA_DIR")
    monkeypatch.setenv("SPARSEAE_DATA_DIR", str(place.resolve()))
    return place


@pytest.fixture(autouse=True)
def _environment():
    """What a test sets in the environment ends with it, whatever it calls."""
    from sparseae.sweep import caller

    restore = caller._environment()
    yield
    restore()


@pytest.fixture(autouse=True)
def _handlers():
    """What a test does to Ctrl-C ends with it: plain Ray Tune leaves a handler."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        if handler is not None:  # of C, which Python cannot put back
            signal.signal(number, handler)


@pytest.fixture(scope="module")
def ray():
    """A Ray of two CPUs that runs already, which a sweep takes: to start one takes five seconds."""
    import ray

    from sparseae.cluster.ray_internals import read_settings
    from sparseae.sweep import caller

    restore = caller._environment()
    # Not one that another test has started on this machine.
    ray.init(
        "local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR"
    )
    yield
    ray.shutdown()
    restore()
    # Ray sets RAY_AUTH_MODE where it starts, and knows it by heart: else a later Ray would be
    # started with the one and asked with the other.
    read_settings()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with a slow test come first, then those with most tests, each shuffled as it is.

    With `--no-loadscope-reorder` the workers take them in this order: at the end short files are
    left, and no worker waits for another's last cluster.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    tests = Counter(item.path for item in items)
    items.sort(key=lambda item: (item.path not in slow, -tests[item.path]))
