"""Which routine computes a sweep's matrix products: chosen once, recorded, kept on resume.

Another routine rounds differently, so that all workers of a sweep, and a resumed one, must use what
its first driver chose.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping

from sparseae.engine.choice import Shape, choose, substitute, usable
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


def _read(file: Location, note: Callable[[str], None]) -> dict[str, str]:
    try:
        return {str(shape): str(name) for shape, name in json.loads(file.read_bytes()).items()}
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError):
        note(f"{FILE} could not be read and is written anew")
        return {}


def routine_of(choices: Choices, trial: Trial, inputs: int) -> str:
    """The routine chosen for a trial; the nearest to it where this machine cannot use it."""
    shape = shape_of(trial, inputs)
    name = choices[str(shape)]
    if usable(name, shape):
        return name
    other = substitute(name, shape)
    logging.getLogger(__name__).warning(
        "%s cannot be used on this machine: %s instead", name, other
    )
    return other
