"""What differs between two sweeps, or one at two values of a key: trial by trial, and in verdicts.

Two trials are a pair where they agree in every value but what differs between the sides. Seeds are
the replicates: of a curve the paired difference at a sigma2 is its mean over seeds, with Student's
interval.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from sparseae.analysis.curves import CURVE, VIEWS, require_columns, with_views
from sparseae.analysis.verdicts import NOT_TESTED, TOGETHER, check_predictions
from sparseae.errors import RequestError, nearest
from sparseae.model.trial import AXES, TRAINING_TYPES

#: What tells one trial from another, as `Trial.trial_id` has it.
KEYS = [*AXES, *(key for key in TRAINING_TYPES if key != "epochs")]

#: What is compared, by the name of the measure.
MEASURES = ("activation_fraction", "pre_activation")

#: Most keys that may differ within a pair without being named.
_MOST_KEYS = 3

_CONFIDENCE = 0.95

#: Columns that say what a trial did; where all are equal it is the same trial to the bit.
_DID = ["activation_fraction", "dead_units", "reconstruction_error", "weight_norm_mean",
        "bias_mean", "pre_activation_mean"]  # fmt: skip


@dataclass(frozen=True)
class Differences:
    """Two sides, compared.

    Attributes:
        by: what differs within a pair: a key with its values on both sides, in words.
        pairs: how many pairs there are, diverged ones apart.
        equal: how many of them are equal to the bit in all that was measured.
        diverged: pairs left out because a side diverged.
        alone: trials without a partner, (of the first side, of the second).
        table: one row a curve, measure and sigma2: `CURVE`, variant, measure, sigma2, seeds, first,
            second (means), difference, low, high (95 % interval over seeds).
        curves: one row a curve and measure: the mean over sigma2 with its interval, and the
            largest, with an interval that holds for all its sigma2 together (Bonferroni).
        verdicts: statements that both sides test: prediction, dataset, first, second, flips.
    """

    by: tuple[str, ...]
    pairs: int
    equal: int
    diverged: int
    alone: tuple[int, int]
    table: pd.DataFrame = field(repr=False)
    curves: pd.DataFrame = field(repr=False)
    verdicts: pd.DataFrame = field(repr=False)

    @property
    def flips(self) -> pd.DataFrame:
        """The statements whose verdicts differ."""
        return self.verdicts.loc[self.verdicts["flips"]]


def at(frame: pd.DataFrame, key: str, value: str) -> pd.DataFrame:
    """The rows of a table of epochs at one value of a key; of ``epochs``, those up to that epoch.

    Args:
        frame: a table of epochs.
        key: an axis, a key of ``training``, or a column of the table.
        value: as text.

    Raises:
        RequestError: where there is no such key, or no trial has the value.
    """
    if key == "seed":
        raise RequestError("--by seed: seeds are the replicates, not what is compared")
    if key not in [*KEYS, "epochs", "sweep", "device"] or (key not in frame and key != "epochs"):
        raise RequestError(f"--by {key}: no such key; {nearest(key, [*KEYS, 'epochs'])}")
    if key == "epochs":
        return up_to(frame, value)
    column = frame[key]
    texts = column.map(_text)
    wanted = _text(_number(value)) if column.dtype.kind in "if" else value
    if column.dtype.kind == "b":
        wanted = value.lower()
    chosen = frame.loc[texts == wanted]
    if chosen.empty:
        have = sorted(texts.unique())
        raise RequestError(f"--by {key}: no trial has {value!r}; {nearest(value, have)}")
    return chosen


def up_to(frame: pd.DataFrame, epoch: int | str) -> pd.DataFrame:
    """A table of epochs as it stood when every trial had so many epochs at most.

    Raises:
        RequestError: where the epoch is no number, or no trial has it.
    """
    number = _number(str(epoch))
    last = int(frame["epoch"].max())
    if not isinstance(number, float) or not number.is_integer() or not 0 <= number <= last:
        raise RequestError(f"--by epochs: must be 0 to {last}, not {epoch!r}")
    cut = frame.loc[frame["epoch"] <= number]
    return cut.assign(epochs=cut["epochs"].clip(upper=int(number))) if "epochs" in cut else cut


def differences(first: pd.DataFrame, second: pd.DataFrame) -> Differences:
    """Compare two tables of epochs; they may be the same table at two values of a key.

    Finished trials are compared at their ends, also where these are different epochs; others at
    the latest epoch that both have.

    Raises:
        RequestError: if a column is missing, or no trial of one side has a partner on the other.
    """
    sides = [_ends(frame) for frame in (first, second)]
    by, pairs = _pairs(*sides)
    if by is None:  # other seeds: nothing is paired, verdicts can be compared all the same
        empty = pd.DataFrame()
        verdicts = _verdicts(first, second, ())
        return Differences(("seed",), 0, 0, 0, (len(sides[0]), len(sides[1])), empty, empty,
                           verdicts)  # fmt: skip
    both_done = ~pairs["unfinished_1"] & ~pairs["unfinished_2"]
    common = pairs[["reached_1", "reached_2"]].min(axis=1)
    values = []
    for side, frame in (("1", first), ("2", second)):
        epoch = pairs[f"reached_{side}"].where(both_done, common)
        values.append(_rows_at(frame, pairs[f"trial_id_{side}"], epoch))
    sound = ~(pairs["diverged_1"] | pairs["diverged_2"]).to_numpy()
    equal = np.all(
        [values[0][c].eq(values[1][c]) | (values[0][c].isna() & values[1][c].isna())
         for c in _DID if c in values[0] and c in values[1]], axis=0,
    )  # fmt: skip
    words = _words(by, pairs)
    table = _table(pairs[sound], [v[sound] for v in values], by)
    alone = tuple(len(side) - len(pairs) for side in sides)
    cut = [
        _cut(frame, pairs[f"trial_id_{s}"], pairs[f"reached_{s}"].where(both_done, common))
        for s, frame in (("1", first), ("2", second))
    ]
    return Differences(
        by=words,
        pairs=int(sound.sum()),
        equal=int((equal & sound).sum()),
        diverged=int((~sound).sum()),
        alone=(alone[0], alone[1]),
        table=table,
        curves=_curves(table),
        verdicts=_verdicts(*cut, by),
    )


def _ends(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a trial: its keys, and how far it came."""
    require_columns(frame)
    keys = [key for key in KEYS if key in frame]
    last = frame.sort_values("epoch", kind="stable").drop_duplicates("trial_id", keep="last")
    ends = last[["trial_id", *keys]].copy()
    ends["reached"] = last["epoch"]
    ends["epochs"] = last["epochs"] if "epochs" in last else last["epoch"]
    diverged = frame.loc[frame["status"] != "ok", "trial_id"].unique()
    ends["diverged"] = ends["trial_id"].isin(diverged)
    ends["unfinished"] = (ends["reached"] < ends["epochs"]) & ~ends["diverged"]
    return pd.DataFrame(ends)


