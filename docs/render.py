"""Pages and pictures from the committed rows: no measured number in them is typed by hand.

    python docs/render.py            # writes docs/NAME.md from docs/templates/NAME.md.j2
    python docs/render.py --check    # writes nothing; names file and line of what differs, exit 1

A template is Jinja, and asks the methods of `Rows`; verdicts are computed anew
from the rows. A value that no row gives is an error, not a blank.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, reduce
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure
from PIL import Image
from scipy.stats import t as student

import sparseae
from sparseae.analysis.curves import curves
from sparseae.analysis.explanations import kink_share
from sparseae.analysis.panels import Panels

DOCS = Path(__file__).resolve().parent
RESULTS = DOCS.parent / "results"

#: From this share of dead units on a table says it.
_DEAD = 0.005


class Rows:
    """The rows of a folder under ``results/``: one or several sweeps.

    Keyword arguments of its methods narrow the trials: ``model="cae", sigma2=0.25``.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.frame = sparseae.load(RESULTS / folder)
        last = self.frame.groupby("trial_id")["epoch"].idxmax()
        #: One row a trial, at its last epoch.
        self.last = self.frame.loc[last]

    def where(self, frame: pd.DataFrame | None = None, **keys: Any) -> pd.DataFrame:
        """The last rows (or those of ``frame``) with these values; never none.

        Raises:
            LookupError: if there is no such row.
        """
        frame = self.last if frame is None else frame
        for key, value in keys.items():
            values = value if isinstance(value, list | tuple) else [value]
            frame = frame[frame[key].isin(values)]
        if frame.empty:
            raise LookupError(f"results/{self.folder} has no trial with {keys}")
        return frame

    def trials(self, **keys: Any) -> int:
        """How many trials there are."""
        return len(self.where(**keys))

    def seeds(self, **keys: Any) -> int:
        """How many seeds there are."""
        return int(self.where(**keys)["seed"].nunique())

    def values(self, column: str, **keys: Any) -> list[Any]:
        """Every value of a column, sorted."""
        return sorted(set(self.where(**keys)[column]))

    def epochs(self, **keys: Any) -> int:
        """Epochs that every one of the trials has trained.

        Raises:
            ValueError: if they differ.
        """
        (epochs,) = set(self.where(**keys)["epoch"])
        return int(epochs)

    def mean(self, column: str = "activation_fraction", **keys: Any) -> float:
        """The mean over seeds of a column after the last epoch, or after a key ``epoch``."""
        rows = self.where(self.frame if "epoch" in keys else None, **keys)
        if (rows["status"] == "diverged").all():
            raise LookupError(f"results/{self.folder}: {keys} diverged")
        return float(rows[column].mean())

    def spread(self, column: str = "activation_fraction", **keys: Any) -> float:
        """The largest range over seeds of a column, among the trials that differ in seed alone."""
        rows = self.where(**keys)
        by = rows.groupby(["dataset", "model", "activation", "constraint", "sigma2", "corruptions"])
        return float((by[column].max() - by[column].min()).max())

    def change(
        self, column: str = "activation_fraction", **keys: Any
    ) -> tuple[float, float, float]:
        """The paired change of a column from sigma2 = 0 to ``sigma2``: mean, and its 95 % interval.

        Seeds are the replicates; with one seed the interval is NaN.
        """
        return _interval(-self._fall(column, **keys))

    def _fall(self, column: str = "activation_fraction", **keys: Any) -> pd.Series:
        """By seed how far a column falls from sigma2 = 0 to ``sigma2``.

        Raises:
            LookupError: if two trials have the same seed.
        """
        other, base = self._at(**keys), self._at(**(keys | {"sigma2": 0.0}))
        for trials in (other, base):
            if trials["seed"].duplicated().any():
                raise LookupError(f"results/{self.folder}: {keys} are several trials a seed")
        return (base.set_index("seed")[column] - other.set_index("seed")[column]).dropna()

    def _at(self, **keys: Any) -> pd.DataFrame:
        """`where`; at sigma2 = 0 of a model that has no trial there dae's: all are one there."""
        if keys.get("sigma2") == 0 and not self.has(**keys):
            keys = keys | {"model": "dae"}
        return self.where(**keys)

    def owed(
        self, model: str, less: str | None = None, *, of: str = "dae", **keys: Any
    ) -> tuple[float, float, float]:
        """What share of the activation fraction's fall of a model another one has, paired by seed.

        Args:
            model: whose fall.
            less: that of this one is taken from it.
            of: the model whose fall is the whole.
            **keys: ``sigma2`` among them.

        Returns:
            The mean over seeds, and its 95 % interval.
        """
        part = self._fall(model=model, **keys)
        if less is not None:
            part = part - self._fall(model=less, **keys)
        return _interval((part / self._fall(model=of, **keys)).dropna())

    def kink_found(self) -> tuple[float, float]:
        """The least and the most that the estimated kink's term is of relu dae's bias gradient."""
        dae = [c for c in curves(self.frame) if c.name["model"] == "dae" and c.theory]
        shares = [share for curve in dae if (share := kink_share(curve)) == share]
        return min(shares), max(shares)

    def has(self, **keys: Any) -> bool:
        """Whether there is such a trial."""
        try:
            self.where(**keys)
        except LookupError:
            return False
        return True

    def fingerprint(self) -> str:
        """Of every row and column that says what was trained and what was measured, 12 digits.

        So that the page is another one when any digit in the rows is.
        """
        found = hashlib.sha256()
        rows = self.frame.sort_values(["trial_id", "epoch"], kind="stable")
        for name in sorted(set(rows) - {"epoch_seconds"}):
            column = rows[name]
            if column.isna().all():  # of a column that came later
                continue
            kept = column.fillna("").astype(str) if column.dtype.kind not in "fiub" else column
            text = "\n".join([name, *map(repr, kept.tolist())])
            found.update(text.encode())
        return found.hexdigest()[:12]

    def moved(self, epochs: int, column: str = "activation_fraction", **keys: Any) -> float:
        """How far a column moved at most over the last epochs, among the means over seeds."""
        self.where(**keys)
        rows = self.where(self.frame, **keys)
        curves = rows.pivot_table(index=["model", "sigma2"], columns="epoch", values=column)
        end = curves.columns.max()
        return float((curves[end] - curves[end - epochs]).abs().max())

    def table(
        self,
        sigma2: Sequence[float],
        models: Sequence[str],
        title: str = "sigma2 =",
        digits: int = 3,
        **keys: Any,
    ) -> str:
        """Activation fractions as Markdown: a model a row, a sigma2 a column, with dead units."""
        head = [title, *(f"{value:g}" for value in sigma2)]
        return _table(head, (
            [model, *(self._cell(digits, model=model, sigma2=s, **keys) for s in sigma2)]
            for model in models
        ))  # fmt: skip

    def _cell(self, digits: int, **keys: Any) -> str:
        rows = self._at(**keys)
        sound = rows[rows["status"] == "ok"]
        if sound.empty:
            return "diverged"
        text = f"{sound['activation_fraction'].mean():.{digits}f}"
        if (dead := sound["dead_fraction"].mean()) >= _DEAD:
            text += f" ({dead:.0%} dead)"
        if len(sound) < len(rows):
            text += f" ({len(rows) - len(sound)} of {len(rows)} diverged)"
        return text

    @property
    def verdicts(self) -> pd.DataFrame:
        """Every verdict, computed from the rows."""
        return _verdicts(self.folder)

    def verdict(self, prediction: str, dataset: str | None = None) -> str:
        """The verdict on a statement: its key or the name of its prediction, and the data set.

        Raises:
            LookupError: if there is none.
        """
        found = self.verdicts[self.verdicts["prediction"] == prediction]
        if dataset is not None:
            found = found[found["dataset"] == dataset]
        words = set(found["verdict"])
        if len(words) != 1:
            raise LookupError(
                f"results/{self.folder}: {len(words)} verdicts on {prediction}, {dataset}"
            )
        (word,) = words
        return f"**{word}**" if word == "contradicted" else str(word)

    def cut(self, epochs: Sequence[int], dataset: str) -> str:
        """The verdicts on a data set as Markdown: a statement a row, a column for the rows up to
        each of these epochs.
        """
        words = self._cut(epochs, dataset)
        head = ["statement, up to epoch", *map(str, epochs)]
        return _table(head, ([name, *found] for name, found in words.items()))

    def turned(self, epochs: Sequence[int], dataset: str) -> list[str]:
        """Statements that were supported at one of these epochs and contradicted at another."""
        both = {"supported", "contradicted"}
        return [name for name, found in self._cut(epochs, dataset).items() if both <= set(found)]

    def _cut(self, epochs: Sequence[int], dataset: str) -> dict[str, list[str]]:
        """By statement its verdicts, without those that no trial speaks to."""
        tables = [_verdicts(self.folder, epoch) for epoch in epochs]
        found = [t[t["dataset"] == dataset].set_index("prediction")["verdict"] for t in tables]
        words = pd.concat(found, axis=1, sort=False)
        words = words[(words != "not tested").any(axis=1)]
        return {str(name): list(row) for name, row in zip(words.index, words.values, strict=True)}


