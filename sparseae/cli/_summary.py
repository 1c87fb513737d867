"""What ``sparseae analyze`` says first: on one screen, 80 columns wide."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich.table import Table
from rich.text import Text

from sparseae import paths
from sparseae.analysis.plain import Statements, answers, on_each
from sparseae.analysis.verdicts import NOT_TESTED, TOGETHER, Outcome
from sparseae.cli import _console as console

COLOURS = {"supported": "green", "contradicted": "red", "inconclusive": "yellow"}

#: Data sets that have a column each; more are listed in words.
_COLUMNS = 3


def print_summary(statements: Statements, place: str) -> None:
    """The answers that everyone asks for, then a line a statement, then what one may do next.

    Args:
        statements: each with its outcomes.
        place: of the results, for the commands that are named.
    """
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for answer in answers(statements):
        grid.add_row(answer.question, Text(answer.words, COLOURS.get(answer.verdict, "")))
    console.show(grid)
    console.say()
    tested = [(c, on_each(o)) for c, o in statements if o[TOGETHER].verdict != NOT_TESTED]
    datasets = list(dict.fromkeys(dataset for _, outcomes in tested for dataset in outcomes))
    console.show(_table(tested, datasets))
    console.say()
    each = [outcome for _, outcomes in tested for outcome in outcomes.values()]
    counts = {verdict: sum(o.verdict == verdict for o in each) for verdict in COLOURS}
    words = Text(", ").join(Text(f"{n} {v}", COLOURS[v]) for v, n in counts.items())
    untested = len(statements) - len(tested)
    if untested:
        words.append(f"; not tested: {untested} statement{'s' if untested > 1 else ''}")
    console.paragraph(words)
    more = [f"sparseae report {paths.public(place)}", "analyze --details has the numbers"]
    if counts["inconclusive"]:
        more.insert(0, f"sparseae next {paths.public(place)}: what would decide the open ones")
    for line in more:
        console.say(line, "dim")


def _table(tested: Statements, datasets: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("", no_wrap=True)
    columns = len(datasets) <= _COLUMNS
    for dataset in datasets if columns else ["data sets"]:
        table.add_column(Text(dataset), overflow="fold")
    for label, outcomes in _labelled(tested):
        if columns:
            table.add_row(Text(label), *(_cell(outcomes.get(d)) for d in datasets))
        else:
            table.add_row(Text(label), _listed(outcomes))
    return table


def _labelled(tested: Statements) -> Iterator[tuple[str, Mapping[str, Outcome]]]:
    """Statements with a short name: the prediction's once, its subjects below."""
    before = ""
    for case, outcomes in tested:
        # All that the paper says for figures 1, 3 and 4 is about weights of length one.
        subject = case.subject.replace(" unit_norm", "")
        if not subject:
            yield case.name, outcomes
        elif case.name != before:
            yield f"{case.name}: {subject}", outcomes
        else:
            yield f"{' ' * (len(case.name) + 2)}{subject}", outcomes
        before = case.name


def _cell(outcome: Outcome | None) -> Text:
    if outcome is None:
        return Text("-", "dim")
    words = "open" if outcome.verdict == "inconclusive" else outcome.verdict
    if outcome.needs:
        words += f": {outcome.needs.split(', ')[0]}"
    return Text(words, COLOURS[outcome.verdict])


def _listed(outcomes: Mapping[str, Outcome]) -> Text:
    groups: dict[str, list[str]] = {}
    for dataset, outcome in outcomes.items():
        groups.setdefault(outcome.verdict, []).append(dataset)
    parts = [
        Text(f"{'open' if verdict == 'inconclusive' else verdict}: {', '.join(names)}",
             COLOURS[verdict])
        for verdict, names in groups.items()
    ]  # fmt: skip
    return Text("; ").join(parts)
