"""Tables of epochs with a known answer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from sparseae import check_predictions

SIGMA2 = (0.0, 0.01, 0.09, 0.25, 0.49, 1.0)

#: Shapes seen in real runs, as functions of sigma2.
SHAPES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "flat": lambda s: np.full_like(s, 0.37),
    "decreasing": lambda s: 0.02 + 0.36 * np.exp(-12 * s),  # relu dae
    "plateau": lambda s: 0.95 / (1 + np.exp(12 * (s - 0.5))) + 0.03,  # sigmoid cae
    "weak": lambda s: 0.37 - 0.06 * s,  # twice the margin
    "increasing": lambda s: 0.5 + 0.4 * np.sqrt(s),
    "irregular": lambda s: 0.5 + 0.25 * np.cos(2 * np.pi * np.sqrt(s)),
}


def curve(
    shape: str = "flat",
    *,
    model: str = "cae",
    activation: str = "relu",
    constraint: str = "unit_norm",
    dataset: str = "digits",
    sigma2: tuple[float, ...] = SIGMA2,
    seeds: int = 3,
    noise: float = 0.003,
    epochs: int = 10,
    dead: Callable[[float], float] = lambda s: 0.0,
    rng: np.random.Generator | None = None,
    **extra: object,
) -> pd.DataFrame:
    """Rows of one curve: each trial goes from 0.5 at epoch 0 to its final value by half its
    epochs.

    E[a_j] moves with it, as that of a Gaussian unit of length one near its threshold.
    """
    rng = rng or np.random.default_rng(0)
    rows = []
    values = SHAPES[shape](np.array(sigma2))
    for seed in range(seeds):
        offset = rng.normal(0, noise)
        for s, value in zip(sigma2, values, strict=True):
            final = float(np.clip(value + offset + rng.normal(0, noise), 0, 1))
            trial = [model, activation, constraint, dataset, float(s), seed, *extra.values()]
            trial_id = "/".join(map(str, trial))
            for epoch in range(epochs + 1):
                share = min(1.0, epoch / (epochs // 2))
                activation_fraction = 0.5 + share * (final - 0.5)
                rows.append(
                    {
                        "sweep": "made", "model": model, "activation": activation,
                        "sigma2": float(s), "constraint": constraint, "dataset": dataset,
                        "seed": seed, "epoch": epoch, "epochs": epochs, "status": "ok",
                        "activation_fraction": activation_fraction,
                        "pre_activation_mean": (activation_fraction - 0.5) / 0.4,
                        "weight_norm_mean": 1.0, "dead_fraction": dead(s) * share,
                        "hidden_units": 1000, **extra, "trial_id": trial_id,
                    }
                )  # fmt: skip
    return pd.DataFrame(rows)


def measured(frame: pd.DataFrame, gradient: float = 0.0, **columns: float) -> pd.DataFrame:
    """The same rows with the theory's columns; lambda dR/db_j is ``gradient`` sigma2.

    By default the sign of the gradient foretells nine moves in ten, and the data are white.
    """
    known = {
        "lemma1_share": 1.0, "lemma1_bound": 5.0, "ae_bias_gradient_rms": 0.1,
        "condition_share": 0.0, "variance_ratio": 1.0, "theorem2_share": 1.0,
        "descent_share": 0.5, "descent_fell": 0.9, "fell_share": 0.5,
    }  # fmt: skip
    added = known | columns | {"bias_gradient": gradient * frame["sigma2"]}
    return frame.assign(**added)


def effect(frame: pd.DataFrame, measure: str, by_epoch: Callable[[np.ndarray], np.ndarray]):
    """The same rows with an effect of sigma2 on one measure, by epoch, at sigma2 = 1."""
    added = by_epoch(frame["epoch"].to_numpy(float)) * frame["sigma2"]
    return frame.assign(**{measure: frame[measure] + added})


def verdicts(*frames: pd.DataFrame) -> dict[tuple[str, str], str]:
    """By prediction and data set."""
    return rows(*frames)["verdict"].to_dict()


def rows(*frames: pd.DataFrame) -> pd.DataFrame:
    """The table of verdicts by prediction and data set."""
    return check_predictions(pd.concat(frames)).set_index(["prediction", "dataset"])
