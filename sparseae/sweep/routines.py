"""Which routine computes a sweep's matrix products: chosen once, recorded, kept on resume.

Another routine rounds differently, so that all workers of a sweep, and a resumed one, must use what
its first driver chose.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence

from sparseae.engine.choice import ON_CARD, Shape, substitute, usable
from sparseae.engine.choice_on_cpu import choose
from sparseae.engine.products import TORCH
from sparseae.model import MODELS
from sparseae.model.trial import Trial
from sparseae.results.location import Location

#: Beside ``sweep.yaml``: of every shape of a step its routine.
FILE = "gemm.json"

#: The routine of each `Shape`, by its text.
Choices = Mapping[str, str]

#: Trials that train together, and the inputs of their data.
Stacks = Sequence[tuple[Sequence[Trial], int]]

#: Says what a card does for each stack's steps: ``triton-a`` and so on, "" for torch's.
Measure = Callable[[Stacks], Sequence[str]]


def shape_of(trial: Trial, inputs: int) -> Shape:
    """The shape of a trial's steps."""
    t = trial.training
    rows = t.batch_size * MODELS[trial.model](t).encoder_input.rows
    return Shape.of(rows, inputs, t.hidden_units)


def chosen(
    location: Location, shapes: Iterable[Shape], threads: int, note: Callable[[str], None]
) -> Choices:
    """The routine of each shape: the recorded one, and the fastest for shapes that are new.

    Raises:
        RequestError: if the environment asks for a routine that cannot be used.
    """
    file = location / FILE
    began = (location / "epochs").exists()
    recorded = _read(file, note)
    here = {}
    for shape in shapes:
        name = str(shape)
        if name not in recorded:
            # What was trained before there was a record was trained by torch.mm.
            here[name] = TORCH if began and not recorded else choose(shape, threads)
        elif usable(recorded[name], shape):
            here[name] = recorded[name]
        else:
            here[name] = substitute(recorded[name], shape)
            note(f"{FILE}: {recorded[name]} cannot be used here; {here[name]} rounds differently")
    if not here.keys() <= recorded.keys():
        file.write_bytes(json.dumps(here | recorded, indent=1).encode())
    return here


def chosen_on_card(
    location: Location,
    stacks: Stacks,
    measure: Measure,
    *,
    began: bool,
) -> Choices:
    """What a card does for steps of each shape, beside `chosen`: as recorded, or as measured.

    Steps of one shape go one way, which is measured of the first stack that has it.

    Args:
        location: the sweep's.
        stacks: those that it trains.
        measure: what measures on a card.
        began: whether there were rows before: what has no record then goes on by torch.
    """
    file = location / FILE
    recorded = _read(file, lambda line: None)
    first: dict[str, tuple[Sequence[Trial], int]] = {}
    for trials, inputs in stacks:
        first.setdefault(_on_card(shape_of(trials[0], inputs)), (trials, inputs))
    here = {name: recorded[name] for name in first if name in recorded}
    new = [name for name in first if name not in recorded]
    if new and not began:
        here |= zip(new, measure([first[name] for name in new]), strict=True)
        file.write_bytes(json.dumps(here | recorded, indent=1).encode())
    return here


def measured_here(tf32: bool) -> Measure:
    """Measures on this process's card."""

    def measure(stacks: Stacks) -> list[str]:
        from sparseae.engine.choice_on_card import choose_on_card

        return [choose_on_card(trials, inputs, "cuda", tf32=tf32) for trials, inputs in stacks]

    return measure


def _on_card(shape: Shape) -> str:
    """What a card's choice is recorded under."""
    return f"gpu {shape}"


def _read(file: Location, note: Callable[[str], None]) -> dict[str, str]:
    try:
        return {str(shape): str(name) for shape, name in json.loads(file.read_bytes()).items()}
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError):
        note(f"{FILE} could not be read and is written anew")
        return {}


def routine_of(choices: Choices, trial: Trial, inputs: int) -> str:
    """The routine chosen for a trial; the nearest to it where this machine cannot use it.

    Behind it, after `ON_CARD`, what was chosen for a card, if anything was.
    """
    shape = shape_of(trial, inputs)
    name = choices[str(shape)]
    on_card = choices.get(_on_card(shape), "")
    if not usable(name, shape):
        other = substitute(name, shape)
        logging.getLogger(__name__).warning(
            "%s cannot be used on this machine: %s instead", name, other
        )
        name = other
    return name + (ON_CARD + on_card if on_card else "")