def _pairs(
    first: pd.DataFrame, second: pd.DataFrame
) -> tuple[tuple[str, ...] | None, pd.DataFrame]:
    """Trials that agree in all but the fewest keys, and these; None where seeds alone differ."""
    keys = [key for key in KEYS if key in first and key in second]
    varying = [
        key for key in keys if key != "seed" and _differ(pd.concat([first[key], second[key]]))
    ]
    for size in range(min(len(varying), _MOST_KEYS) + 1):
        best: tuple[tuple[str, ...], pd.DataFrame] | None = None
        for by in itertools.combinations(varying, size):
            on = [key for key in keys if key not in by]
            if first.duplicated(on).any() or second.duplicated(on).any():
                continue
            pairs = first.merge(second, on=on, suffixes=("_1", "_2"))
            if len(pairs) and (best is None or len(pairs) > len(best[1])):
                best = by, pairs
        if best is not None:
            return best
    on = [key for key in keys if key != "seed"]
    if set(first["seed"]).isdisjoint(second["seed"]) and len(first.merge(second, on=on)):
        return None, first.iloc[:0]
    raise RequestError(
        f"no trial of the one agrees with one of the other in all but {_MOST_KEYS} keys or fewer"
    )


def _differ(values: pd.Series | pd.DataFrame) -> bool:
    return len(pd.unique(values)) > 1  # type: ignore[arg-type]


