"""A sweep as a job of a cluster: sent, watched and stopped through Ray's job API.

All that comes from a cluster is HTTP, read as text and JSON; nothing is unpickled.
"""

from __future__ import annotations

import getpass
import hashlib
import ipaddress
import logging
import os
import shlex
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

from sparseae import paths
from sparseae.errors import RequestError, last_line, nearest
from sparseae.sweep.config import Sweep
from sparseae.sweep.notify import is_reference
from sparseae.sweep.progress import Progress
from sparseae.sweep.provenance import git_commit

# Before Ray is imported.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

#: Data files of a user's own that travel with a job, all together.
_MOST_BYTES = 64 << 20

#: What a stopped run gets to write its last rows, before it is killed.
_STOP_SECONDS = 60

#: Between two looks at a job that is followed.
_LOOK_SECONDS = 1.0

_SWEEP, _CONFIG, _RESULTS = "sparseae.sweep", "sparseae.configuration", "sparseae.results"
_OWNER = "sparseae.owner"

_CLUSTERS_OWN = "the cluster's own place for results"

#: What starts the sweep where it is to run, with that machine's own Python.
_LAUNCHER = "launch.sh"

_LIVE = (JobStatus.PENDING, JobStatus.RUNNING)

_WANTS_TOKEN = (
    "{address}: {what}; give the cluster's token in RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or "
    "~/.ray/auth_token (on the head: ray get-auth-token)"
)


@dataclass(frozen=True)
class SweepJob:
    """One submission of a sweep.

    Attributes:
        name: of the job, by which the commands find it.
        sweep: the sweep's name.
        state: Ray's word in lower case: pending, running, succeeded, failed or stopped.
        results: where it was told to write; empty where the cluster's own place was to be used.
        started: seconds since 1970, or None.
        ended: the same.
        message: Ray's, of how it ended.
        exit_code: of the run, once it has ended by itself.
        configuration: a hash of the sweep's configuration.
        owner: who submitted it, as ``user@machine``.
    """

    name: str
    sweep: str
    state: str
    results: str
    started: float | None
    ended: float | None
    message: str
    exit_code: int | None
    configuration: str
    owner: str

    @property
    def live(self) -> bool:
        return self.state in (status.value.lower() for status in _LIVE)


