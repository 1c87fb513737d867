"""The search for verdicts behind ``sparseae next``: propose, train, look again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from sparseae.analysis.outlook import Open, Option, open_statements
from sparseae.analysis.trends import judge_places
from sparseae.analysis.verdicts import Looks
from sparseae.cli import _console as console
from sparseae.errors import RequestError
from sparseae.model.trial import Trial
from sparseae.results.location import Location
from sparseae.results.reader import sweeps_in
from sparseae.sweep.checkpoints import CHECKPOINTS
from sparseae.sweep.config import Sweep
from sparseae.sweep.extension import ASKED, Addition, Pace, extended
from sparseae.sweep.piece import STATE_FILE, Checkpoint, DamagedCheckpointError
from sparseae.yamltext import recorded, written

#: Where a search stands: it goes on from there when it was killed.
STATE = "next.json"

#: An option with less is not trained: four of five times it would be in vain.
_LEAST_ODDS = 0.2

#: Looks after training, at most: each may spend less of the error (`thresholds.spent`), the sixth a
#: fortieth of it.
_MOST_ROUNDS = 5


@dataclass(frozen=True)
class Proposal:
    """A statement that is open, and what would decide it.

    Attributes:
        label: the statement and the data set.
        words: what to train; where that is nothing, what it lacks.
        option: what to train.
        seconds: the time that it takes by itself.
        addition: the same for the sweep.
    """

    label: str
    words: str
    option: Option | None
    seconds: float = 0.0
    addition: Addition | None = None

    @property
    def odds(self) -> float:
        return self.option.odds if self.option else 0.0


def propose(place: str, workers: int, pace: Pace | None = None) -> list[Proposal]:
    """What would decide the statements that are open.

    Args:
        place: a sweep's folder or URL, or a folder of sweeps.
        workers: trials at once, for the time.
        pace: how fast trials are, where it was measured.

    Raises:
        RequestError: where the results cannot be read.
    """
    judged = judge_places(place)
    looks = Looks.read(place)
    found = list(open_statements(judged, looks))
    with suppress(OSError):  # a place that cannot be written was looked at all the same
        looks.write(place)
    sweeps = [(s, _sweep(s)) for s in sweeps_in(Location.of(place))]
    pace = pace or Pace(workers)
    return [_proposal(one, sweeps, pace) for one in found]


def _sweep(location: Location) -> Sweep:
    file = location / "sweep.yaml"
    try:
        return Sweep.recorded(file.read_bytes(), str(file))
    except FileNotFoundError:
        raise RequestError(f"{location}: has no sweep.yaml; is it the folder of a sweep?") from None


def _proposal(one: Open, sweeps: Sequence[tuple[Location, Sweep]], pace: Pace) -> Proposal:
    option = one.best
    if option is None:
        return Proposal(one.label, one.outcome.would_change, None)
    ids = tuple(i for curve in one.curves for i in curve.trial_ids.ravel().tolist() if i)
    addition = Addition(ids, option.seeds, option.epochs, option.sigma2)
    seconds = 0.0
    for location, sweep in sweeps:
        if not {t.trial_id for t in sweep.trials()}.isdisjoint(ids):
            try:
                larger = extended(sweep, [addition])
            except RequestError as error:
                return Proposal(one.label, str(error), None)
            seconds += pace.seconds(_left(location, sweep, larger))
    return Proposal(one.label, option.words(one.epoch), option, seconds, addition)


def _left(location: Location, sweep: Sweep, larger: Sweep) -> dict[Trial, int]:
    """Trials that a larger sweep trains, with the epochs that a checkpoint of theirs has."""
    before = {t.trial_id: t.training.epochs for t in sweep.trials()}
    saved: dict[str, int] = {}
    for file in (location / CHECKPOINTS).files(STATE_FILE, recursive=True):
        with suppress(DamagedCheckpointError):
            checkpoint = Checkpoint.read(Location(file.filesystem, file.path.rsplit("/", 1)[0]))
            saved |= dict.fromkeys(checkpoint.trial_ids, checkpoint.epoch)
    return {
        t: saved.get(t.trial_id, -1)
        for t in larger.trials()
        if before.get(t.trial_id, -1) < t.training.epochs
    }


def decide(
    place: str,
    seconds: float,
    workers: int,
    show: Callable[[list[Proposal]], None],
    **how: Any,
) -> str:
    """Train what decides most for its time, look again, and so on; return why it ended.

    What is chosen depends on the rows, on the time and on the pace that was measured at the start,
    which is kept: killed anywhere, the same command ends with the same rows.

    Args:
        place: a sweep's folder.
        seconds: that all of it may take, as planned.
        workers: trials at once.
        show: is given the proposals of each look.
        how: ``address`` or ``in_process``, as `sparseae.run` takes them.

    Raises:
        RequestError: if the place is not one sweep's, or its folder is not named as the sweep.
    """
    location = Location.of(place)
    if [s.path for s in sweeps_in(location)] != [location.path]:
        raise RequestError(f"{place}: holds several sweeps; name one of them")
    sweep = _sweep(location)
    if PurePosixPath(location.path).name != sweep.name:
        raise RequestError(f"{place}: the folder of sweep {sweep.name!r} must have its name")
    state = _State.read(location, workers)
    if state.planned:  # it was killed, perhaps before all of this was trained
        _train(place, state.planned, how)
    rounds = state.rounds
    while True:
        proposals = propose(place, workers, state.pace)
        show(proposals)
        chosen = _affordable(proposals, seconds - state.spent)
        if not chosen or rounds >= _MOST_ROUNDS:
            break
        sweep = _sweep(location)
        larger = extended(sweep, [p.addition for p in chosen if p.addition])
        state.spent += state.pace.seconds(_left(location, sweep, larger))
        state.planned, state.rounds = larger.resolved(), rounds + 1
        asked = location / ASKED
        if not asked.exists():
            asked.write_bytes((location / "sweep.yaml").read_bytes())
        state.write(location)
        _train(place, state.planned, how)
        rounds += 1
    with suppress(FileNotFoundError):
        (location / STATE).delete()
    still = [p for p in proposals if p.odds >= _LEAST_ODDS]
    if not still:
        words = "what is open more of the same does not decide" if proposals else "all is decided"
    elif rounds >= _MOST_ROUNDS:
        words = f"{rounds} looks are enough: each leaves less of the error"
    else:
        words = "the next would take longer than is left (--hours)"
    return f"ended after {state.spent:.0f} s of training, as planned: {words}"


def _affordable(proposals: Iterable[Proposal], seconds: float) -> list[Proposal]:
    """Those worth training, the most decided for its time first, as far as the time goes."""
    worth = [p for p in proposals if p.addition and p.odds >= _LEAST_ODDS]
    chosen: list[Proposal] = []
    for p in sorted(worth, key=lambda p: (p.seconds / p.odds, p.label)):
        if p.seconds <= seconds:
            chosen.append(p)
            seconds -= p.seconds
    return chosen


@dataclass
class _State:
    """A search under way."""

    pace: Pace
    spent: float = 0.0
    rounds: int = 0
    planned: dict[str, Any] | None = None

    @classmethod
    def read(cls, location: Location, workers: int) -> _State:
        try:
            known = json.loads((location / STATE).read_bytes())
        except (FileNotFoundError, ValueError):
            return cls(Pace(workers))
        pace = Pace(known["workers"], known["pace"])
        return cls(pace, known["spent"], known["rounds"], recorded(known["planned"], STATE))

    def write(self, location: Location) -> None:
        known = {
            "workers": self.pace.workers, "pace": self.pace.known, "spent": self.spent,
            "rounds": self.rounds, "planned": written(self.planned),
        }  # fmt: skip
        (location / STATE).write_bytes(json.dumps(known, indent=1).encode())


def _train(place: str, planned: dict[str, Any], how: dict[str, Any]) -> None:
    import sparseae
    from sparseae.cli._view import RunView

    folder, mark, options = place.partition("?") if "://" in place else (place, "", "")
    parent = str(PurePosixPath(folder.rstrip("/")).parent) if "://" not in place else (
        folder.rstrip("/").rsplit("/", 1)[0]
    )  # fmt: skip
    with RunView(console.console()) as view:
        done = sparseae.run(planned, results=f"{parent}{mark}{options}", observer=view, **how)
    if done.interrupted:
        console.say("Stopped; the same command goes on.")
        raise SystemExit(130)
    if done.failed:
        raise RequestError(f"{len(done.failed)} trials failed: {next(iter(done.failed.values()))}")
