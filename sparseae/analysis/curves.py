"""From rows to curves: the final activation fraction of each trial, by curve, sigma2 and seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sparseae.errors import RequestError

#: What names a curve.
CURVE = ["model", "activation", "constraint", "dataset"]

_NEEDED = [
    *CURVE, "trial_id", "sigma2", "seed", "epoch", "status", "activation_fraction", "dead_fraction",
]  # fmt: skip

#: Columns that say how a trial went, not what it was.
_NOT_CONFIGURATION = {
    *_NEEDED, "sweep", "dead_units", "reconstruction_error", "regularization", "loss",
    "weight_norm_mean", "bias_mean", "pre_activation_mean", "epoch_seconds", "device", "epochs",
}  # fmt: skip


@dataclass(frozen=True)
class Curve:
    """Trials that differ in sigma2 and seed alone.

    Attributes:
        name: values of `CURVE`.
        variant: further values of the configuration that tell it from curves of the same name.
        sigma2: (K,) ascending.
        seeds: (R,) seeds.
        activation: (R, K) final activation fractions, NaN where a trial is missing or diverged.
        dead: (R, K) final fractions of dead units.
        moved: (R, K) change of the activation fraction over the last fifth of the epochs.
        epochs: the last epoch, of the longest trial.
        trials: trials with any row.
        diverged: how many of them diverged.
        unfinished: how many have fewer epochs than they were to have.
    """

    name: dict[str, str]
    variant: dict[str, object]
    sigma2: np.ndarray
    seeds: np.ndarray
    activation: np.ndarray
    dead: np.ndarray
    moved: np.ndarray
    epochs: int
    trials: int
    diverged: int
    unfinished: int

    @property
    def label(self) -> str:
        words = [self.name["activation"], self.name["model"], self.name["constraint"]]
        return " ".join(words) + "".join(f" {k}={v}" for k, v in self.variant.items())


def require_columns(frame: pd.DataFrame) -> None:
    """Refuse a table that is not one of epochs.

    Raises:
        RequestError: naming the columns that are missing.
    """
    missing = [name for name in _NEEDED if name not in frame.columns]
    if missing:
        raise RequestError(f"the table of epochs has no column {', '.join(missing)}")


def final_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """The last epoch of each trial, with ``unfinished`` and ``moved`` (see `Curve`).

    A whitened data set is another data set.
    """
    require_columns(frame)
    if frame.empty:
        return frame.assign(unfinished=pd.Series(dtype=bool), moved=pd.Series(dtype=float))
    ordered = frame.sort_values(["trial_id", "epoch"])
    last = ordered.groupby("trial_id", sort=False).tail(1).copy()
    epochs = last["epochs"] if "epochs" in last else last["epoch"]
    last["unfinished"] = last["epoch"] < epochs
    ends = last.set_index("trial_id")["epoch"]
    ago = ordered["trial_id"].map(ends - np.ceil(ends / 5).astype(int))
    before = ordered[ordered["epoch"] == ago].set_index("trial_id")["activation_fraction"]
    last["moved"] = last["activation_fraction"] - last["trial_id"].map(before)
    # Fewer than five epochs show no convergence.
    last.loc[last["epoch"] < 5, "moved"] = np.nan
    if "whiten" in last:
        whitened = last["whiten"].fillna(False).astype(bool)
        last["dataset"] = last["dataset"].where(~whitened, last["dataset"] + " (whitened)")
        last = last.drop(columns="whiten")
    return last


def curves(frame: pd.DataFrame) -> list[Curve]:
    """Every curve in a table of epochs, in the order of their names.

    Raises:
        RequestError: if a column is missing, or two trials have the same place on a curve.
    """
    return [curve for name, rows in _by_name(final_rows(frame)) for curve in _split(name, rows)]


def _by_name(last: pd.DataFrame) -> Iterator[tuple[dict[str, str], pd.DataFrame]]:
    for values, rows in last.groupby(CURVE):
        yield dict(zip(CURVE, values, strict=True)), rows  # type: ignore[arg-type]


def _split(name: dict[str, str], rows: pd.DataFrame) -> Iterator[Curve]:
    configuration = [c for c in rows if c not in _NOT_CONFIGURATION | {"unfinished", "moved"}]
    varying = [c for c in configuration if len(rows[c].unique()) > 1]
    if not varying:
        yield _curve(name, {}, rows)
        return
    for values, part in rows.groupby(varying, dropna=False):
        yield _curve(name, dict(zip(varying, values, strict=True)), part)  # type: ignore[arg-type]


def _curve(name: dict[str, str], variant: dict[str, object], rows: pd.DataFrame) -> Curve:
    if rows.duplicated(["sigma2", "seed"]).any():
        double = rows[rows.duplicated(["sigma2", "seed"])].iloc[0]
        raise RequestError(
            f"two trials are {name} with sigma2 {double['sigma2']:g} and seed {double['seed']}: "
            "load folders of different sweeps, or one of them"
        )
    sound = rows.assign(**{
        column: rows[column].where(rows["status"] == "ok")
        for column in ("activation_fraction", "dead_fraction", "moved")
    })  # fmt: skip

    sigma2, seeds = np.unique(rows["sigma2"]), np.unique(rows["seed"])
    place = np.searchsorted(seeds, rows["seed"]), np.searchsorted(sigma2, rows["sigma2"])

    def table(column: str) -> np.ndarray:
        wide = np.full((seeds.size, sigma2.size), np.nan)
        wide[place] = sound[column].to_numpy(float)
        return wide

    return Curve(
        name=name,
        variant=variant,
        sigma2=sigma2,
        seeds=seeds,
        activation=table("activation_fraction"),
        dead=table("dead_fraction"),
        moved=table("moved"),
        epochs=int(rows["epoch"].max()),
        trials=len(rows),
        diverged=int((rows["status"] == "diverged").sum()),
        unfinished=int(rows["unfinished"].sum()),
    )