class Jobs:
    """The sweeps of one cluster.

    Args:
        address: ``http://HOST:8265``, of the cluster's dashboard or of a tunnel to it.

    Raises:
        RequestError: here and from every method, in one line: nobody answers, or the token is
            missing or wrong.
    """

    def __init__(self, address: str) -> None:
        self.address = _url(address)
        # Ray's client prefers this to what it is given.
        os.environ["RAY_API_SERVER_ADDRESS"] = self.address
        logging.getLogger("ray.dashboard").setLevel(logging.ERROR)
        logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
        with self._answering():
            self._client = JobSubmissionClient(self.address)

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except AuthenticationError as error:
            wrong = "Forbidden" in str(error)
            what = "the token is wrong" if wrong else "it asks for a token and none was found"
            raise RequestError(_WANTS_TOKEN.format(address=self.address, what=what)) from None
        except (requests.exceptions.RequestException, ConnectionError) as error:
            if isinstance(error, requests.exceptions.HTTPError):
                passing = error.response is not None and error.response.status_code >= 500
                kind = UnreachableError if passing else RequestError
                raise kind(f"{self.address}: is no Ray dashboard: {last_line(error)}") from None
            raise UnreachableError(
                f"{self.address}: nobody answers; is the cluster up, and its tunnel "
                "(ray dashboard cluster/FILE.yaml)?"
            ) from None
        except (RuntimeError, ValueError, KeyError) as error:
            if "status code 5" in str(error):  # a dashboard that is starting, or out of breath
                raise UnreachableError(f"{self.address}: {last_line(error)}") from None
            raise RequestError(f"{self.address}: {last_line(error, repr(error))}") from None

    def submit(
        self, sweep: Sweep, results: str | None = None, overwrite: bool = False
    ) -> tuple[SweepJob, bool]:
        """Send a sweep, unless it runs already; whether it did is the second value.

        Raises:
            RequestError: also where another configuration of the sweep runs, or the sweep needs a
                file that is not sent.
        """
        if results and paths.has_secret(results):
            raise RequestError(
                f"--results {paths.public(results)}: holds a key, which the cluster would list "
                "and log; give the machines a role that may write there, or the key in their "
                "environment"
            )
        if sweep.notify is not None and not is_reference(sweep.notify):
            raise RequestError(
                "notify: would travel to the cluster in a file: name a variable of the "
                "environment that the cluster was started with: notify: $NAME"
            )
        digest = hashlib.sha256(sweep.text().encode()).hexdigest()[:16]
        words = ["run", "sweep.yaml"]
        words += ["--results", results] if results else []
        words += ["--overwrite"] if overwrite else []
        me = _owner()
        for _ in range(3):  # somebody may submit the same at the same moment
            known = self.every()
            for job in known:
                if job.live and job.sweep == sweep.name:
                    same = job.results == (results or "") and job.configuration == digest
                    if same and not overwrite:
                        return job, True
                    self._refuse(job, sweep, results, overwrite, mine=job.owner in ("", me))
            name = _free_name(sweep.name, {job.name for job in known})
            metadata = {_SWEEP: sweep.name, _CONFIG: digest, _RESULTS: results or "", _OWNER: me}
            if self._send(name, words, sweep, metadata):
                return self._details(name), False
        raise RequestError(f"{sweep.name}: another submission is always quicker; try again")

    def _refuse(
        self, job: SweepJob, sweep: Sweep, results: str | None, overwrite: bool, mine: bool
    ) -> NoReturn:
        """Say why a sweep cannot run beside a live one of its name, and what helps."""
        what = f"{sweep.name} runs as {job.name}" + ("" if mine else f", of {job.owner},")
        rename = "give this one another name: --set name=NAME"
        if job.results != (results or ""):
            what += f" in {job.results or _CLUSTERS_OWN}"
            advice = f"stop it, or {rename}" if mine else rename
        else:
            what += "" if overwrite else " with another configuration"
            advice = f"first: sparseae stop {job.name}" if mine else rename
        raise RequestError(f"{what}; {advice}")

    def plan(self, sweep: Sweep) -> str:
        """What `sparseae plan` prints on the cluster, which knows its machines best."""
        name = f"plan-{sweep.name}-{os.urandom(4).hex()}"
        words = ["plan", "sweep.yaml", "--address", "auto"]
        self._send(name, words, sweep, {})
        job = self._details(name)
        while job.live:
            time.sleep(_LOOK_SECONDS / 4)
            job = self._details(name)
        log = self.log(job)
        if job.state != "succeeded":
            raise RequestError(last_line(log, job.message).removeprefix("sparseae: "))
        return log

    def _send(self, name: str, words: list[str], sweep: Sweep, metadata: dict[str, str]) -> bool:
        """Start a command of ours with the sweep's file; False where the job's name is taken."""
        files = _own_files(sweep)
        with tempfile.TemporaryDirectory() as folder, self._answering():
            _collect(Path(folder), sweep.text(), files)
            try:
                self._client.submit_job(
                    # exec: the signal that stops the job reaches the command itself.
                    entrypoint=shlex.join(["exec", "sh", _LAUNCHER, *words]),
                    submission_id=name,
                    runtime_env={
                        "working_dir": folder,
                        "env_vars": {
                            "SPARSEAE_GIT_COMMIT": git_commit(),
                            "SPARSEAE_IN_JOB": "1",
                            "RAY_JOB_STOP_WAIT_TIME_S": str(_STOP_SECONDS),
                            "PYTHONUNBUFFERED": "1",
                        },
                    },
                    metadata=metadata,
                )
            except RuntimeError as error:
                if "already" in str(error):
                    return False
                raise
        return True

    def _details(self, name: str) -> SweepJob:
        with self._answering():
            return _sweep_job(self._client.get_job_info(name))

    def every(self) -> list[SweepJob]:
        """Every submission of a sweep that the cluster remembers, the newest first."""
        with self._answering():
            every = self._client.list_jobs()
        jobs = [_sweep_job(d) for d in every if d.submission_id and _SWEEP in (d.metadata or {})]
        return sorted(jobs, key=lambda job: job.started or 0.0, reverse=True)

    def find(self, name: str) -> SweepJob:
        """The newest job of the sweep of that name, a live one first; or the job of that name.

        Raises:
            RequestError: also where there is none.
        """
        known = self.every()
        of_sweep = sorted((job for job in known if job.sweep == name), key=lambda job: not job.live)
        for job in [*of_sweep, *(job for job in known if job.name == name)]:
            return job
        names = [job.name for job in known]
        hint = nearest(name, names) if names else "there is no sweep yet"
        raise RequestError(f"no sweep {name!r} at {self.address}; {hint}")

    def log(self, job: SweepJob) -> str:
        """What the run has printed so far."""
        with self._answering():
            return self._client.get_job_logs(job.name)

    def progress(self, job: SweepJob) -> Progress | None:
        """How far the sweep is; None before it has begun."""
        return Progress.last_of(self.log(job))

    def stop(self, job: SweepJob) -> SweepJob:
        """Have the run write what it has, and end; return the job as it then is."""
        with self._answering():
            self._client.stop_job(job.name)
        stop = time.monotonic() + _STOP_SECONDS + 10
        while job.live and time.monotonic() < stop:
            time.sleep(_LOOK_SECONDS / 4)
            job = self._details(job.name)
        return job

    def follow(self, job: SweepJob, write: Callable[[str], None]) -> SweepJob:
        """Write what the run prints as it comes, to its end; return the job as it then is.

        A connection that breaks is waited for, and what was printed meanwhile is caught up on.
        """
        shown, lost = 0, False
        while True:
            try:
                job = self._details(job.name)
                log = self.log(job)
            except UnreachableError:
                if not lost:
                    write(f"\n{self.address}: connection lost; the job goes on; trying again\n")
                lost = True
                time.sleep(_LOOK_SECONDS)
                continue
            if lost:
                write("connection back\n")
                lost = False
            write(log[shown:])
            shown = len(log)
            if not job.live:
                return job
            time.sleep(_LOOK_SECONDS)


