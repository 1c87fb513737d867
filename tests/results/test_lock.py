"""The lock of an object store, on fsspec's memory:// and filesystems that fail as theirs do."""

import json
import os
import threading
import time
import uuid

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

import sparseae
from sparseae.errors import RequestError, StorageError
from sparseae.results import lock
from sparseae.results.location import Location, below
from tests.faults.processes import wait_for

SMALL = {
    "name": "small",
    "space": {
        "model": ["dae", "cae"],
        "activation": ["relu"],
        "sigma2": [0],
        "dataset": ["digits"],
    },
    "training": {"epochs": 2, "hidden_units": 8, "samples": 50},
}


class CloudError(Exception):
    """As gcsfs' HttpError and Azure's errors: no OSError."""


class Cloud(MemoryFileSystem):
    """fsspec's memory, which now and then does not answer."""

    protocol = "cloud"
    store: dict = {}  # noqa: RUF012 (fsspec's own way)
    pseudo_dirs = [""]  # noqa: RUF012
    down = False
    failures = 0

    def _fail(self) -> None:
        if Cloud.down:
            Cloud.failures += 1
            raise CloudError("503: try again")

    def _open(self, *arguments, **options):
        self._fail()
        return super()._open(*arguments, **options)

    def info(self, *arguments, **options):
        self._fail()
        return super().info(*arguments, **options)


fsspec.register_implementation("cloud", Cloud, clobber=True)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(lock, "_BEAT", 0.05)
    monkeypatch.setattr(lock, "_DEAD", 0.6)
    monkeypatch.setattr(lock, "_RIVAL", 0.05)
    monkeypatch.setattr(lock, "_PAUSE", 0.02)


@pytest.fixture(params=["memory", "cloud"])
def place(request):
    Cloud.down, Cloud.failures = False, 0
    return f"{request.param}://bucket-{uuid.uuid4().hex}"


@pytest.fixture
def cloud():
    Cloud.down, Cloud.failures = False, 0
    yield Location.of(f"cloud://bucket-{uuid.uuid4().hex}/small")
    Cloud.down = False


def silent(message: str) -> None:
    pass


def rival(**about) -> bytes:
    mine = {"owner": "y", "process": 2, "host": "elsewhere", "where": "elsewhere", "beat": 3}
    return json.dumps(mine | about).encode()


def test_a_lock_of_another_container_under_the_same_host_name_is_watched(place, quick):
    """Its process cannot be seen from here, and it beats."""
    location = Location.of(f"{place}/small")
    over, beats = threading.Event(), []

    def beating() -> None:
        while not over.wait(0.05):
            beats.append(None)
            about = {"host": os.uname().nodename, "process": 2**22 + 1, "beat": len(beats)}
            (location / lock.LOCK_FILE).write_bytes(rival(**about))

    thread = threading.Thread(target=beating)
    thread.start()
    try:
        wait_for(lambda: beats, "a beat")
        refused = pytest.raises(RequestError, match="is being run by process")
        with refused, lock.only_run(location, silent):
            pass
    finally:
        over.set()
        thread.join()


def test_a_process_of_this_machine_that_is_gone_is_not_watched(place, quick, monkeypatch):
    monkeypatch.setattr(lock, "_DEAD", 60.0)
    location = Location.of(f"{place}/small")
    gone = {"where": lock._where(), "host": os.uname().nodename, "process": 2**22 + 1, "began": "7"}
    (location / lock.LOCK_FILE).write_bytes(rival(**gone))
    notes = []
    with lock.only_run(location, notes.append):
        pass
    assert notes == []


def test_a_number_that_another_process_has_now_is_no_sign_of_life(place, quick, monkeypatch):
    monkeypatch.setattr(lock, "_DEAD", 60.0)
    location = Location.of(f"{place}/small")
    gone = {"where": lock._where(), "process": os.getpid(), "began": "1"}
    (location / lock.LOCK_FILE).write_bytes(rival(**gone))
    with lock.only_run(location, silent):
        pass


def test_an_error_that_is_no_os_error_does_not_end_the_beat(cloud, quick):
    with lock.only_run(cloud, silent) as check:
        Cloud.down = True
        wait_for(lambda: Cloud.failures > 2, "failed beats")
        Cloud.down = False
        before = json.loads((cloud / lock.LOCK_FILE).read_bytes())["beat"]
        wait_for(
            lambda: json.loads((cloud / lock.LOCK_FILE).read_bytes())["beat"] > before, "a beat"
        )
        check()
        (cloud / lock.LOCK_FILE).write_bytes(rival())
        with pytest.raises(StorageError, match="process 2 on elsewhere runs it now"):
            while True:
                check()
                (cloud / lock.LOCK_FILE).write_bytes(rival())
                time.sleep(0.01)


def is_refused_soon(check, says: str) -> None:
    """Asserts that the check, asked again and again, comes to refuse."""
    stop = time.monotonic() + 60
    with pytest.raises(StorageError, match=says):
        while time.monotonic() < stop:
            check()
            time.sleep(0.05)


def test_after_lost_beats_the_check_looks_before_it_passes(cloud, quick, monkeypatch):
    """A run was cut off; another took its place, and no beat has noticed yet."""
    monkeypatch.setattr(lock, "_BEAT", 3600.0)
    with lock.only_run(cloud, silent) as check:
        check()
        (cloud / lock.LOCK_FILE).write_bytes(rival())
        is_refused_soon(check, "process 2 on elsewhere runs it now")


def test_a_run_that_cannot_tell_whose_the_lock_is_writes_nothing(cloud, quick, monkeypatch):
    monkeypatch.setattr(lock, "_BEAT", 3600.0)
    with lock.only_run(cloud, silent, patience=0.1) as check:
        Cloud.down = True
        is_refused_soon(check, "CloudError: 503")


def test_a_sweep_goes_on_through_errors_that_are_no_os_errors(cloud, quick, monkeypatch):
    from sparseae.results import patience
    from sparseae.sweep.job import Observer

    monkeypatch.setattr(patience, "_FIRST_PAUSE", 0.01)

    class Outage(Observer):
        def finished(self, task) -> None:
            if not Cloud.failures:
                Cloud.down = True
                threading.Timer(0.3, lambda: setattr(Cloud, "down", False)).start()

    url = f"cloud://{cloud.path.strip('/').rsplit('/', 1)[0]}"
    results = sparseae.run(SMALL, results=url, in_process=True, observer=Outage())
    assert Cloud.failures
    assert not results.failed
    assert len(sparseae.load(below(url, "small"))) == 2 * 3
    again = sparseae.run(SMALL, results=url, in_process=True, set_values=["training.epochs=3"])
    assert again.trained == 2
    assert len(sparseae.load(below(url, "small"))) == 2 * 4
    overwritten = sparseae.run(SMALL, results=url, in_process=True, overwrite=True)
    assert len(overwritten.frame) == 2 * 3
