"""A finding, and what it is compared with: numbers made from the rows by pandas and scipy."""

import numpy as np
import pandas as pd
from scipy import stats

from sparseae.analysis.prediction import Evidence, Finding, Prediction
from sparseae.analysis.trends import judge
from tests.analysis.frames import curve

NAN = float("nan")


def evidence(*frames: pd.DataFrame) -> Evidence:
    return Evidence(judge(pd.concat(frames)))


def found(prediction: Prediction, *frames: pd.DataFrame) -> Finding:
    return prediction.test(evidence(*frames))


def table(frame: pd.DataFrame, column: str = "activation_fraction") -> pd.DataFrame:
    """(seeds, sigma2) at the last epoch."""
    last = frame[frame["epoch"] == frame["epoch"].max()]
    return last.pivot_table(index="seed", columns="sigma2", values=column)


def student(values) -> tuple[float, float, float]:
    values = np.asarray(values)
    low, high = stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values))
    return values.mean(), low, high


def p_above(values, limit: float) -> float:
    return stats.ttest_1samp(values, limit, alternative="greater").pvalue


def p_below(values, limit: float) -> float:
    return stats.ttest_1samp(values, limit, alternative="less").pvalue


def names(finding: Finding) -> list[str]:
    return [f"{c.name['model']} {c.name['constraint']}" for c, _ in finding.curves]


def shifted(frame: pd.DataFrame, by_sigma2: dict, column: str = "activation_fraction"):
    """The same rows with a shift by sigma2 from the first epoch on."""
    shift = frame["sigma2"].map(by_sigma2).fillna(0.0)
    return frame.assign(**{column: frame[column] + shift * (frame["epoch"] > 0)})


def told(finding: Finding) -> dict:
    """All but the words and the curves."""
    return {k: v for k, v in vars(finding).items() if k not in ("evidence", "curves", "hint")}


def dying(dead: dict, noise: float = 0.002, **more) -> pd.DataFrame:
    """relu dae whose share of dead units is known by sigma2."""
    return curve("decreasing", model="dae", noise=noise, dead=lambda s: dead.get(s, 0.0), **more)
