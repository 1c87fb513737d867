"""Where files are looked for, and what is downloaded, from a real server on loopback."""

import gzip
import hashlib
import http.server
import io
import tarfile
import threading

import pytest

from sparseae import data
from sparseae.data import cifar10, files, mnist
from sparseae.errors import RequestError
from tests.data.small_files import batch, idx, put_batch, put_mnist


def archive(*names: str) -> bytes:
    """A tar.gz like CIFAR-10's, with these files of one small batch each."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name in names:
            entry = tarfile.TarInfo(name)
            entry.size = len(batch())
            tar.addfile(entry, io.BytesIO(batch()))
    return out.getvalue()


def md5(content: bytes) -> str:
    return f"md5:{hashlib.md5(content).hexdigest()}"


@pytest.fixture
def server(tmp_path):
    """The address of a server, and its folder."""
    served = tmp_path / "served"
    served.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(served))

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", served
        running.shutdown()


@pytest.fixture
def official(server, monkeypatch):
    """Both data sets' official places on the server, with the checksums of what is there."""
    address, served = server
    images = put_mnist(served).read_bytes()
    (served / "train-images-idx3-ubyte.gz").write_bytes(images)
    test = gzip.compress(idx(10))
    (served / "t10k-images-idx3-ubyte.gz").write_bytes(test)
    monkeypatch.setattr(mnist, "_TEST_URL", f"{address}/t10k-images-idx3-ubyte.gz")
    monkeypatch.setattr(mnist, "_TEST_CHECKSUM", md5(test))
    batches = archive(*cifar10._BATCHES, "cifar-10-batches-bin/test_batch.bin")
    (served / "cifar-10-binary.tar.gz").write_bytes(batches)
    for module, file, content in (
        (mnist, "train-images-idx3-ubyte.gz", images),
        (cifar10, "cifar-10-binary.tar.gz", batches),
    ):
        assert module._URL.endswith(f"/{file}")
        monkeypatch.setattr(module, "_URL", f"{address}/{file}")
        monkeypatch.setattr(module, "_CHECKSUM", md5(content))
    return served


def test_the_published_checksums_are_these():
    # torchvision's for MNIST; CIFAR-10's page, https://www.cs.toronto.edu/~kriz/cifar.html
    assert mnist._CHECKSUM == "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873"
    assert cifar10._CHECKSUM == "md5:c32a1d4ab5d03f1284b67883e8d87530"


def test_mnist_is_downloaded_once(folder, official):
    first = data.prepare("mnist", samples=10)
    assert data.source("mnist").where() == str(files.cache("mnist") / "train-images-idx3-ubyte.gz")
    assert first.heldout is not None
    for file in official.glob("*-images-idx3-ubyte.gz"):
        file.unlink()
    assert data.prepare("mnist", samples=10).fingerprint == first.fingerprint


def test_cifar10_is_downloaded_and_unpacked_once(folder, official):
    first = data.prepare("cifar10", samples=10)
    assert first.details["batches"] == 5
    assert first.heldout is not None
    assert [p.name for p in files.cache("cifar10").iterdir()] == ["cifar-10-batches-bin"]
    (official / "cifar-10-binary.tar.gz").unlink()
    assert data.prepare("cifar10", samples=10).fingerprint == first.fingerprint


@pytest.mark.parametrize(("name", "unpack"), [("mnist", None), ("cifar10", "folder")])
@pytest.mark.parametrize("trouble", ["wrong checksum", "not there", "no server"])
def test_a_failed_download_says_how_to_supply_the_file(folder, server, name, unpack, trouble):
    address, served = server
    (served / "file.gz").write_bytes(b"something else")
    url = {"wrong checksum": address, "not there": f"{address}/none", "no server": "http://[::1]:9"}
    with pytest.raises(RequestError) as caught:
        files.download(name, f"{url[trouble]}/file.gz", md5(b"wanted"), unpack=unpack)
    message = str(caught.value)
    assert "\n" not in message
    assert "file.gz" in message
    assert "SPARSEAE_DATA_DIR" in message
    assert str(files.cache(name)) in message
    assert ("unpacked" in message) == bool(unpack)
    assert not list(files.cache(name).iterdir())


def test_an_archive_that_lacks_its_folder_leaves_no_data_set_behind(folder, server):
    address, served = server
    content = archive("elsewhere/data_batch_1.bin")
    (served / "x.tar.gz").write_bytes(content)
    with pytest.raises(RequestError, match="SPARSEAE_DATA_DIR"):
        files.download("cifar10", f"{address}/x.tar.gz", md5(content), unpack=cifar10._FOLDER)
    assert not data.source("cifar10")._files()


def test_the_users_folder_comes_before_the_cache_and_the_two_never_mix(folder):
    cache = files.cache("cifar10").parent
    for number in (1, 2, 3):
        put_batch(cache, number)
    assert data.prepare("cifar10", samples=10).details["batches"] == 3
    put_batch(folder, 4)
    prepared = data.prepare("cifar10", samples=10)
    assert prepared.details["files"] == "data_batch_4.bin"
    assert str(folder) in data.source("cifar10").where()


def test_a_data_folder_that_does_not_exist_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("SPARSEAE_DATA_DIR", str(tmp_path / "none"))
    with pytest.raises(RequestError, match=r"SPARSEAE_DATA_DIR=.*none"):
        data.prepare("mnist", samples=10)


def test_an_unreadable_file_is_named(tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(RequestError, match="cannot be read: Is a directory"):
        cifar10.read_batch(tmp_path / "x")
