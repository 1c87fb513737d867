"""What a worker does about the machine that it finds itself on."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import ray
import torch

from sparseae.cluster import spot, worker
from tests.faults.processes import wait_for


def card(devices, kind: str, vendor: str) -> None:
    device = devices / f"0000:00:{len(list(devices.iterdir())):02x}.0"
    device.mkdir()
    (device / "class").write_text(kind + "\n")
    (device / "vendor").write_text(vendor + "\n")


def test_a_card_is_seen_on_the_bus_without_a_driver(tmp_path):
    assert worker.real_gpu(tmp_path) == ""
    card(tmp_path, "0x030000", "0x1013")  # a virtual machine's console
    card(tmp_path, "0x020000", "0x10de")  # a network card
    assert worker.real_gpu(tmp_path) == ""
    card(tmp_path, "0x030200", "0x10de")
    assert worker.real_gpu(tmp_path) == "NVIDIA at 0000:00:02.0"


def test_a_gpu_that_torch_cannot_use_makes_the_node_unusable(monkeypatch):
    monkeypatch.setattr(ray, "get_gpu_ids", lambda: [0])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(worker, "real_gpu", lambda: "NVIDIA at 0000:00:1e.0")
    with pytest.raises(worker.UnusableNodeError, match="cannot use"):
        worker._device()


class Cloud:
    """A metadata service."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, str]] = {}
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                status, text = outer.answers.get(self.path, (404, "none"))
                self.send_response(status)
                self.end_headers()
                self.wfile.write(text.encode())

            do_PUT = do_GET

            def log_message(self, *arguments) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def cloud(monkeypatch):
    made = Cloud()
    monkeypatch.setenv("SPARSEAE_METADATA", made.url)
    monkeypatch.setattr(spot, "_PAUSE", 0.01)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        (
            {
                "/latest/api/token": (200, "token"),
                "/latest/meta-data/spot/instance-action": (200, '{"action": "terminate"}'),
            },
            '{"action": "terminate"}',
        ),
        ({"/computeMetadata/v1/instance/preempted": (200, "TRUE")}, "preempted"),
    ],
    ids=["aws", "google"],
)
def test_a_clouds_notice_is_heard(cloud, answers, says):
    before = {path: (200, "FALSE" if "preempted" in path else "token") for path in answers}
    before.pop("/latest/meta-data/spot/instance-action", None)
    cloud.answers = before
    notice = spot.Notice()
    wait_for(lambda: len(cloud.asked) > 6, "questions")
    assert notice.text == ""
    cloud.answers = answers
    wait_for(lambda: notice.text, "the notice")
    assert notice.text == says


def test_where_no_cloud_answers_nobody_is_asked_for_ever(cloud, monkeypatch):
    cloud.close()
    before = threading.active_count()
    spot.Notice()
    wait_for(lambda: threading.active_count() <= before, "the asking to end")
