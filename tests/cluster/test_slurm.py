"""cluster/slurm.sh on a real SLURM: munged, slurmctld and a slurmd on each of two machines.

Not real: the machines, which are namespaces of this one, and GPUs, of which they have none.
"""

from __future__ import annotations

import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from sparseae.results import load
from tests.cluster import machines as m
from tests.conftest import REPOSITORY

_TOOLS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel")


def _missing() -> str | None:
    path = "/usr/sbin:/sbin:/usr/bin:/bin"
    lacking = [tool for tool in _TOOLS if shutil.which(tool, path=path) is None]
    return m.missing() or (f"needs {', '.join(lacking)}" if lacking else None)


pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(_missing() is not None, reason=f"no SLURM here: {_missing()}"),
]

CONFIGURATION = """
ClusterName=test
SlurmctldHost=head({head})
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=/tmp/munge/socket
StateSaveLocation=/tmp/slurmctld
SlurmdSpoolDir=/tmp/slurmd
SlurmctldPidFile=/tmp/slurmctld.pid
SlurmdPidFile=/tmp/slurmd.pid
SlurmctldLogFile=/srv/slurmctld.log
SlurmdLogFile=/srv/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
SlurmdTimeout=300
KillWait=30
NodeName=head NodeAddr={head} CPUs=2 State=UNKNOWN
NodeName=worker NodeAddr={worker} CPUs=2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""

SWEEP = """
name: {name}
space:
  model: [dae, cae]
  activation: [relu]
  sigma2: [0, 0.25]
  dataset: [digits]
training: {{epochs: {epochs}, hidden_units: 32, samples: 400}}
checkpoint_every: 20
"""
ENDLESS = 1_000_000


def until(condition, timeout: float = 240):
    stop = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < stop, "waited for nothing"
        time.sleep(0.3)
    return value


@dataclass
class Slurm:
    shared: Path
    head: m.Machine

    def do(self, command: str) -> str:
        done = self.head.run(
            "bash", "-c", f"export SLURM_CONF=/srv/slurm.conf; cd /srv; {command}", timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def submit(self, name: str, epochs: int, options: str = "") -> str:
        """The number of a job that runs a sweep."""
        (self.shared / f"{name}.yaml").write_text(SWEEP.format(name=name, epochs=epochs))
        said = self.do(
            f"sbatch --gpus-per-node=0 --cpus-per-task=2 {options} "
            f"{REPOSITORY}/cluster/slurm.sh {name}.yaml"
        )
        return re.search(r"Submitted batch job (\d+)", said)[1]

    def state(self, job: str) -> str:
        return re.search(r"JobState=(\w+)", self.do(f"scontrol show job {job}"))[1]

    def log(self, job: str) -> str:
        file = self.shared / f"sparseae-{job}.log"
        return file.read_text() if file.exists() else ""

    def rows(self, name: str):
        """The rows so far; None where there are none yet."""
        folder = self.shared / "results" / name
        try:
            return load(folder) if list((folder / "epochs").glob("*.parquet")) else None
        except OSError:
            return None

    def checkpoints(self, name: str) -> list[Path]:
        return list((self.shared / "results" / name / "checkpoints").rglob("*.safetensors"))


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slurm")
    with m.machines(folder, ["head", "worker"]) as made:
        shared = folder / "shared"
        addresses = {name: machine.address for name, machine in made.items()}
        (shared / "slurm.conf").write_text(CONFIGURATION.format(**addresses))
        (shared / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        (shared / ".venv").symlink_to(REPOSITORY / ".venv")
        (shared / "munge.key").write_bytes(b"0" * 128)
        (shared / "munge.key").chmod(0o400)
        for machine in made.values():
            begin = (
                "export SLURM_CONF=/srv/slurm.conf; mkdir -p /tmp/munge /tmp/slurmctld; "
                "munged --force --key-file=/srv/munge.key --socket=/tmp/munge/socket "
                "--pid-file=/tmp/munge/pid --log-file=/tmp/munge/log --seed-file=/tmp/munge/seed; "
            )
            begin += "slurmctld; slurmd -N head" if machine.name == "head" else "slurmd -N worker"
            done = machine.run("bash", "-c", begin)
            assert done.returncode == 0, done.stdout + done.stderr
        made_of = Slurm(shared, made["head"])
        until(lambda: made_of.do("sinfo -h -o %T%D").strip() == "idle2")
        yield made_of


def test_one_node_runs_a_sweep_to_its_end(slurm):
    job = slurm.submit("one", 5)
    until(lambda: slurm.state(job) not in ("PENDING", "RUNNING", "COMPLETING"))
    assert slurm.state(job) == "COMPLETED", slurm.log(job)
    assert len(slurm.rows("one")) == 4 * 6
    assert "1 of 1 nodes are there" in slurm.log(job)
    assert "raylet" not in slurm.head.run("ps", "ax").stdout


@pytest.mark.minutes
def test_two_nodes_share_a_sweep_which_stops_is_requeued_and_ends(slurm):
    job = slurm.submit("two", ENDLESS, "--nodes=2")
    until(lambda: slurm.checkpoints("two"))
    assert "2 of 2 nodes are there" in slurm.log(job)

    # What SLURM sends three minutes before the time limit: it stops, and is queued again.
    slurm.do(f"scancel --batch --signal=USR1 {job}")
    until(lambda: "goes on in a new run" in slurm.log(job))
    stopped = slurm.rows("two")
    assert slurm.checkpoints("two")
    assert "Stopped with 4 of 4 trials unfinished" in " ".join(slurm.log(job).split())
    until(lambda: re.search("Restarts=1", slurm.do(f"scontrol show job {job}")))
    slurm.do(f"scontrol update JobId={job} StartTime=now")  # SLURM waits two minutes
    until(lambda: len(slurm.rows("two")) > len(stopped))
    kept = stopped.merge(slurm.rows("two"), on=["trial_id", "epoch"])
    assert len(kept) == len(stopped)
    assert (kept["loss_x"] == kept["loss_y"]).all()

    # SIGTERM: a clean stop, for good; the checkpoints are there.
    slurm.do(f"scancel --batch --signal=TERM {job}")
    until(lambda: slurm.state(job) not in ("RUNNING", "COMPLETING"))
    assert slurm.state(job) == "FAILED"  # with the exit status of a sweep that was stopped
    assert "ExitCode=130:0" in slurm.do(f"scontrol show job {job}")
    assert slurm.log(job).count("Stopped with") == 2
    assert slurm.checkpoints("two")
    frame = slurm.rows("two")
    assert not frame.duplicated(["trial_id", "epoch"]).any()


def test_a_cancelled_job_leaves_whole_rows_and_nothing_running(slurm):
    job = slurm.submit("gone", ENDLESS)
    # Rows are written every ten seconds: with a checkpoint alone there may be none yet.
    until(lambda: slurm.checkpoints("gone") and slurm.rows("gone") is not None)
    slurm.do(f"scancel {job}")
    until(lambda: slurm.state(job) == "CANCELLED")
    until(lambda: "raylet" not in slurm.head.run("ps", "ax").stdout)
    frame = slurm.rows("gone")
    assert len(frame)
    assert not frame.duplicated(["trial_id", "epoch"]).any()
    assert slurm.checkpoints("gone")
