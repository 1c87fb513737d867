"""Results on a real S3 server: large files, the server gone for a while, two runs at once."""

import threading
import urllib.parse

import pytest
from pyarrow import fs

import sparseae
from sparseae.errors import RequestError, StorageError
from sparseae.results import lock
from sparseae.results.location import Location, below
from tests.faults.conftest import ROWS, SWEEP, Injector, free_port
from tests.faults.processes import wait_for

pytestmark = pytest.mark.slow


class Server:
    """moto's S3 server on loopback; what it holds outlasts its being away."""

    def __init__(self) -> None:
        self.port = free_port()
        self.start()
        self.filesystem().create_dir("bucket")

    def start(self) -> None:
        from moto.server import ThreadedMotoServer

        self._server = ThreadedMotoServer("127.0.0.1", self.port, verbose=False)
        self._server.start()

    def stop(self) -> None:
        self._server.stop()

    def url(self, folder: str) -> str:
        endpoint = urllib.parse.quote(f"127.0.0.1:{self.port}", safe="")
        return (
            f"s3://key:secret@bucket/{folder}"
            f"?scheme=http&region=us-east-1&endpoint_override={endpoint}"
        )

    def filesystem(self) -> fs.FileSystem:
        return fs.FileSystem.from_uri(self.url("x") + "&allow_bucket_creation=true")[0]


@pytest.fixture(scope="module")
def server():
    made = Server()
    yield made
    made.stop()


@pytest.fixture
def place(server, tmp_path) -> str:
    return server.url(tmp_path.name)


def test_files_of_several_parts_come_back_whole(server, place):
    for patience in (0, 5):
        file = Location.of(below(place, "large")).patient(patience)
        data = bytes(range(256)) * (48 << 10)  # 12 MiB; S3 takes parts from 5 MiB
        file.write_bytes(data)
        assert file.read_bytes() == data


def test_a_sweep_on_ray_keeps_all_of_it_on_the_server(ray, place):
    """Checkpoints of 8 MiB too, which further epochs and a run in one process go on from."""
    large = {
        "name": "large",
        "space": {"model": ["cae"], "activation": ["relu"], "sigma2": [0, 0.25],
                  "dataset": ["digits"], "seed": [0, 1]},
        "training": {"epochs": 1, "hidden_units": 8000, "samples": 100},
    }  # fmt: skip
    assert not sparseae.run(large, results=place).failed
    files = Location.of(below(place, "large")).files("state.safetensors", recursive=True)
    sizes = [f.filesystem.get_file_info(f.path).size for f in files]
    assert min(sizes) > 6 << 20  # more than one part
    again = sparseae.run(large, results=place, set_values=["training.epochs=2"], in_process=True)
    assert again.trained == 4
    frame = sparseae.load(below(place, "large"))
    assert sorted(frame["epoch"]) == [0] * 4 + [1] * 4 + [2] * 4
    curves = sparseae.trends(frame)
    assert len(curves) == 1


def test_a_server_that_is_away_for_a_while_is_waited_for(server, place, chance, is_exact):
    def away() -> None:
        server.stop()
        threading.Timer(3.0, server.start).start()

    fault = Injector(chance.randrange(1, ROWS - 20), away)
    results = sparseae.run(SWEEP, results=place, observer=fault, in_process=True)
    assert fault.struck
    assert not results.failed
    is_exact(below(place, "faults"))


def test_a_server_that_stays_away_stops_the_run_which_later_goes_on(
    server, place, chance, is_exact, monkeypatch
):
    fault = Injector(chance.randrange(1, ROWS - 20), server.stop)
    with pytest.raises(StorageError, match=r"cannot be written .* the same command goes on"):
        sparseae.run(
            SWEEP, results=place, observer=fault, in_process=True,
            set_values=["storage_patience=2"],
        )  # fmt: skip
    server.start()
    monkeypatch.setattr(lock, "_DEAD", 1.0)  # the lock could not be deleted, and is waited out
    assert not sparseae.run(SWEEP, results=place, in_process=True).failed
    is_exact(below(place, "faults"))


def test_no_server_is_one_line_at_once(tmp_path):
    nowhere = f"s3://k:s@bucket/x?scheme=http&endpoint_override=127.0.0.1%3A{free_port()}"
    with pytest.raises(RequestError, match="bucket/x/faults"):
        sparseae.run(SWEEP, results=nowhere, in_process=True)


def test_a_second_run_is_refused_while_the_first_beats(server, place, monkeypatch, is_exact):
    monkeypatch.setattr(lock, "_BEAT", 0.2)
    monkeypatch.setattr(lock, "_DEAD", 10.0)
    refused = []

    def second() -> None:
        with pytest.raises(RequestError, match="is being run by process"):
            sparseae.run(SWEEP, results=place, in_process=True)
        refused.append(True)

    results = sparseae.run(SWEEP, results=place, in_process=True, observer=Injector(1, second))
    assert refused
    assert not results.failed
    is_exact(below(place, "faults"))


def test_a_dead_run_on_another_machine_is_waited_out(server, place, monkeypatch):
    monkeypatch.setattr(lock, "_DEAD", 1.0)
    file = Location.of(below(place, "faults")) / lock.LOCK_FILE
    file.write_bytes(b'{"owner": "x", "process": 1, "host": "elsewhere", "beat": 3}')
    watch = Injector(0, lambda: None)
    results = sparseae.run(SWEEP, results=place, in_process=True, observer=watch)
    assert not results.failed
    assert any("process 1 on elsewhere may be running it" in note for note in watch.notes)
    assert not file.exists()


def test_a_run_whose_place_was_taken_stops_writing(server, place, monkeypatch):
    monkeypatch.setattr(lock, "_BEAT", 0.1)
    location = Location.of(below(place, "faults"))
    rival = b'{"owner": "y", "process": 2, "host": "elsewhere", "beat": 3}'

    def usurp() -> None:
        beating = [t for t in threading.enumerate() if t.name == "sparseae-lock"]

        def lost() -> bool:
            # A rival beats too: one write may fall between the other's look and its write.
            (location / lock.LOCK_FILE).write_bytes(rival)
            return not any(t.is_alive() for t in beating)

        wait_for(lost, "the lock to be seen as lost")

    with pytest.raises(StorageError, match="process 2 on elsewhere runs it now"):
        sparseae.run(SWEEP, results=place, in_process=True, observer=Injector(1, usurp))
    assert (location / lock.LOCK_FILE).read_bytes() == rival


def test_any_fsspec_url_takes_a_sweep_on_ray(ray, tmp_path, is_exact):
    place = f"local://{tmp_path}/shared"
    assert not sparseae.run(SWEEP, results=place).failed
    is_exact(below(place, "faults"))
    assert (tmp_path / "shared" / "faults" / "sweep.yaml").exists()
