"""Machines for a cluster on this machine: each with its own address, processes, home and sshd.

A machine is a set of Linux namespaces: network (an address on a bridge, no way out), processes
(so that `ray stop` on it stops its own Ray alone), mounts (its own home, /tmp and /dev/shm; /srv is
``folder/shared`` on all of them). The rest of the file system is this machine's. Needs root.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import REPOSITORY

_NET = "10.77.0"
#: Ray lets its workers wait for whatever else this machine does; a test shall not.
_NICE = "RAY_worker_niceness=0"
_TOOLS = ("ip", "unshare", "nsenter", "sshd", "ssh", "ssh-keygen", "rsync")


def missing() -> str | None:
    """Why machines cannot be made here; None where they can."""
    if os.geteuid() != 0:
        return "needs root"
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    if lacking := [tool for tool in _TOOLS if shutil.which(tool, path=path) is None]:
        return f"needs {', '.join(lacking)}"
    probe = ["unshare", "--mount", "--pid", "--net", "--fork", "true"]
    done = subprocess.run(probe, capture_output=True, text=True)
    return done.stderr.strip() or None


@dataclass(frozen=True)
class Machine:
    """One machine; its processes end with it."""

    name: str
    address: str
    home: Path
    pid: int  # of its first process, as the outside counts

    def command(self, *words: str) -> list[str]:
        """What runs a command there, as root, in its home."""
        inside = ["nsenter", f"--target={self.pid}", "--mount", "--pid", "--net", "--uts"]
        return [*inside, "env", "-i", *_environment(self), *words]

    def run(self, *words: str, timeout: float = 120, **options) -> subprocess.CompletedProcess:
        """Run a command there to its end; its output is text."""
        return subprocess.run(
            self.command(*words),
            capture_output=True, text=True, timeout=timeout, cwd="/", **options,
        )  # fmt: skip

    def kill(self) -> None:
        """Pull the plug: every process of the machine ends at once."""
        os.kill(self.pid, signal.SIGKILL)


def _environment(machine: Machine) -> list[str]:
    return [
        "HOME=/home", "USER=root", "TERM=dumb", "LANG=C.UTF-8", _NICE,
        f"PATH={os.environ['PATH']}:/usr/sbin:/sbin",
    ]  # fmt: skip


@contextmanager
def machines(folder: Path, names: Sequence[str]) -> Iterator[dict[str, Machine]]:
    """Machines on one network, each letting in the key ``folder/key`` by SSH."""
    (folder / "shared").mkdir()
    key = folder / "key"
    _do("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
    passwd = Path("/etc/passwd").read_text()  # root's home there is the machine's own
    (folder / "passwd").write_text(passwd.replace(":/root:", ":/home:", 1))
    tag = os.urandom(2).hex()
    with ExitStack() as stack:
        bridge = f"sp{tag}b"
        _do("ip", "link", "add", bridge, "type", "bridge")
        stack.callback(_do, "ip", "link", "del", bridge)
        _do("ip", "link", "set", bridge, "up")
        made = {}
        for number, name in enumerate(names, start=2):
            made[name] = stack.enter_context(_machine(folder, name, number, bridge, tag, key))
        yield made


@contextmanager
def _machine(
    folder: Path, name: str, number: int, bridge: str, tag: str, key: Path
) -> Iterator[Machine]:
    home = folder / name
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    (home / ".bashrc").write_text(f"export {_NICE}\n")
    shutil.copy(f"{key}.pub", home / ".ssh" / "authorized_keys")
    shutil.copy(key, home / ".ssh" / "id_ed25519")
    _do("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(home / ".ssh" / "host"))
    start = f"""
        mount --bind {home} /home
        mount --bind {folder}/shared /srv
        mount --bind {folder}/passwd /etc/passwd
        mount -t tmpfs tmpfs {_own_tmp(folder, name)}
        {_seen_below_tmp(folder, name)}
        mount --rbind {_own_tmp(folder, name)} /tmp
        mount -t tmpfs tmpfs /dev/shm
        hostname {name}
        mkdir -p /run/sshd
        until ip addr show eth0 2>/dev/null | grep -q inet; do sleep 0.05; done
        exec $(command -v sshd || echo /usr/sbin/sshd) -D -e -h /home/.ssh/host -o PidFile=none \
            -o UsePAM=no -o PasswordAuthentication=no -o StrictModes=no -o MaxStartups=100
    """
    with open(folder / f"{name}.log", "w") as log:
        process = subprocess.Popen(
            ["unshare", "--mount", "--pid", "--net", "--uts", "--fork", "--kill-child",
             "--mount-proc", "sh", "-ec", start],
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        first = _child_of(process)
        outer, address = f"sp{tag}{number}", f"{_NET}.{number}"
        _do("ip", "link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", str(first))
        _do("ip", "link", "set", outer, "master", bridge, "up")
        inside = ("nsenter", f"--target={first}", "--net", "ip")
        _do(*inside, "link", "set", "lo", "up")
        _do(*inside, "link", "set", "eth0", "up")
        _do(*inside, "addr", "add", f"{address}/24", "dev", "eth0")
        # Ray asks which address a packet to the world would have; nothing is at the gateway.
        _do(*inside, "route", "add", "default", "via", f"{_NET}.1")
        machine = Machine(name, address, home, first)
        _until(lambda: machine.run("bash", "-c", ": < /dev/tcp/127.0.0.1/22").returncode == 0)
        yield machine
    finally:
        process.kill()
        process.wait()


def _own_tmp(folder: Path, name: str) -> Path:
    (own := folder / f"{name}-tmp").mkdir(exist_ok=True)
    return own


def _seen_below_tmp(folder: Path, name: str) -> str:
    """Keeps a checkout that lies below /tmp in sight, where the machine's own /tmp covers it."""
    if not REPOSITORY.is_relative_to("/tmp"):
        return ":"
    there = _own_tmp(folder, name) / REPOSITORY.relative_to("/tmp")
    return f"mkdir -p {there} && mount --bind {REPOSITORY} {there}"


def _child_of(process: subprocess.Popen) -> int:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    _until(lambda: children.read_text().strip() != "")
    return int(children.read_text())


def _until(condition, timeout: float = 20) -> None:
    stop = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > stop:
            raise TimeoutError("a machine did not start")
        time.sleep(0.05)


def _do(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, text=True)
