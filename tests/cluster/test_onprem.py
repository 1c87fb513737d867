"""From `ray up cluster/onprem.yaml` to verdicts and back, on machines with addresses of their own.

Real: sshd, the cluster launcher, the token, the tunnel, the job API, a machine whose plug is
pulled. Not real: setup, which would install the same packages for minutes; each machine finds them
installed, as at a second `ray up`.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from sparseae.results import load
from tests.cluster import machines as m
from tests.conftest import REPOSITORY

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(m.missing() is not None, reason=f"no machines here: {m.missing()}"),
]

VENV = REPOSITORY / ".venv"
PORT = 8265
YAML = "/srv/onprem.yaml"
ADDRESS = f"http://127.0.0.1:{PORT}"

#: Epochs that no test waits for: what is to be stopped does not end before.
ENDLESS = 1_000_000
SWEEP = """
name: {name}
space:
  model: [dae, cae]
  activation: [relu]
  sigma2: [0, 0.25, 1.0]
  dataset: [digits]
  seed: [0, 1]
training: {{epochs: {epochs}, hidden_units: 64, samples: 1000}}
checkpoint_every: 200
resources: {{cpu: 2}}  # one worker a machine: other tests run beside this one
"""


def until(condition, timeout: float = 400.0, every: float = 0.3):
    """What the condition returns once that is true."""
    stop = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < stop, "waited for nothing"
        time.sleep(every)
    return value


def hear(process: subprocess.Popen, words: str) -> None:
    """Read what a process says, up to the line with these words."""
    said = ""
    for line in process.stdout:
        said += line
        if words in line:
            return
    raise AssertionError(f"never said {words!r}: {said}")


@dataclass
class Site:
    """Three machines: a laptop, from which all is done, and the cluster's two."""

    shared: Path  # /srv of every machine
    laptop: m.Machine
    head: m.Machine
    worker: m.Machine

    def do(self, command: str, timeout: float = 300) -> subprocess.CompletedProcess:
        """A shell command on the laptop, in the repository, as the docs have it."""
        setup = f"cd {REPOSITORY}; export PATH={VENV}/bin:$PATH; "
        return self.laptop.run("bash", "-c", setup + command, timeout=timeout)

    def begin(self, command: str) -> subprocess.Popen:
        setup = f"cd {REPOSITORY}; export PATH={VENV}/bin:$PATH; exec "
        return subprocess.Popen(
            self.laptop.command("bash", "-c", setup + command),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def sweep(self, epochs: int, name: str = "far") -> str:
        text = SWEEP.format(name=name, epochs=epochs)
        (self.shared / f"{epochs}.yaml").write_text(text)
        return f"/srv/{epochs}.yaml"

    def epochs(self, name: str) -> int:
        """How many epochs a running sweep says it has; 0 where it does not run yet."""
        said = self.do(f"sparseae status {name} --address {ADDRESS}").stdout
        found = re.search(rf"{name}-\d: running, \d+/12 trials, ([\d,]+)/[\d,]+ epochs", said)
        return int(found[1].replace(",", "")) if found else 0

    def up(self) -> None:
        """`ray up`, where no Ray is up: tests come in any order."""
        answers = self.head.run("bash", "-c", f": < /dev/tcp/127.0.0.1/{PORT}").returncode == 0
        if not answers:
            done = self.do(f"ray up --yes {YAML}", timeout=400)
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]

    def cut(self, tunnel: subprocess.Popen) -> None:
        tunnel.terminate()
        tunnel.wait()
        self.do("pkill -x ssh")  # the laptop's own, the only one in its process namespace

    def tunnel(self) -> subprocess.Popen:
        """`ray dashboard`, once its port answers."""
        tunnel = self.begin(f"ray dashboard {YAML}")
        until(
            lambda: self.laptop.run("bash", "-c", f": < /dev/tcp/127.0.0.1/{PORT}").returncode == 0
        )
        return tunnel


def scrape(head: m.Machine) -> list[str]:
    """What the head's Ray tells Prometheus of our metrics."""
    file = head.run("cat", "/tmp/ray/prom_metrics_service_discovery.json").stdout
    lines = []
    for target in json.loads(file or "[]"):
        for address in target["targets"]:
            get = (
                f"import urllib.request as u; print(u.urlopen('http://{address}').read().decode())"
            )
            page = head.run(f"{VENV}/bin/python", "-c", get).stdout
            lines += [line for line in page.splitlines() if line.startswith("ray_sparseae")]
    return lines


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    with m.machines(folder, ["laptop", "head", "worker"]) as made:
        site = Site(folder / "shared", made["laptop"], made["head"], made["worker"])
        addresses = {
            "192.0.2.10": site.head.address,
            "192.0.2.11, 192.0.2.12": site.worker.address,
            "/shared/sparseae": "/srv/results",
            "ssh_user: ubuntu": "ssh_user: root",
        }
        text = (REPOSITORY / "cluster" / "onprem.yaml").read_text()
        for ours, theirs in addresses.items():
            assert ours in text
            text = text.replace(ours, theirs)
        (folder / "shared" / "onprem.yaml").write_text(text)
        versions = [(REPOSITORY / f).read_text() for f in ("constraints.txt", "pyproject.toml")]
        (VENV / "installed").write_text("".join([".\n", *versions]))
        for machine in (site.head, site.worker):
            (machine.home / "sparseae").mkdir()
            (machine.home / "sparseae" / ".venv").symlink_to(VENV)
        assert site.do("ray get-auth-token --generate").returncode == 0
        yield site


