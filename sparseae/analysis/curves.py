"""From rows to curves: what was measured of each trial, by curve, sigma2, seed and epoch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sparseae.analysis import thresholds
from sparseae.errors import RequestError
from sparseae.results.reader import load_last, load_parts
from sparseae.results.schema import ADDED_FIELDS, THEORY_FIELDS

#: What names a curve.
CURVE = ["model", "activation", "constraint", "dataset"]

_NEEDED = [
    *CURVE, "trial_id", "sigma2", "seed", "epoch", "status", "activation_fraction", "dead_fraction",
]  # fmt: skip

#: What is read of every epoch; the last two only where they are there.
_MEASURED = ["activation_fraction", "dead_fraction", "pre_activation_mean", "weight_norm_mean"]

#: Behind the name of a data set that is whitened: another view of the same data.
WHITENED = " (whitened)"

#: The keys that make another view of a data set, the value with which they do, and what then stands
#: behind its name.
VIEWS: dict[str, tuple[object, str]] = {
    "standardize": ("sample", " (by sample)"),
    "whiten": (True, WHITENED),
}


def with_views(trials: pd.DataFrame) -> pd.Series:
    """The names of the trials' data sets, those of other views among them."""
    names = pd.Series(trials["dataset"])
    for key, (value, suffix) in VIEWS.items():
        if key in trials:
            names = names + np.where(trials[key].eq(value).fillna(False), suffix, "")
    return names


def without_views(name: str) -> tuple[str, dict[str, object]]:
    """The name of the data set itself, and the values of the keys that made this view of it."""
    made: dict[str, object] = {}
    for key, (value, suffix) in reversed(VIEWS.items()):
        if name.endswith(suffix):
            name, made[key] = name.removesuffix(suffix), value
    return name, made


#: Columns that say how a trial went, not what it was.
_NOT_CONFIGURATION = {
    *_NEEDED, *_MEASURED, "sweep", "dead_units", "reconstruction_error", "regularization", "loss",
    "bias_mean", "epoch_seconds", "device", "epochs", "reached", "diverged", "unfinished",
    *(f.name for f in (*ADDED_FIELDS, *THEORY_FIELDS)),
}  # fmt: skip


