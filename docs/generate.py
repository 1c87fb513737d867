"""Writes the pages of docs/reference/ from the code's own declarations: python docs/generate.py

A test generates them again and compares, so that no page is older than the code.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer.main
from pydantic_core import PydanticUndefined

from sparseae.cli import app
from sparseae.model import ACTIVATIONS, CONSTRAINTS, MODELS
from sparseae.model.documented import meanings
from sparseae.model.trial import ADDED_KEYS, DEFAULTS, OWN_KEYS, STACKABLE, TRAINING_TYPES, Training
from sparseae.results import columns
from sparseae.sweep.checks import RANGES
from sparseae.sweep.config import Override, Resources, Sweep

FOLDER = Path(__file__).parent / "reference"
_MADE = "<!-- Made by docs/generate.py from the code: change it there. -->\n\n"


def pages() -> dict[str, str]:
    """Every generated page by its file's name."""
    return {
        "columns.md": _MADE + _columns(),
        "configuration.md": _MADE + _configuration(),
        "commands.md": _MADE + _commands(),
    }


def _table(headings: list[str], rows: list[list[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join("| " + " | ".join(map(_cell, line)) + " |\n" for line in lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("``", "`")


def _columns() -> str:
    def table(listed: list[columns.Column]) -> str:
        rows = [[f"`{c.name}`", c.kind, c.unit, c.meaning] for c in listed]
        return _table(["column", "type", "unit", "meaning"], rows)

    return (
        "# The columns\n\n"
        "`sparseae columns [NAME]` prints this page. x is a sample of n inputs, a = W x + b,\n"
        "h = s(a), y = W^T h, r = y - x; W_j is row j of W, lambda is sigma2. Inputs are\n"
        "standardized, so that *input units* are standard deviations. A column that came after a\n"
        "sweep was trained is null in its rows.\n\n"
        "## `epochs/`: one row a trial and epoch\n\n"
        "Measured on the clean, whole training set after the epoch. The keys of `training` are\n"
        "columns too. From `sigma_r` on only with `theory: true` ([theory](../theory.md)).\n\n"
        + table(columns.epochs())
        + "## `units/`: one row a unit, at the trial's last epoch\n\n"
        + table(columns.units())
        + "## `weights/TRIAL_ID.safetensors`, with `keep_weights: true`\n\n"
        + table(columns.weights())
        + "`sparseae.load_weights(DIR, trial_id)` reads them, `sparseae.load_model` makes them a\n"
        "model with `encode`, `decode` and `reconstruct`.\n\n"
        "## Metadata\n\n"
        "Every Parquet file's schema carries, as text or JSON, `sparseae.version`,\n"
        "`sparseae.git_commit`, `sparseae.versions` (Python, torch, Ray, numpy, pyarrow),\n"
        "`sparseae.datasets` (of each its fingerprint, what it is, how far from Assumption 1),\n"
        "`sparseae.gemm` (which routine computed which product) and `sparseae.tf32`.\n"
    )


def _configuration() -> str:
    about = meanings(Sweep)
    rows = []
    for key, info in Sweep.model_fields.items():
        default = "" if info.default is PydanticUndefined else _plain(info.default)
        rows.append([f"`{key}`", _SHAPES.get(key) or _of(info), default, about[key]])
    inner = [
        [f"`resources.{key}`", _of(info), _plain(info.default), meanings(Resources)[key]]
        for key, info in Resources.model_fields.items()
    ]
    inner += [
        [f"`overrides[].{key}`", _of(info), "", meanings(Override)[key]]
        for key, info in Override.model_fields.items()
    ]
    training = []
    for key, meaning in meanings(Training).items():
        notes = [f"of `{OWN_KEYS[key]}` alone"] if key in OWN_KEYS else []
        notes += ["may be stacked"] if key in STACKABLE else []
        limits = RANGES[key].metadata if key in RANGES else ()
        kind = _words(Annotated[TRAINING_TYPES[key], *limits] if limits else TRAINING_TYPES[key])
        training.append(
            [f"`{key}`", kind, _plain(DEFAULTS[key]), "; ".join([meaning.rstrip("."), *notes])]
        )
    later = ", ".join(f"`{key}`" for key in ADDED_KEYS)
    return (
        "# Every key of a configuration\n\n"
        "A configuration is a YAML file, or a mapping in Python. An unknown key, a wrong type or\n"
        "a value outside its range is refused in one line before anything starts. Relative paths\n"
        "are relative to where the command runs, not to the file.\n\n"
        + _table(["key", "type", "default", "meaning"], rows + inner)
        + "## Keys of `training`\n\n"
        "Each may stand under `training:`, in an entry of `overrides:`, or as an axis under\n"
        "`space:`. Each is a column of the results and, `epochs` apart, part of a trial's\n"
        f"identity ({later} only where they are not at their default).\n\n"
        + _table(["key", "type", "default", "meaning"], training)
        + "## Axes of `space`\n\n"
        + _table(
            ["axis", "values"],
            [
                ["`model`", ", ".join(sorted(MODELS))],
                ["`activation`", ", ".join(sorted(ACTIVATIONS))],
                ["`sigma2`", "numbers of 0 or more; `paper`: the paper's twelve values"],
                ["`constraint`", ", ".join(sorted(CONSTRAINTS))],
                ["`dataset`", "a name of `sparseae data list`, or the path of a matrix"],
                ["`seed`", "whole numbers of 0 or more"],
            ],
        )
        + _BLOCKS
    )


def _of(info: Any) -> str:
    kind = info.annotation
    return _words(Annotated[kind, *info.metadata] if info.metadata else kind)


def _plain(value: Any) -> str:
    if value == ():
        return "none"
    if hasattr(value, "model_dump"):
        return ""
    if isinstance(value, tuple):
        return "[" + ", ".join(value) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _words(kind: Any) -> str:
    """A type with its range, in words."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        limits = [
            f"{word} {limit:g}"
            for one in _flat(inner[1:])
            for name, word in _BOUNDS.items()
            if (limit := getattr(one, name, None)) is not None and limit < 2**62
        ]
        return " ".join([_words(inner[0]), *limits])
    if origin in (Union, UnionType):
        return " or ".join(_words(one) for one in inner if one is not type(None))
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin is tuple:
        return f"list of {_words(inner[0])}"
    return _KINDS.get(kind, "mapping")


#: Keys that may be written in more ways than they are kept.
_SHAPES = {
    "space": "mapping, or list of mappings",
    "zip": "list of axes, or list of such lists",
}

_BLOCKS = """## Several blocks, axes in pairs

A space is the product of its axes. A list of blocks is the union of their products: a trial of two
blocks is trained once, and `sparseae plan` counts it as *equal to another*. `exclude`,
`overrides`, `training` and `stack` hold in every block; YAML's `<<: *name` spares repetition.

```yaml
space:
  - &small
    model: [dae, cae]
    activation: relu
    sigma2: paper
    dataset: digits
    seed: [0, 1, 2]
  - <<: *small
    model: sae
    sigma2: [0, 0.25, 1.0]
    hidden_units: [64, 256, 1024]      # 64 with 0.01, 256 with 0.003, 1024 with 0.001
    learning_rate: [0.01, 0.003, 0.001]
    zip: [hidden_units, learning_rate]
```

`zip` in a block is that block's. At the top, beside `space`, it holds in every block that has one
of its axes and no `zip` of its own. Axes in pairs have equally many values; one may repeat.
`--set space.seed=[0, 1]` sets an axis of every block, `--set space.1.seed=[0, 1]` of the second;
`--set space.zip=[]` makes the pairs a product.
"""

_BOUNDS = {"ge": "from", "gt": "above", "le": "to", "lt": "below"}
_KINDS = {int: "whole number", float: "number", bool: "true or false", str: "text"}


def _flat(metadata: Iterable[Any]) -> Iterator[Any]:
    """The constraints in pydantic's metadata, those that a `Field` holds too."""
    for one in metadata:
        yield from getattr(one, "metadata", None) or [one]


def _commands() -> str:
    text = (
        "# Every command\n\n"
        "`python -m sparseae` is the same command. `--help` answers at once.\n\n"
        "## Exit statuses\n\n"
    )
    text += _table(
        ["status", "meaning"],
        [
            ["0", "done; for `run`: every trial finished (a diverged one has finished)"],
            ["1", "some trial failed, or the storage did; the same command goes on"],
            ["2", "the request is wrong: one line on stderr says why, and nothing has started"],
            ["130", "stopped by Ctrl-C or SIGTERM; the same command goes on"],
        ],
    )
    root = typer.main.get_command(app)
    for name, command in sorted(root.commands.items()):
        text += _command(f"sparseae {name}", command)
        for inner, below in sorted(getattr(command, "commands", {}).items()):
            text += _command(f"sparseae {name} {inner}", below)
    return text


def _command(name: str, command: Any) -> str:
    text = f"## `{name}`\n\n{(command.help or '').strip()}\n\n"
    if hasattr(command, "commands"):
        return text
    rows = []
    for parameter in command.params:
        if parameter.name == "help":
            continue
        is_option = parameter.param_type_name == "option"
        shown = ", ".join(parameter.opts) if is_option else _argument(parameter)
        if is_option and not getattr(parameter, "is_flag", False):
            shown += f" {parameter.metavar or parameter.name.upper()}"
        default = parameter.default
        plain = default not in (None, False, (), ".") and not callable(default)
        said = str(getattr(parameter, "help", "") or "")
        if plain and "default" not in said:
            said += f" Default: `{default}`."
        rows.append([f"`{shown}`", said.strip()])
    return text + (_table(["", ""], rows) if rows else "")


def _argument(parameter: Any) -> str:
    name = parameter.metavar or parameter.name.upper()
    return name if parameter.required or name.startswith("[") else f"[{name}]"


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    print(f"wrote {', '.join(pages())}", file=sys.stderr)


if __name__ == "__main__":
    main()