@pytest.fixture
def tunnel(site):
    site.up()
    tunnel = site.tunnel()
    yield tunnel
    site.cut(tunnel)


def test_nobody_there_is_one_line(site):
    done = site.do("sparseae status --address http://127.0.0.1:9")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "nobody answers" in done.stderr


def test_without_the_token_nothing_is_told(site, tunnel):
    for how, says in {
        "HOME=/nowhere": "asks for a token and none was found",
        "RAY_AUTH_MODE=disabled": "asks for a token and none was found",
        "RAY_AUTH_TOKEN=wrong": "the token is wrong",
    }.items():
        done = site.do(f"env {how} sparseae status --address {ADDRESS}")
        assert done.returncode == 2, how
        assert done.stdout == ""
        assert done.stderr.count("\n") == 1
        assert says in done.stderr


@pytest.mark.minutes
def test_a_sweep_survives_the_tunnel_and_a_worker_and_is_stopped_resumed_and_judged(site, tunnel):
    config = site.sweep(ENDLESS)
    submitted = site.do(f"sparseae submit {config} --address {ADDRESS}")
    assert submitted.stdout.startswith("far-1: submitted\n"), submitted
    follower = site.begin(f"sparseae logs far --address {ADDRESS} --follow")

    # Submitted once more, it is the same job; with another configuration it is refused.
    again = site.do(f"sparseae submit {config} --address {ADDRESS}")
    assert again.stdout == "far-1: runs already\n"
    other = site.do(f"sparseae submit {site.sweep(ENDLESS + 1)} --address {ADDRESS}")
    assert other.returncode == 2
    assert "sparseae stop far-1" in other.stderr

    # It says how far it is.
    until(lambda: site.epochs("far") > 100)

    # Prometheus finds our metrics where Ray's own discovery file says.
    def reported() -> list[str]:
        return [line for line in scrape(site.head) if "ray_sparseae_epochs" in line]

    def models() -> set[str]:
        return {re.search(r'model="(\w+)"', line)[1] for line in reported()}

    assert until(models) <= {"dae", "cae"}  # not every trial has begun
    assert all('sweep="far"' in line for line in reported())

    # The connection breaks under --follow, and comes back.
    site.cut(tunnel)
    hear(follower, "connection lost")
    second = site.tunnel()
    hear(follower, "connection back")

    # Stopped: what it has is written. Submitted again: it goes on from there.
    stopped = site.do(f"sparseae stop far --address {ADDRESS}")
    assert stopped.stdout.startswith("far-1: stopped"), stopped
    follower.communicate(timeout=300)
    assert follower.returncode != 0
    log = site.do(f"sparseae logs far-1 --address {ADDRESS}").stdout
    assert "Stopped with 12 of 12 trials unfinished" in " ".join(log.split())
    plan = site.do(f"sparseae plan {config} --address {ADDRESS}")
    assert "at once on CPUs, 2 each" in " ".join(plan.stdout.split()), plan
    results = site.shared / "results" / "far"
    before = load(results)
    resumed = site.do(f"sparseae submit {config} --address {ADDRESS}")
    assert resumed.stdout.startswith("far-2: submitted\n"), resumed
    until(lambda: site.epochs("far") > len(before))
    stopped = site.do(f"sparseae stop far --address {ADDRESS}")
    assert stopped.stdout.startswith("far-2: stopped"), stopped
    log = site.do(f"sparseae logs far-2 --address {ADDRESS}").stdout
    assert "Stopped with" in log
    frame = load(results)
    assert not frame.duplicated(["trial_id", "epoch"]).any()
    kept = before.merge(frame, on=["trial_id", "epoch"])
    assert len(kept) == len(before) < len(frame)
    assert (kept["loss_x"] == kept["loss_y"]).all()

    # The plug of a worker is pulled in the midst of a sweep, which ends all the same.
    whole = site.begin(f"sparseae submit {site.sweep(600, 'near')} --address {ADDRESS} --follow")
    until(lambda: site.epochs("near") > 0)
    site.worker.kill()
    said, _ = whole.communicate(timeout=500)
    assert whole.returncode == 0, said
    assert "near-1: succeeded" in said
    assert "results: /srv/results/near" in said
    frame = load(site.shared / "results" / "near")
    assert len(frame) == 12 * 601
    assert not frame.duplicated(["trial_id", "epoch"]).any()
    listed = site.do(f"sparseae status --address {ADDRESS}").stdout
    # A table, or a line for each job where it has no room.
    cells = ["near-1", "succeeded", "12/12", "7,212/7,212", "100%"]
    assert re.search(r"(?::? +|, )(?:\w+=)?".join(map(re.escape, cells)), listed), listed
    fetched = site.do(
        f"rsync -a -e 'ssh -o StrictHostKeyChecking=no' "
        f"{site.head.address}:/srv/results/near /home/ && sparseae analyze /home/near --json"
    )
    assert json.loads(fetched.stdout)["verdicts"]
    # Plain Ray works as well.
    plain = site.do(
        f"RAY_AUTH_MODE=token ray job submit --address {ADDRESS} --working-dir . "
        f"-- python -m sparseae run {site.sweep(2, name='plain')} --results /srv/results"
    )
    assert "succeeded" in plain.stdout + plain.stderr, plain
    assert len(load(site.shared / "results" / "plain")) == 12 * 3
    site.cut(second)


def test_ray_down_leaves_nothing_running(site):
    site.up()
    assert "raylet" in site.head.run("ps", "ax").stdout
    down = site.do(f"ray down --yes {YAML}")
    assert down.returncode == 0
    assert "raylet" not in site.head.run("ps", "ax").stdout