class UnreachableError(RequestError):
    """Nobody answers at the cluster's address, at least for now."""


def _url(address: str) -> str:
    """The dashboard's URL, over which the token may go: encrypted, or on this machine alone."""
    url = address if "://" in address else f"http://{address}"
    parts = urlsplit(url)
    try:
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if not sound or "@" in parts.netloc:
        raise RequestError(
            f"--address {paths.public(repr(address))}: must be http://HOST:8265, of the dashboard"
        )
    host = parts.hostname or ""
    if _is_loopback(host):
        # A proxy for the rest of the world would be sent the token.
        for name in ("NO_PROXY", "no_proxy"):
            os.environ[name] = ",".join(filter(None, [os.environ.get(name), host]))
    elif parts.scheme == "http" and os.environ.get("RAY_AUTH_MODE") != "disabled":
        raise RequestError(
            f"--address {address!r}: would send the cluster's token unencrypted; use a tunnel to "
            f"it (ray dashboard cluster/FILE.yaml, or ssh -NL 8265:127.0.0.1:8265 {host}) and "
            "http://127.0.0.1:8265, or https (RAY_AUTH_MODE=disabled: the cluster has no token)"
        )
    return url.rstrip("/")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _owner() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def _sweep_job(details: JobDetails) -> SweepJob:
    metadata: dict[str, Any] = details.metadata or {}
    return SweepJob(
        name=details.submission_id or "",
        sweep=metadata.get(_SWEEP, ""),
        state=details.status.value.lower(),
        results=metadata.get(_RESULTS, ""),
        started=details.start_time / 1000 if details.start_time else None,
        ended=details.end_time / 1000 if details.end_time else None,
        message=details.message or "",
        exit_code=details.driver_exit_code,
        configuration=metadata.get(_CONFIG, ""),
        owner=metadata.get(_OWNER, ""),
    )


def _free_name(sweep: str, taken: set[str]) -> str:
    """A job's name: the sweep's, numbered, so that the sweep's own stands for its newest job."""
    return next(name for n in count(1) if (name := f"{sweep}-{n}") not in taken)


def _own_files(sweep: Sweep) -> list[str]:
    """The user's own matrices that the sweep names, which travel with it.

    Raises:
        RequestError: where one lies outside this folder, or they are too large to send.
    """
    from sparseae import data

    names = dict.fromkeys(t.dataset for t in sweep.trials() if t.dataset not in data.SOURCES)
    total = 0
    for name in names:
        path = Path(name)
        if path.is_absolute() or ".." in path.parts:
            raise RequestError(
                f"space.dataset: {name!r} is not below this folder, so it cannot travel with the "
                "sweep; name it relative to the folder that it is in"
            )
        total += path.stat().st_size
    if total > _MOST_BYTES:
        raise RequestError(
            f"space.dataset: {', '.join(map(repr, names))}: {total >> 20} MiB are too much to send "
            f"(at most {_MOST_BYTES >> 20}); put them on the head and run the sweep there: "
            "ray job submit -- sparseae run ..."
        )
    return list(names)


def _collect(folder: Path, configuration: str, files: list[str]) -> None:
    """All that the run needs, in one folder: the sweep, this very code, the user's own data."""
    import sparseae

    package = Path(sparseae.__file__).parent
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    shutil.copytree(package, folder / "sparseae", ignore=ignored)
    shutil.copy(package / "cluster" / _LAUNCHER, folder)
    (folder / "sweep.yaml").write_text(configuration)
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(name, folder / name)
