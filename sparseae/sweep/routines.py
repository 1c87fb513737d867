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
    location: Location, stacks: Iterable[tuple[Sequence[Trial], int]], *, tf32: bool
) -> Choices:
    """What a card does for each kind of stack, beside `chosen`: as recorded, or as measured here.

    Where the driver has no GPU, or the sweep began without a record, a card steps by torch.

    Args:
        location: the sweep's.
        stacks: trials that train together, and the inputs of their data.
        tf32: whether products may be in TF32.
    """
    import torch

    file = location / FILE
    recorded = _read(file, lambda line: None)
    began = (location / "epochs").exists()
    here: dict[str, str] = {}
    for trials, inputs in stacks:
        name = _kind_of(trials[0], inputs)
        if name in recorded:
            here[name] = recorded[name]
        elif name not in here and not began and torch.cuda.is_available():
            from sparseae.engine.choice_on_card import choose_on_card

            here[name] = choose_on_card(trials, inputs, "cuda", tf32=tf32)
    if not here.keys() <= recorded.keys():
        file.write_bytes(json.dumps(here | recorded, indent=1).encode())
    return here


def _kind_of(trial: Trial, inputs: int) -> str:
    """What a card's choice is recorded under."""
    return f"gpu {trial.model} {trial.activation} {trial.constraint} {shape_of(trial, inputs)}"


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
    on_card = choices.get(_kind_of(trial, inputs), "")
    if not usable(name, shape):
        other = substitute(name, shape)
        logging.getLogger(__name__).warning(
            "%s cannot be used on this machine: %s instead", name, other
        )
        name = other
    return name + (ON_CARD + on_card if on_card else "")
