"""``sparseae replay``: whether a sweep's rows are what this code makes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from sparseae.cli import _console as console
from sparseae.cli import app

if TYPE_CHECKING:
    from sparseae.sweep.replay import Replayed


@app.command()
def replay(
    place: Annotated[str, typer.Argument(metavar="DIR", help="Folder or URL of a sweep.")],
    trials: Annotated[
        int, typer.Option(min=1, help="How many, of as many kinds as there are.")
    ] = 3,
    epochs: Annotated[
        int | None, typer.Option(min=0, help="Compare the first epochs only; default: all.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice of trials.")] = 0,
    trial: Annotated[
        list[str] | None,
        typer.Option(metavar="TRIAL_ID", help="This trial instead, repeatable."),
    ] = None,
) -> None:
    """Train sampled trials again and compare every row: to the bit on the CPU that made them."""
    from sparseae.sweep import replay as replaying

    chosen = replaying.sampled(place, trials=trials, seed=seed, trial_ids=trial or ())
    done: list[Replayed] = []
    for one in replaying.replay(chosen, epochs=epochs):
        done.append(one)
        _say(one)
    for change in dict.fromkeys(change for one in done for change in one.changes):
        console.say(f"changed since: {change}")
    equal = sum(one.first is None for one in done)
    bad = [one for one in done if not one.within]
    close = len(done) - equal - len(bad)
    words = [f"{equal} of {len(done)} trials equal to the bit"]
    if close:
        words.append(
            f"{close} within the tolerance (epoch 0 to {replaying.INITIAL:g}, activation fractions "
            f"to {replaying.TOLERANCE:g})"
        )
    if bad:
        words.append(f"{len(bad)} differ")
    console.say("; ".join(words))
    if bad:
        raise typer.Exit(1)


def _say(one: Replayed) -> None:
    t = one.trial
    console.say(
        f"{t.activation} {t.model} {t.constraint} {t.dataset}, sigma2 {t.sigma2:g}, seed {t.seed} "
        f"({t.trial_id})"
    )
    units = f" and {one.units:,} units" if one.units else ""
    if one.first is None:
        console.say(f"  {one.rows} epochs{units}: equal to the bit")
        return
    word = "within the tolerance" if one.within else "DIFFERS"
    console.say(f"  {one.rows} epochs{units}: {word}; activation fractions by {one.largest:.2g}")
    console.say(f"  first at {one.first}")
