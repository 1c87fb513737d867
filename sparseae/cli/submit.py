"""``sparseae submit``, ``status``, ``logs`` and ``stop``: sweeps on a cluster, from anywhere."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Annotated

import typer

from sparseae import paths
from sparseae.cli import _console as console
from sparseae.cli import app
from sparseae.cli._source import Config, SetValues, sweep_of

if TYPE_CHECKING:
    from sparseae.cluster.jobs import Jobs, SweepJob

Address = Annotated[
    str,
    typer.Option(
        envvar=["RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"],
        help="http://HOST:8265, of the cluster's dashboard or a tunnel to it.",
        show_default=False,
    ),
]
Name = Annotated[str, typer.Argument(help="Of the job, or of its sweep.")]


@app.command()
def submit(
    config: Config,
    address: Address,
    results: Annotated[
        str | None,
        typer.Option(
            help="Folder of the cluster or URL (s3://...) under which NAME/ is written; "
            "default: what the cluster was started with (SPARSEAE_RESULTS)."
        ),
    ] = None,
    set_values: SetValues = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete what a sweep of this name left before.")
    ] = False,
    follow: Annotated[
        bool, typer.Option("--follow", help="Show what it prints, until it ends.")
    ] = False,
) -> None:
    """Run a sweep on a cluster; it goes on without this machine."""
    sweep = sweep_of(config, set_values)
    if results is not None:
        results = paths.checked(results, "--results")
    jobs = jobs_at(address)
    job, attached = jobs.submit(sweep, results, overwrite)
    console.say(f"{job.name}: runs already" if attached else f"{job.name}: submitted")
    if follow:
        _follow(jobs, job)
    elif not attached:
        console.say(f"sparseae status {job.name} --address {jobs.address}")


@app.command()
def status(
    address: Address,
    name: Annotated[
        str | None, typer.Argument(help="Of the job, or of its sweep; without it: every sweep.")
    ] = None,
) -> None:
    """Show how far the sweeps of a cluster are."""
    jobs = jobs_at(address)
    if name is not None:
        _print_one(jobs, jobs.find(name))
        return
    known = jobs.every()
    if not known:
        console.say("no sweep has been submitted to this cluster")
        return
    columns = [("job", "left"), ("state", "left")]
    columns += [(name, "right") for name in ("trials", "epochs", "done")]
    rows = []
    for job in known:
        far = jobs.progress(job)
        cells = ["", "", ""]
        if far is not None:
            cells = [f"{far.trials:,}/{far.trials_total:,}", f"{far.epochs:,}/{far.epochs_total:,}"]
            cells.append(f"{far.share:.0%}")
        rows.append([job.name, job.state, *cells, _clock(job.started), job.owner])
    console.table([*columns, ("started", "left"), ("owner", "left")], rows)


@app.command()
def logs(
    name: Name,
    address: Address,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until it ends.")] = False,
) -> None:
    """Show what a sweep on a cluster has printed."""
    jobs = jobs_at(address)
    job = jobs.find(name)
    if follow:
        _follow(jobs, job)
    else:
        console.write(jobs.log(job))


@app.command()
def stop(name: Name, address: Address) -> None:
    """Stop a sweep on a cluster; what it has is kept, and submitting it again goes on."""
    jobs = jobs_at(address)
    job = jobs.find(name)
    if not job.live:
        console.say(f"{job.name}: {job.state} already")
        return
    job = jobs.stop(job)
    _print_one(jobs, job)
    console.say("submit the same sweep again, and it goes on from here")


def jobs_at(address: str) -> Jobs:
    """The sweeps of a cluster, for a command."""
    # Before Ray is imported; a cluster that wants no token ignores one. Commands alone decide this:
    # a process that only imports `sparseae.cluster.jobs` may start a Ray of its own without tokens.
    os.environ.setdefault("RAY_AUTH_MODE", "token")

    from sparseae.cluster.jobs import Jobs

    return Jobs(address)


def _print_one(jobs: Jobs, job: SweepJob) -> None:
    from sparseae.errors import last_line
    from sparseae.sweep.progress import Progress

    far = jobs.progress(job)
    console.say(f"{job.name}: {job.state}" + (f", {far}" if far else ""))
    if job.owner:
        console.say(f"submitted by {job.owner}")
    if job.started:
        end = job.ended or time.time()
        words = "for" if job.live else "took"
        console.say(f"started {_clock(job.started)}, {words} {console.duration(end - job.started)}")
    last = last_line(jobs.log(job), "")
    if (job.live or job.state == "failed") and last and Progress.last_of(last) is None:
        console.say(last)


def _follow(jobs: Jobs, job: SweepJob) -> None:
    """Show a job to its end; leave with its own exit status."""
    try:
        job = jobs.follow(job, console.write)
    except KeyboardInterrupt:
        console.say()
        console.say(f"no longer followed; it goes on: sparseae status {job.name}")
        raise typer.Exit(130) from None
    console.say(f"{job.name}: {job.state}")
    if job.state != "succeeded":
        raise typer.Exit(job.exit_code or 1)


def _clock(seconds: float | None) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds)) if seconds else ""