#: What three sweeps of the quickstart say; their rows are too many to be kept.
_QUICKSTARTS = DOCS / "templates" / "quickstarts.csv"
#: What five minutes of simulation say.
_CALIBRATION = DOCS / "templates" / "calibration.csv"


def keep_quickstarts(folders: Sequence[str]) -> None:
    """Write what the sweeps in these folders say, each with its epochs and seeds."""
    kept = []
    for folder in folders:
        frame = sparseae.load(folder)
        verdicts = sparseae.check_predictions(frame)
        spoken = verdicts[verdicts["dataset"].isin(frame["dataset"]) & verdicts["effect"].notna()]
        table = spoken[["prediction", "verdict", "effect", "needs"]].round({"effect": 4})
        epochs, seeds = frame["epoch"].max(), frame["seed"]
        table.insert(0, "sweep", f"{epochs} epochs, seeds {seeds.min()} to {seeds.max()}")
        kept.append(table)
    pd.concat(kept).to_csv(_QUICKSTARTS, index=False)


def quickstarts() -> str:
    """The same as Markdown: a statement a row, a sweep a column."""
    table = pd.read_csv(_QUICKSTARTS, keep_default_na=False)
    lacks = table["needs"].map(lambda needs: f" ({needs})" if needs else "")
    table["says"] = table["verdict"] + lacks + table["effect"].map(", {:+.3f}".format)
    sweeps, statements = table["sweep"].unique(), table["prediction"].unique()
    said = table.set_index(["prediction", "sweep"])["says"]
    return _table(
        ["statement", *sweeps], ([n, *(said[n, sweep] for sweep in sweeps)] for n in statements)
    )