def _words(by: Sequence[str], pairs: pd.DataFrame) -> tuple[str, ...]:
    """What differs within pairs: ``learning_rate: 0.001 -> 0.005``."""
    words = []
    for key in [*by, "epochs"]:
        seen = pairs[[f"{key}_1", f"{key}_2"]].drop_duplicates()
        seen = seen[seen[f"{key}_1"] != seen[f"{key}_2"]]
        if len(seen):
            changes = [f"{_text(a)} -> {_text(b)}" for a, b in seen.itertuples(index=False)]
            words.append(f"{key}: {', '.join(changes)}")
    return tuple(words)


def _rows_at(frame: pd.DataFrame, trial_ids: pd.Series, epochs: pd.Series) -> pd.DataFrame:
    """The rows of some trials at an epoch each, in their order."""
    rows = frame.drop_duplicates(["trial_id", "epoch"]).set_index(["trial_id", "epoch"])
    return rows.reindex(pd.MultiIndex.from_arrays([trial_ids, epochs])).reset_index()


def _cut(frame: pd.DataFrame, trial_ids: pd.Series, epochs: pd.Series) -> pd.DataFrame:
    """The rows of some trials up to an epoch each."""
    last = frame["trial_id"].map(dict(zip(trial_ids, epochs, strict=True)))
    return frame.loc[frame["epoch"] <= last]  # those of no pair have NaN


