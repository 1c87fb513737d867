"""What is trained, as the paper writes it: pure torch, which knows no device.

`MODELS`, `ACTIVATIONS` and `CONSTRAINTS` hold every class of this folder's files by its name. They
are made when they are asked for, because `sparseae.model.trial` is read without torch.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparseae.model.activations import ACTIVATIONS as ACTIVATIONS
    from sparseae.model.constraints import CONSTRAINTS as CONSTRAINTS
    from sparseae.model.objective import MODELS as MODELS

_REGISTRIES = {"MODELS": "objective", "ACTIVATIONS": "activations", "CONSTRAINTS": "constraints"}


def __getattr__(name: str) -> Any:
    if name not in _REGISTRIES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    for module in pkgutil.iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
    found = vars(import_module(f"{__name__}.{_REGISTRIES[name]}"))[name]
    globals()[name] = found  # asked for in every trial of a sweep, and a folder takes time to read
    return found
