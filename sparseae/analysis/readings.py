"""What ``theory: true`` measures and nobody has to judge: bounds that hold by proof, and how far.

Lemma 1 holds by Cauchy-Schwarz whatever the data, Theorem 1's condition is sufficient with a lambda
that is free, and the kink's term is all of relu dae's bias gradient by derivation (docs/theory.md).
Such statements have no verdict. What is worth knowing is a number.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from sparseae.analysis.curves import Curve
from sparseae.analysis.explanations import kink_share
from sparseae.analysis.prediction import has_bias
from sparseae.analysis.trends import Judged


def reading_table(judged: Judged) -> pd.DataFrame:
    """One row a reading and data set: reading, section, dataset, words."""
    rows = []
    measured = [c for c, _ in judged if c.theory and c.epoch > 0 and has_bias(c)]
    for dataset in sorted({c.name["dataset"] for c in measured}):
        found = [c for c in measured if c.name["dataset"] == dataset]
        for name, section, read in (
            ("lemma-1", "2.1.1, lemma 1", _slack),
            ("theorem-1", "2.1.1, theorem 1", _condition),
            ("kink", "3.1.1, footnote 1", _kink),
        ):
            if words := read(found):
                rows.append((name, section, dataset, words))
    return pd.DataFrame(rows, columns=["reading", "section", "dataset", "words"])


def _slack(found: list[Curve]) -> str:
    """How far below Lemma 1's bound dJ_AE/db_j stays."""
    shares = []
    for curve in found:
        if {"ae_bias_gradient_rms", "lemma1_bound"} <= curve.theory.keys():
            with np.errstate(invalid="ignore", divide="ignore"):
                share = curve.theory["ae_bias_gradient_rms"] / curve.theory["lemma1_bound"]
            shares.append(share[np.isfinite(share)])
    if not shares or not (every := np.concatenate(shares)).size:
        return ""
    return (
        f"dJ_AE/db_j is {np.median(every):.1%} of its bound in the median over epochs, at most "
        f"{every.max():.1%}"
    )


def _condition(found: list[Curve]) -> str:
    """How often Theorem 1's condition held, and the lambda that it would take."""
    held = [c.theory["condition_share"] for c in found if "condition_share" in c.theory]
    needed = {}
    for curve in found:
        if {"bias_gradient", "lemma1_bound"} <= curve.theory.keys():
            for when, epoch in (("start", 0), ("end", -1)):
                gradient, bound = (
                    curve.theory[k][..., epoch] for k in ("bias_gradient", "lemma1_bound")
                )
                with np.errstate(invalid="ignore", divide="ignore"):
                    factor = np.where(gradient > 0, curve.sigma2 * bound / gradient, np.nan)
                if np.isfinite(factor).any():
                    name = f"{curve.name['activation']} {curve.name['model']}"
                    needed.setdefault(name, {})[when] = float(np.nanmedian(factor))
    words = [
        f"{name} {' and '.join(f'{value:.3g} at the {when}' for when, value in times.items())}"
        for name, times in sorted(needed.items())
    ]
    if not words:
        return ""
    share = np.concatenate([h[np.isfinite(h)] for h in held]) if held else np.empty(0)
    often = f"the condition held for {share.mean():.3%} of units and epochs; " if share.size else ""
    return f"{often}the lambda that it would take, in the median: {'; '.join(words)}"


def _kink(found: list[Curve]) -> str:
    """How much of relu dae's bias gradient the estimate of the kink's term finds."""
    shares = [
        kink_share(c)
        for c in found
        if {"kink_gradient", "bias_gradient"} <= c.theory.keys() and c.name["model"] == "dae"
    ]
    known = [share for share in shares if share == share]
    if not known:
        return ""
    return (
        f"the estimated term of relu's kink is {min(known):.0%} to {max(known):.0%} of the bias "
        "gradient that the noise adds to relu dae (100 % by derivation)"
    )