def calibration() -> str:
    """How often simulated verdicts are wrong, as Markdown (``calibration.py --keep``)."""
    table = pd.read_csv(_CALIBRATION).replace("%", " %", regex=True)
    return _table(list(table), table.to_numpy())


@lru_cache
def rows(folder: str) -> Rows:
    """The rows of ``results/FOLDER``, read once."""
    return Rows(folder)


@lru_cache
def _verdicts(folder: str, until: int | None = None) -> pd.DataFrame:
    """By the rows up to an epoch, or by all."""
    frame = rows(folder).frame
    return sparseae.check_predictions(frame if until is None else frame[frame["epoch"] <= until])


def _interval(values: pd.Series) -> tuple[float, float, float]:
    """The mean over seeds and Student's 95 % interval; NaN with one seed."""
    mean, n = float(values.mean()), len(values)
    half = float("nan")
    if n > 1:
        half = float(student.ppf(0.975, n - 1) * values.std(ddof=1) / n**0.5)
    return mean, mean - half, mean + half


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def _holds(condition: bool, words: str) -> str:
    """Words that the rows bear out.

    Raises:
        ValueError: if they do not.
    """
    if not condition:
        raise ValueError(f"the rows do not say: {words}")
    return words


def _percent(value: float, digits: int = 0) -> str:
    """A share in per cent; what rounds to 0 has no sign."""
    return f"{round(value, digits + 2) + 0.0:.{digits}%}".replace("%", " %")


