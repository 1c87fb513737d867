"""Machines that end by themselves when they have no work, whatever became of the others.

Real: Ray, its workers, the script, the machine whose plug is pulled. Not real: what `shutdown`
does, which here ends the first process of a machine made of namespaces, and so all of them.
"""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import click
import pytest

from sparseae.cluster import guard
from sparseae.results import load
from tests.cluster import machines as m
from tests.conftest import REPOSITORY

SCRIPT = REPOSITORY / "sparseae" / "cluster" / "guard.sh"
IDLE = 5

SWEEP = """
name: short
space: {model: ae, activation: relu, sigma2: 0, dataset: digits}
training: {epochs: 2, hidden_units: 8, samples: 100}
"""

WORK = """
import time, ray
ray.init(address="auto", log_to_driver=False)
@ray.remote(num_cpus=1)
def work():
    time.sleep(10_000)
ray.get([work.remote() for _ in range(2)])
"""


def test_shells_read_the_script():
    for shell in ("sh", "bash"):
        subprocess.run([shell, "-n", SCRIPT], check=True)
    script = guard.boot_script({"provider": {}}, "worker")
    subprocess.run(["sh", "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize(
    ("provider", "says"),
    [
        ({"idle_minutes": {"worker": 5}}, "must be more than idle_timeout_minutes"),
        ({"idle_minutes": {"wroker": 9}}, "must be as {head: 60, worker: 20}"),
        ({"idle_minutes": {"head": True}}, "idle_minutes.head: must be a number above 0, not True"),
        ({"max_hours": "long"}, "max_hours: must be a number above 0, not 'long'"),
    ],
)
def test_what_is_no_time_is_refused(provider, says):
    with pytest.raises(click.ClickException) as refused:
        guard.boot_script({"provider": provider}, "head")
    assert says in refused.value.message


@pytest.mark.slow
@pytest.mark.skipif(m.missing() is not None, reason=f"no machines here: {m.missing()}")
@pytest.mark.timeout(300)
class TestOnMachines:
    def test_a_worker_stays_while_it_works_and_ends_after_the_head_has_died(self, tmp_path):
        with m.machines(tmp_path, ["head", "worker", "spare"]) as made:
            head, worker, spare = made.values()
            (tmp_path / "shared" / "work.py").write_text(WORK)
            ray(head, "start --head --port=6379 --num-cpus=0 --include-dashboard=false")
            impatient = "RAY_gcs_rpc_server_reconnect_timeout_s=5"  # 60 by itself
            ray(worker, f"start --address={head.address}:6379 --num-cpus=2", impatient)
            ray(spare, f"start --address={head.address}:6379 --num-cpus=0")
            # As long as there is work on it a worker stays, also far beyond its idle time. The
            # head has none of its own: the sweep's process below stands for a submitted job.
            driver = subprocess.Popen(
                head.command(python(), "/srv/work.py", "-m", "sparseae", "run", "-")
            )
            until(lambda: "ray::work" in titles(worker))
            for machine in made.values():
                boot(machine, 10_000 if machine is spare else IDLE)
            started = time.monotonic()
            until(lambda: time.monotonic() - started > 2 * IDLE)
            assert alive(head)
            assert alive(worker)
            # The plug of the head is pulled: nobody is left to end the worker, which does so.
            head.kill()
            driver.wait()
            until(lambda: not alive(worker), 200)
            assert alive(spare)  # whose time has not come

    def test_a_machine_that_never_joined_ends_and_so_does_one_that_works_too_long(self, tmp_path):
        with m.machines(tmp_path, ["lonely", "busy"]) as made:
            lonely, busy = made.values()
            work = subprocess.Popen(
                busy.command("bash", "-c", "exec -a 'x -m sparseae run ' sleep 1000")
            )
            until(lambda: "sparseae run" in titles(busy))
            boot(lonely, idle=5)
            boot(busy, idle=5, life=30)
            until(lambda: not alive(lonely))
            assert alive(busy)
            until(lambda: not alive(busy))
            work.wait()

    def test_an_idle_head_ends_after_its_sweep(self, tmp_path):
        with m.machines(tmp_path, ["head"]) as made:
            head = made["head"]
            (tmp_path / "shared" / "sweep.yaml").write_text(SWEEP)
            ray(head, "start --head --num-cpus=1 --include-dashboard=false")
            sweep = subprocess.Popen(
                head.command(
                    python(), "-m", "sparseae", "run", "/srv/sweep.yaml", "--address", "auto",
                    "--results", "/srv/results",
                ),
                cwd="/",
            )  # fmt: skip
            until(lambda: "-m sparseae run" in titles(head))
            boot(head, IDLE)
            assert sweep.wait(200) == 0
            until(lambda: not alive(head))
            assert len(load(tmp_path / "shared" / "results" / "short")) == 3


def boot(machine: m.Machine, idle: float, life: float = 1e6) -> None:
    """Start the guard as a machine's boot does; its `shutdown` ends the machine."""
    tools = machine.home / "bin"
    tools.mkdir()
    (tools / "shutdown").write_text("#!/bin/sh\nkill 1\n")
    (tools / "shutdown").chmod(0o755)
    config = {"provider": {"idle_minutes": {"worker": idle / 60}, "max_hours": life / 3600}}
    script = guard.boot_script(config | {"idle_timeout_minutes": 0}, "worker")
    (machine.home / "boot.sh").write_text(script)
    done = machine.run("bash", "-c", "export PATH=/home/bin:$PATH; sh /home/boot.sh")
    assert done.returncode == 0, done
    assert "sparseae-guard" in titles(machine)


def python() -> str:
    return str(REPOSITORY / ".venv" / "bin" / "python")


def ray(machine: m.Machine, words: str, environment: str = "") -> None:
    done = machine.run("bash", "-c", f"{environment} {Path(python()).parent}/ray {words}")
    assert done.returncode == 0, done.stdout + done.stderr


def titles(machine: m.Machine) -> str:
    return machine.run("ps", "axo", "args").stdout


def alive(machine: m.Machine) -> bool:
    try:
        os.kill(machine.pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{machine.pid}/status").read_text().split("State:")[1].split()[0] != "Z"


def until(condition, timeout: float = 120) -> None:
    stop = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < stop, "waited for nothing"
        time.sleep(0.3)
