"""Pages whose numbers come from the committed rows: no measured number in them is typed by hand.

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
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure
from scipy.stats import t as student

import sparseae

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

    def epochs(self, **keys: Any) -> int:
        """Epochs that every one of the trials has trained.

        Raises:
            ValueError: if they differ.
        """
        (epochs,) = set(self.where(**keys)["epoch"])
        return int(epochs)

    def mean(self, column: str = "activation_fraction", **keys: Any) -> float:
        """The mean over seeds of a column after the last epoch."""
        rows = self.where(**keys)
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

        Of a model that has no trial at 0 from ae's or dae's: there all are one auto-encoder.

        Raises:
            LookupError: if two trials have the same seed.
        """
        other = self.where(**keys)
        none = keys | {"sigma2": 0.0}
        try:
            base = self.where(**none)
        except LookupError:
            base = self.where(**(none | {"model": "dae"}))
        for trials in (other, base):
            if trials["seed"].duplicated().any():
                raise LookupError(f"results/{self.folder}: {keys} are several trials a seed")
        return (base.set_index("seed")[column] - other.set_index("seed")[column]).dropna()

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
        lines = [_row(head), _row(["---"] * len(head))]
        for model in models:
            lines.append(
                _row([model, *(self._cell(digits, model=model, sigma2=s, **keys) for s in sigma2)])
            )
        return "\n".join(lines)

    def _cell(self, digits: int, **keys: Any) -> str:
        rows = self.where(**keys)
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


@lru_cache
def rows(folder: str) -> Rows:
    """The rows of ``results/FOLDER``, read once."""
    return Rows(folder)


@lru_cache
def _verdicts(folder: str) -> pd.DataFrame:
    return sparseae.check_predictions(rows(folder).frame)


def _interval(values: pd.Series) -> tuple[float, float, float]:
    """The mean over seeds and Student's 95 % interval; NaN with one seed."""
    mean, n = float(values.mean()), len(values)
    half = float("nan")
    if n > 1:
        half = float(student.ppf(0.975, n - 1) * values.std(ddof=1) / n**0.5)
    return mean, mean - half, mean + half


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


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
    made.filters["number"] = lambda value, digits=3: f"{value:.{digits}f}"
    made.filters["percent"] = lambda value, digits=0: f"{value:.{digits}%}".replace("%", " %")
    return made


def pages() -> Iterator[tuple[Path, str]]:
    """Each page's file, and what it should hold."""
    made = environment()
    for template in sorted((DOCS / "templates").glob("*.md.j2")):
        yield DOCS / template.name.removesuffix(".j2"), made.get_template(template.name).render()


def figures() -> Iterator[tuple[Path, Figure]]:
    """Each picture's file, and what it shows."""
    frame = rows("paper").frame
    yield DOCS / "images" / "paper-figure1.png", sparseae.plot.figure1(frame)
    yield DOCS / "images" / "paper-figure4.png", sparseae.plot.figure4(frame)


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
    check = parser.parse_args().check
    found = 0
    for file, text in pages():
        for line in differences(file, text):
            found += 1
            if check:
                print(line)
        if not check:
            file.write_text(text)
    if not check:
        for file, figure in figures():
            figure.savefig(file, dpi=110)
    return int(check and found > 0)


if __name__ == "__main__":
    sys.exit(main())