def environment() -> Environment:
    """What renders the templates."""
    made = Environment(
        loader=FileSystemLoader(DOCS / "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.globals["rows"] = rows
    made.globals["holds"] = _holds
    made.globals["quickstarts"] = quickstarts
    made.globals["calibration"] = calibration
    made.filters["number"] = lambda value, digits=3: f"{value:.{digits}f}"
    made.filters["percent"] = _percent
    return made


def pages() -> Iterator[tuple[Path, str]]:
    """Each page's file, and what it should hold."""
    made = environment()
    for template in sorted((DOCS / "templates").glob("*.md.j2")):
        yield DOCS / template.name.removesuffix(".j2"), made.get_template(template.name).render()


class Picture(NamedTuple):
    """A file of ``docs/images/``, the rows that it is of, and what draws it from them.

    Nothing draws a screen, which docs/screenshots.py takes.
    """

    name: str
    folder: str
    draw: Callable[[pd.DataFrame], Figure] | None

    @property
    def file(self) -> Path:
        return DOCS / "images" / f"{self.name}.png"

    @property
    def source(self) -> str:
        """What stands in the file, so that a picture of other rows is noticed."""
        return f"results/{self.folder} {rows(self.folder).fingerprint()}"

    def stands(self) -> str:
        """The source that the file has; empty where there is none."""
        if not self.file.exists():
            return ""
        with Image.open(self.file) as image:
            return str(image.info.get("Source", ""))

    def write(self) -> None:
        if self.draw is None:
            return
        figure = self.draw(rows(self.folder).frame)
        figure.savefig(self.file, dpi=110, metadata={"Source": self.source, "Software": None})


def _why(frame: pd.DataFrame) -> Figure:
    """The two explanations, along sigma2."""
    return sparseae.plot.of_curves(curves(frame), "The two explanations of a sparse relu dae")


def _apart(frame: pd.DataFrame) -> Figure:
    """dae taken apart, by epoch at the least sigma2 that all have: means and range of seeds."""
    used = curves(frame[frame["corruptions"] == 1])
    sigma2 = float(min(reduce(np.intersect1d, [curve.sigma2[curve.sigma2 > 0] for curve in used])))
    panels = Panels(["activation fraction"], ["cifar10"], heights=[2.8], width=6.0)
    axis = panels["activation fraction", "cifar10"]
    (dae,) = (curve for curve in used if curve.name["model"] == "dae")
    for curve, at, model in [(dae, 0.0, "ae"), *((c, sigma2, c.name["model"]) for c in used)]:
        (values,) = curve.activations.swapaxes(0, 1)[curve.sigma2 == at]
        colour, marker, line = sparseae.plot.style_of(model)
        epochs, mean = range(curve.epoch + 1), np.nanmean(values, axis=0)
        axis.plot(
            epochs, mean, line, color=colour, marker=marker, ms=3.5, lw=1.4, markevery=5,
            label=model if at else "sigma2 = 0",
        )  # fmt: skip
        axis.fill_between(
            epochs, np.nanmin(values, axis=0), np.nanmax(values, axis=0), color=colour, alpha=0.18,
            lw=0,
        )  # fmt: skip
    title = f"relu dae taken apart, sigma2 {sigma2:g}{sparseae.plot.seeds_of(used)}"
    return panels.finish(title, "epoch")


#: The page of ``sparseae report``.
PAGE = Picture("page", "paper", None)

PICTURES = (
    Picture("paper-figure1", "paper", sparseae.plot.figure1),
    Picture("paper-figure2", "paper", sparseae.plot.figure2),
    Picture("paper-figure3", "paper", sparseae.plot.figure3),
    Picture("paper-figure4", "paper", sparseae.plot.figure4),
    Picture("paper-figure5", "paper", sparseae.plot.figure5),
    Picture("apart", "section-3-1-1", _apart),
    Picture("explanations", "explanations", _why),
    Picture("theory-terms", "explanations", lambda frame: sparseae.plot.terms(curves(frame))),
    PAGE,
)


def stale() -> Iterator[str]:
    """One line for each picture that is not of the rows that there are."""
    for picture in PICTURES:
        if (stands := picture.stands()) != picture.source:
            yield f"{picture.file}: is of {stands!r}, should be of {picture.source!r}"


def differences(file: Path, text: str) -> Iterator[str]:
    """One line for each that differs: file, line, what stands there, what should."""
    there = file.read_text().splitlines() if file.exists() else []
    wanted = text.splitlines()
    matcher = difflib.SequenceMatcher(a=there, b=wanted, autojunk=False)
    for kind, low, high, start, stop in matcher.get_opcodes():
        if kind != "equal":
            stands, should = "; ".join(there[low:high]), "; ".join(wanted[start:stop])
            yield f"{file}:{low + 1}: {stands!r} should be {should!r}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, say what differs")
    parser.add_argument(
        "--quickstarts", nargs="+", metavar="FOLDER",
        help="keep what these sweeps of the quickstart say, then write the pages",
    )  # fmt: skip
    asked = parser.parse_args()
    if asked.quickstarts:
        keep_quickstarts(asked.quickstarts)
    if asked.check:
        wrong = [line for file, text in pages() for line in differences(file, text)]
        wrong += stale()
        for line in wrong:
            print(line)
        return int(bool(wrong))
    for file, text in pages():
        file.write_text(text)
    for picture in PICTURES:
        picture.write()
    return 0


if __name__ == "__main__":
    sys.exit(main())