@dataclass(frozen=True)
class Curve:
    """Trials that differ in sigma2 and seed alone, all at the same epoch.

    Attributes:
        name: values of `CURVE`.
        variant: further values of the configuration that tell it from curves of the same name.
        settings: every further value of the configuration; None where it is not known.
        sigma2: (K,) ascending.
        seeds: (R,) seeds.
        activations: (R, K, E) activation fractions for epochs 0 to ``epoch``, NaN where a trial is
            missing, behind or diverged.
        deads: (R, K, E) fractions of dead units.
        pre_activations: (R, K, E) mean pre-activations, in lengths of the weights.
        lengths: (R, K) mean lengths of the weights at ``epoch``.
        epoch: the latest epoch that more than half of the trials have reached.
        trials: trials with any row.
        theory: (R, K, E) each column of `THEORY_FIELDS` that the table has, as above.
        trial_ids: (R, K) their names, empty where there is none.
        diverged: how many of them diverged.
        unfinished: how many have fewer epochs than they were to have.
        behind: how many have not reached ``epoch``.
    """

    name: dict[str, str]
    sigma2: np.ndarray
    seeds: np.ndarray
    activations: np.ndarray
    deads: np.ndarray
    pre_activations: np.ndarray
    lengths: np.ndarray
    epoch: int
    trials: int
    theory: dict[str, np.ndarray] = field(default_factory=dict)
    trial_ids: np.ndarray = field(default_factory=lambda: np.empty((0, 0), dtype=object))
    variant: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    diverged: int = 0
    unfinished: int = 0
    behind: int = 0

    @property
    def activation(self) -> np.ndarray:
        """(R, K) activation fractions at ``epoch``."""
        return self.activations[..., -1]

    @property
    def dead(self) -> np.ndarray:
        """(R, K) fractions of dead units at ``epoch``."""
        return self.deads[..., -1]

    @property
    def last_half(self) -> slice:
        """The last half of the epochs, with the one before; of too few epochs the last alone."""
        if self.epoch < thresholds.FEWEST_EPOCHS:
            return slice(self.epoch, None)
        return slice(self.epoch // 2, None)

    @property
    def label(self) -> str:
        words = [self.name["activation"], self.name["model"], self.name["constraint"]]
        return " ".join(words) + self.suffix

    @property
    def suffix(self) -> str:
        """The variant in words, for a legend; empty where there is only one."""
        return "".join(f", {key}={_plain(value)}" for key, value in self.variant.items())


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def require_columns(frame: pd.DataFrame) -> None:
    """Refuse a table that is not one of epochs.

    Raises:
        RequestError: naming the columns that are missing.
    """
    missing = [name for name in _NEEDED if name not in frame.columns]
    if missing:
        raise RequestError(f"the table of epochs has no column {', '.join(missing)}")


def trial_table(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a trial, indexed by trial_id: its last epoch.

    Further columns: ``reached`` (epoch), ``diverged`` and ``unfinished`` (bool). Another view of a
    data set is another data set, with a name of its own (`VIEWS`).

    Raises:
        RequestError: if a column is missing.
    """
    require_columns(frame)
    by_epoch = frame.sort_values("epoch", kind="stable")
    trials = by_epoch.drop_duplicates("trial_id", keep="last").set_index("trial_id").sort_index()
    trials["reached"] = trials["epoch"]
    trials["diverged"] = trials.index.isin(frame.loc[frame["status"] != "ok", "trial_id"].unique())
    wanted = trials["epochs"] if "epochs" in trials else trials["epoch"]
    trials["unfinished"] = (trials["reached"] < wanted) & ~trials["diverged"]
    trials["dataset"] = with_views(trials)
    return trials.drop(columns=[key for key in VIEWS if key in trials])


def curves(frame: pd.DataFrame) -> list[Curve]:
    """Every curve in a table of epochs, in the order of their names.

    Rows of the same trial and epoch, from folders that share trials, count once.

    Raises:
        RequestError: if a column is missing, or two trials have the same place on a curve.
    """
    return _curves(trial_table(frame), [frame])


def read_curves(places: str | Path | Sequence[str | Path]) -> list[Curve]:
    """Every curve of one or several sweeps, as ``curves(load(places))``.

    Never more than the last row of each trial, what is measured of each epoch, and one part of the
    rows are in memory: of a million trials of 50 epochs less than 4 GB.

    Raises:
        RequestError: as `curves`, and where a folder or its files cannot be used.
    """
    columns = ["trial_id", "epoch", "status", *_MEASURED, *(f.name for f in THEORY_FIELDS)]
    return _curves(trial_table(load_last(places)), load_parts(places, columns))


def _curves(trials: pd.DataFrame, parts: Iterable[pd.DataFrame]) -> list[Curve]:
    """The curves of a table of trials and their rows."""
    if trials.empty:
        return []
    measured = _by_epoch(parts, trials)
    configuration = [c for c in trials if c not in _NOT_CONFIGURATION]
    codes = np.column_stack(
        [np.zeros(len(trials)), *(pd.factorize(trials[c])[0] for c in configuration)]
    )[:, 1:]
    groups = trials.groupby(CURVE).indices
    grids = [
        grid
        for values in sorted(groups)
        for grid in _split(
            dict(zip(CURVE, values, strict=True)),  # type: ignore[arg-type]
            groups[values], trials, codes, configuration,
        )
    ]  # fmt: skip
    tables: list[dict[str, np.ndarray]] = [{} for _ in grids]
    for name in list(measured):
        values = measured.pop(name)  # or all would be in memory twice
        for grid, own in zip(grids, tables, strict=True):
            own[name] = grid.table(values)
    return [grid.curve(own) for grid, own in zip(grids, tables, strict=True)]


def _by_epoch(parts: Iterable[pd.DataFrame], trials: pd.DataFrame) -> dict[str, np.ndarray]:
    """Each measured column as (trials, epochs), NaN where there is no row.

    A trial with any diverged row is marked so in ``trials``.
    """
    shape = len(trials), int(trials["reached"].max()) + 1
    tables = {name: np.full(shape, np.nan) for name in _MEASURED}
    known = np.zeros(shape, bool)
    diverged = trials["diverged"].to_numpy(copy=True)
    for rows in parts:
        of_part, names = pd.factorize(rows["trial_id"])
        trial, epoch = trials.index.get_indexer(names)[of_part], rows["epoch"].to_numpy()
        diverged[trial[(rows["status"] != "ok").to_numpy()]] = True
        # Of a row that stands there twice the first counts: it is the one that is set last.
        new = np.flatnonzero(~known[trial, epoch])[::-1]
        place = trial[new], epoch[new]
        known[place] = True
        for name in (*_MEASURED, *(f.name for f in THEORY_FIELDS)):
            if name in rows:
                if name not in tables:
                    tables[name] = np.full(shape, np.nan)
                tables[name][place] = rows[name].to_numpy(float, na_value=np.nan)[new]
    trials["diverged"] = diverged
    trials["unfinished"] &= ~diverged
    return tables


def _split(
    name: dict[str, str],
    members: np.ndarray,
    trials: pd.DataFrame,
    codes: np.ndarray,
    configuration: list[str],
) -> Iterator[_Grid]:
    """The curves of one name, one for each further configuration."""
    varying = np.flatnonzero((codes[members] != codes[members[0]]).any(0))
    _, which = np.unique(codes[members][:, varying], axis=0, return_inverse=True)
    for k in range(which.max() + 1):
        part = members[which == k]
        values = trials.iloc[part[0]][configuration].to_dict()
        settings = {key: None if pd.isna(value) else value for key, value in values.items()}
        variant = {configuration[i]: settings[configuration[i]] for i in varying}
        yield _Grid(name, variant, settings, trials.iloc[part], part)


class _Grid:
    """Which trial of a curve stands at which seed and sigma2."""

    def __init__(
        self,
        name: dict[str, str],
        variant: dict[str, Any],
        settings: dict[str, Any],
        trials: pd.DataFrame,
        members: np.ndarray,
    ) -> None:
        self._name, self._variant, self._settings = name, variant, settings
        self._members = members
        self._sigma2, at_sigma2 = np.unique(trials["sigma2"], return_inverse=True)
        self._seeds, at_seed = np.unique(trials["seed"], return_inverse=True)
        self._at = at_seed, at_sigma2
        if np.unique(at_seed * self._sigma2.size + at_sigma2).size < len(trials):
            double = trials[trials.duplicated(["sigma2", "seed"])].iloc[0]
            raise RequestError(
                f"two trials are {' '.join(name.values())} with sigma2 {double['sigma2']:g} and "
                f"seed {double['seed']}, yet have different trial_id: load the folders one by one"
            )
        self._sound = sound = ~trials["diverged"].to_numpy()
        reached = trials["reached"].to_numpy()
        # Trials of a running sweep stand at different epochs; only the same epoch can be compared.
        common = np.sort(reached[sound] if sound.any() else reached)[::-1]
        self._epoch = epoch = int(common[common.size // 2])
        self._trial_ids = np.full((self._seeds.size, self._sigma2.size), "", dtype=object)
        self._trial_ids[self._at] = trials.index.to_numpy(object)
        self._unfinished = int(trials["unfinished"].sum())
        self._behind = int((sound & (reached < epoch)).sum())

    def table(self, values: np.ndarray) -> np.ndarray:
        """What was measured of all trials, (trials, epochs), as (R, K, E) of these."""
        wide = np.full((self._seeds.size, self._sigma2.size, self._epoch + 1), np.nan)
        own = values[self._members, : self._epoch + 1]
        wide[self._at] = np.where(self._sound[:, None], own, np.nan)
        return wide

    def curve(self, tables: dict[str, np.ndarray]) -> Curve:
        """The curve, of each measured column as `table` has it."""
        activation, dead, pre_activation, length = (tables[c] for c in _MEASURED)
        with np.errstate(invalid="ignore", divide="ignore"):
            pre_activation /= length
        theory = {f.name: tables[f.name] for f in THEORY_FIELDS if f.name in tables}
        return Curve(
            name=self._name,
            variant=self._variant,
            settings=self._settings,
            sigma2=self._sigma2,
            seeds=self._seeds,
            activations=activation,
            deads=dead,
            pre_activations=pre_activation,
            lengths=length[..., -1].copy(),  # a view would keep all epochs
            epoch=self._epoch,
            theory={k: values for k, values in theory.items() if np.isfinite(values).any()},
            trials=self._members.size,
            trial_ids=self._trial_ids,
            diverged=int((~self._sound).sum()),
            unfinished=self._unfinished,
            behind=self._behind,
        )
