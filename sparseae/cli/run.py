"""``sparseae run``: train what is left of a sweep."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Annotated

import typer

from sparseae import paths
from sparseae.cli import _console as console
from sparseae.cli import app
from sparseae.cli._source import (
    Address,
    Config,
    InProcess,
    SetValues,
    require_one_place,
    sweep_of,
)

if TYPE_CHECKING:
    import pandas as pd

#: Trials in the closing table; a larger sweep is for ``sparseae analyze``.
_TABLE_ROWS = 48

#: With more values of sigma2 than this the closing table has two digits, to fit 80 columns.
_WIDE = 8


@app.command()
def run(
    config: Config,
    results: Annotated[
        str,
        typer.Option(
            envvar="SPARSEAE_RESULTS",
            help="Folder or URL (s3://...) under which NAME/ is written.",
        ),
    ] = "results",
    set_values: SetValues = None,
    address: Address = None,
    in_process: InProcess = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete what a sweep of this name left before.")
    ] = False,
) -> None:
    """Train a sweep; run again, it goes on where it stopped."""
    import sparseae
    from sparseae.cli._view import RunView
    from sparseae.sweep.stop import interrupt

    require_one_place(address, in_process)
    _require_lasting(results)
    signal.signal(signal.SIGTERM, interrupt)
    console.on_lost.append(
        lambda: console.complain("nobody reads what is printed any more; the sweep goes on")
    )
    with RunView(console.console()) as view:
        done = sparseae.run(
            sweep_of(config, set_values),
            results=results,
            address=address,
            in_process=in_process,
            overwrite=overwrite,
            observer=view,
        )
    if done.interrupted:
        unfinished, saved = len(done.failed), done.saved
        if saved == unfinished:
            onward = "goes on from their checkpoints"
        elif saved:
            onward = f"goes on with {saved:,} from checkpoints, and begins the others anew"
        else:
            onward = "begins them anew: none had a checkpoint yet"
        console.say(
            f"Stopped with {unfinished:,} of {done.trials:,} trials unfinished. "
            f"The same command {onward}."
        )
        raise typer.Exit(130)
    last = done.last
    if not last.empty:
        _print_final(last)
    console.say(f"results: {paths.public(done.place)}")
    if done.failed:
        reason = " ".join(next(iter(done.failed.values())).split())
        console.say(
            f"{len(done.failed):,} of {done.trials:,} trials failed: {reason}. "
            "The same command tries them again.",
            "red",
        )
        raise typer.Exit(1)


def _require_lasting(results: str) -> None:
    """Refuse a folder that goes with the job: the one that Ray unpacks a job's files in."""
    from sparseae.errors import RequestError

    if os.environ.get("SPARSEAE_IN_JOB") and "://" not in results and not os.path.isabs(results):
        raise RequestError(
            f"--results {results!r}: on a cluster, name a folder that all its machines share, or "
            "a URL (s3://...); or start the cluster with SPARSEAE_RESULTS set"
        )


def _print_final(last: pd.DataFrame) -> None:
    """Final activation fractions by model, activation and sigma2; means over all else.

    Of each trial the row of its last epoch.
    """
    from sparseae.analysis.curves import VIEWS, with_views
    from sparseae.model.trial import TRAINING_TYPES

    last = last.assign(dataset=with_views(last))
    index = ["dataset", "constraint", "activation", "model"]
    wide = last.pivot_table(
        index=index, columns="sigma2", values="activation_fraction", aggfunc="mean"
    )
    digits = 3 if len(wide.columns) <= _WIDE else 2
    shown = wide.head(_TABLE_ROWS)
    for (dataset, constraint), rows in shown.groupby(level=[0, 1]):  # type: ignore[misc]
        columns = [("sigma2", "left"), *((f"{sigma2:g}", "right") for sigma2 in wide.columns)]
        cells = [
            [f"{activation} {model}", *("-" if v != v else f"{v:.{digits}f}" for v in values)]
            for (_, _, activation, model), values in rows.iterrows()  # type: ignore[misc]
        ]
        console.table(columns, cells, title=f"{dataset}, {constraint}", boxed=True)
    seeds = len(last["seed"].unique())
    diverged = int((last["status"] == "diverged").sum())
    keys = [key for key in TRAINING_TYPES if key in last and key not in VIEWS]
    values = last.groupby([*index, "sigma2"])[keys].nunique(dropna=False)
    pooled = ", ".join(key for key in keys if (values[key] > 1).any())
    means = " and ".join(filter(None, [f"{seeds} seeds" if seeds > 1 else "", pooled]))
    words = ["Final activation fractions" + (f", means over {means}" if means else "")]
    if diverged:
        words.append(f"{diverged:,} diverged trials left out")
    if len(wide) > _TABLE_ROWS:
        words.append(f"the first {_TABLE_ROWS} of {len(wide)} curves (sparseae analyze has all)")
    console.say("; ".join(words) + ".")