def _table(pairs: pd.DataFrame, values: Sequence[pd.DataFrame], by: Sequence[str]) -> pd.DataFrame:
    """`Differences.table`."""
    names = pd.DataFrame({key: _joined(pairs, key, by) for key in [*CURVE, "sigma2", "seed"]})
    further = [key for key in KEYS if key in pairs and key not in names and key not in VIEWS]
    names["dataset"] = with_views(pairs.assign(dataset=names["dataset"]))
    names["variant"] = ""
    for _, same in names.groupby(CURVE):
        own = pairs.loc[same.index, further]
        varying = [key for key in further if _differ(own[key])]
        names.loc[same.index, "variant"] = [
            ", ".join(f"{k}={_text(v)}" for k, v in zip(varying, row, strict=True))
            for row in own[varying].itertuples(index=False)
        ] if varying else ""  # fmt: skip
    rows: list[dict[str, Any]] = []
    for measure in MEASURES:
        one, two = (_measure(v, measure) for v in values)
        if one is None or two is None:
            continue
        each = names.reset_index(drop=True).assign(first=one, second=two).dropna()
        for name, group in each.groupby([*CURVE, "variant", "sigma2"], sort=True):
            delta = (group["second"] - group["first"]).to_numpy()
            half = half_width(delta)
            rows.append(
                dict(zip([*CURVE, "variant", "sigma2"], name, strict=True))
                | {
                    "measure": measure, "seeds": len(delta), "first": group["first"].mean(),
                    "second": group["second"].mean(), "difference": delta.mean(),
                    "low": delta.mean() - half, "high": delta.mean() + half,
                    "by_seed": dict(zip(group["seed"].tolist(), delta.tolist(), strict=True)),
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def _joined(pairs: pd.DataFrame, key: str, by: Sequence[str]) -> pd.Series:
    """A name's column, where both sides may have their own: ``cae -> mdae``."""
    if key not in by:
        return pd.Series(pairs[key])
    if key == "sigma2":
        return pd.Series(pairs["sigma2_2"])
    return pd.Series(pairs[f"{key}_1"].map(_text) + " -> " + pairs[f"{key}_2"].map(_text))


def _measure(values: pd.DataFrame, measure: str) -> np.ndarray | None:
    """A measure of each trial; E[a_j] in lengths of the weights. None where it was not taken."""
    if measure == "activation_fraction":
        return values["activation_fraction"].to_numpy(float)
    if "pre_activation_mean" not in values or "weight_norm_mean" not in values:
        return None
    return (values["pre_activation_mean"] / values["weight_norm_mean"]).to_numpy(float)


def _curves(table: pd.DataFrame) -> pd.DataFrame:
    """`Differences.curves`, those that differ most first."""
    rows = []
    groups = table.groupby([*CURVE, "variant", "measure"], sort=False) if len(table) else []
    for name, group in groups:
        by_seed = pd.DataFrame(group["by_seed"].tolist())  # sigma2 x seeds
        means = by_seed.mean(axis=0).to_numpy()
        half = half_width(means)
        largest = group.loc[group["difference"].abs().idxmax()]
        wide = half_width(np.array(list(largest["by_seed"].values())), looks=len(group))
        rows.append(
            dict(zip([*CURVE, "variant", "measure"], name, strict=True))
            | {
                "pairs": int(group["seeds"].sum()), "seeds": len(means), "mean": means.mean(),
                "low": means.mean() - half, "high": means.mean() + half,
                "largest": largest["difference"], "largest_low": largest["difference"] - wide,
                "largest_high": largest["difference"] + wide, "sigma2": largest["sigma2"],
            }
        )  # fmt: skip
    found = pd.DataFrame(rows)
    if found.empty:
        return found
    size = found["largest"].abs()
    of_activation = size.where(found["measure"] == MEASURES[0])
    rank = of_activation.groupby([found[c] for c in [*CURVE, "variant"]]).transform("max")
    return found.assign(rank=rank).sort_values(
        ["rank", *CURVE, "variant", "measure"], ascending=[False] + [True] * (len(CURVE) + 2),
        ignore_index=True,
    ).drop(columns="rank")  # fmt: skip


def half_width(differences: np.ndarray, looks: int = 1) -> float:
    """Half of Student's 95 % interval of the mean over seeds, (R,); NaN for one seed.

    Args:
        differences: one a seed.
        looks: intervals that are to hold together.
    """
    seeds = differences.size
    if seeds < 2:
        return float("nan")
    t = special.stdtrit(seeds - 1, 1 - (1 - _CONFIDENCE) / 2 / looks)
    return float(t * differences.std(ddof=1) / np.sqrt(seeds))


def _verdicts(first: pd.DataFrame, second: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """`Differences.verdicts`."""
    tables = []
    compared = [key for key in by if key in VIEWS]  # two views of a data set have one name here
    for frame in (first, second):
        table = check_predictions(frame.drop(columns=compared))
        tested = (table["dataset"] != TOGETHER) & (table["verdict"] != NOT_TESTED)
        tables.append(table.loc[tested, ["prediction", "dataset", "verdict"]])
    both = tables[0].merge(tables[1], on=["prediction", "dataset"], suffixes=("_1", "_2"))
    both = both.rename(columns={"verdict_1": "first", "verdict_2": "second"})
    return both.assign(flips=both["first"] != both["second"])


def origins_differ(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[str]:
    """What differs in where two sweeps' rows come from: versions, routines, processors, data.

    Args:
        first, second: as `sparseae.results.provenance` gives them.
    """
    for key in ("version", "git_commit", "processor", "tf32"):
        if key in first and key in second and first[key] != second[key]:
            short = 12 if key == "git_commit" else None
            one, two = (_text(known[key])[:short] or "unknown" for known in (first, second))
            yield f"{key}: {one} -> {two}"
    for key, word in (("versions", ""), ("gemm", "routine of "), ("datasets", "data set ")):
        one, two = first.get(key) or {}, second.get(key) or {}
        for name in sorted(one.keys() & two.keys()):
            values = [
                v["fingerprint"] if isinstance(v, dict) else v for v in (one[name], two[name])
            ]
            if values[0] != values[1]:
                yield f"{word}{name}: {values[0]} -> {values[1]}"


def as_json(found: Differences) -> str:
    """Everything as one JSON object."""

    def records(frame: pd.DataFrame) -> Any:
        plain = frame.drop(columns="by_seed", errors="ignore")
        return json.loads(plain.to_json(orient="records", double_precision=15))

    return json.dumps(
        {
            "by": found.by, "pairs": found.pairs, "equal": found.equal,
            "diverged": found.diverged, "alone": found.alone, "curves": records(found.curves),
            "differences": records(found.table), "verdicts": records(found.verdicts),
        },
        indent=2,
    )  # fmt: skip


def _text(value: object) -> str:
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).lower()
    if isinstance(value, float | np.floating):
        return f"{value:.12g}"
    return str(value)


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
