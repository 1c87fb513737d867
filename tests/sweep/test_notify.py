"""``notify:`` against a real HTTP server, and with a real command; a run never waits for either."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import sparseae
from sparseae.errors import RequestError
from sparseae.sweep import notify
from sparseae.sweep.config import Sweep
from sparseae.sweep.job import Observer
from sparseae.sweep.piece import Piece

SECRET = "T0psecret"
SMALL = {
    "name": "told",
    "space": {
        "model": ["dae", "cae"],
        "activation": ["relu"],
        "sigma2": [0],
        "dataset": ["digits"],
    },
    "training": {"epochs": 1, "hidden_units": 8, "samples": 50},
}


class Server:
    """Keeps what it is sent; may answer badly, or not at all."""

    def __init__(self) -> None:
        self.bodies: list[dict] = []
        self.status, self.hold = 200, threading.Event()
        self.hold.set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                assert self.headers["Content-Type"] == "application/json"
                outer.hold.wait(20)
                outer.bodies.append(json.loads(body))
                self.send_response(outer.status)
                self.end_headers()

            def log_message(self, *arguments) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/services/{SECRET}"

    def close(self) -> None:
        self.hold.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server():
    made = Server()
    yield made
    made.close()


class Notes(Observer):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def run(tmp_path, target: str, **options):
    watch = Notes()
    results = sparseae.run(
        SMALL | {"notify": target}, results=tmp_path, in_process=True, observer=watch, **options
    )
    return results, watch.notes


def test_the_end_is_posted_and_the_secret_is_in_no_file(server, tmp_path):
    results, notes = run(tmp_path, server.url)
    assert not results.failed
    (body,) = server.bodies
    assert body["event"] == "ended"
    assert body["text"] == "told: all 2 trials are finished"
    assert (body["sweep"], body["trials"], body["unfinished"]) == ("told", 2, 0)
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or SECRET.encode() not in file.read_bytes(), file
    assert not any(SECRET in note for note in notes)


def test_only_the_first_failure_is_posted_before_the_end(server, tmp_path, monkeypatch):
    def fail(piece):
        raise RuntimeError("no luck")

    monkeypatch.setattr(Piece, "advance", fail)
    results, _ = run(tmp_path, server.url)
    assert len(results.failed) == 2
    assert [body["event"] for body in server.bodies] == ["failed", "ended"]
    assert "RuntimeError: no luck" in server.bodies[0]["text"]
    assert "2 of 2 trials unfinished" in server.bodies[1]["text"]


def test_a_server_that_does_not_answer_holds_up_nothing(server, tmp_path, monkeypatch):
    monkeypatch.setattr(notify, "_AT_END", 0.2)
    server.hold.clear()
    results, _ = run(tmp_path, server.url)
    assert not results.failed
    assert server.bodies == []


@pytest.mark.parametrize("status", [403, 500])
def test_a_refusal_is_one_note_without_the_secret(server, tmp_path, status):
    server.status = status
    results, notes = run(tmp_path, server.url)
    assert not results.failed
    assert [n for n in notes if "notify" in n] == [
        f"notify: nobody could be told: HTTP status {status}"
    ]


def test_no_server_is_one_note(server, tmp_path):
    server.close()
    _, notes = run(tmp_path, server.url)
    assert [n for n in notes if "notify" in n] == [
        "notify: nobody could be told: Connection refused"
    ]


def test_a_command_gets_the_message_on_its_standard_input(tmp_path):
    run(tmp_path, f"cat > {tmp_path}/told.json")
    assert json.loads((tmp_path / "told.json").read_text())["event"] == "ended"


def test_a_command_that_fails_is_one_note(tmp_path):
    _, notes = run(tmp_path, f"echo {SECRET}; exit 3")
    assert [n for n in notes if "notify" in n] == ["notify: nobody could be told: exit status 3"]


def test_a_variable_of_the_environment_names_the_target(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HOOK_OF_MINE", server.url)
    run(tmp_path, "$HOOK_OF_MINE")
    assert [body["event"] for body in server.bodies] == ["ended"]
    assert "notify: $HOOK_OF_MINE" in (tmp_path / "told" / "sweep.yaml").read_text()
    assert Sweep.load(tmp_path / "told" / "sweep.yaml").notify == "$HOOK_OF_MINE"


def test_what_cannot_be_told_is_refused_before_anything_starts(tmp_path, monkeypatch):
    monkeypatch.delenv("HOOK_OF_MINE", raising=False)
    with pytest.raises(RequestError, match=r"notify: \$HOOK_OF_MINE is not set"):
        run(tmp_path, "$HOOK_OF_MINE")
    with pytest.raises(RequestError, match="notify: must be an http"):
        run(tmp_path, f"ftp://host/{SECRET}")
    assert not (tmp_path / "told").exists()


def test_a_sweep_keeps_its_target_through_changes():
    sweep = Sweep.load(SMALL | {"notify": "true"})
    assert Sweep.load(sweep, ["training.epochs=2"]).notify == "true"
    assert "notify" not in sweep.text()
