"""A full disk and a folder that cannot be written: real mounts, so the tests need root."""

import os
import subprocess

import pytest

import sparseae
from sparseae.errors import RequestError, StorageError
from tests.faults.conftest import SWEEP, Injector

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a small disk"),
]


@pytest.fixture
def mount(tmp_path):
    """Mounts as the options say, and takes all mounts away at the end."""
    mounted = []

    def call(folder, *options: str):
        folder.mkdir(exist_ok=True)
        if subprocess.run(["mount", *options, str(folder)], capture_output=True).returncode:
            pytest.skip("this machine lets nobody mount")
        mounted.append(folder)
        return folder

    yield call
    for folder in reversed(mounted):
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("in_process", [True, False])
def test_a_full_disk_stops_the_run_which_later_goes_on(
    ray, mount, tmp_path, chance, is_exact, in_process
):
    disk = mount(tmp_path / "disk", "-t", "tmpfs", "-o", "size=16m", "tmpfs")
    ballast = disk / "ballast"
    with ballast.open("wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, (16 << 20) - chance.randrange(100, 700) * 1024)
    with pytest.raises((StorageError, RequestError), match=r"No space left|cannot be written"):
        sparseae.run(SWEEP, results=disk, in_process=in_process)
    ballast.unlink()
    assert not sparseae.run(SWEEP, results=disk, in_process=in_process).failed
    is_exact(disk / "faults")


def test_a_folder_that_cannot_be_written_is_one_line_before_anything_starts(mount, tmp_path):
    (tmp_path / "folder").mkdir()
    folder = mount(tmp_path / "folder", "-t", "tmpfs", "-o", "ro", "tmpfs")
    watch = Injector(0, lambda: None)
    with pytest.raises(RequestError, match="cannot be written: Read-only file system"):
        sparseae.run(SWEEP, results=folder, observer=watch)
    assert not watch.struck
