"""What is measured of the members of a stack after each epoch (eq. 14)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Measurement:
    """What was measured of each member on the clean training set (eq. 14), (S,) each, float64.

    Of a diverged member the numbers mean nothing.
    """

    diverged: Tensor  # bool
    activation_fraction: Tensor
    dead_units: Tensor  # int64
    reconstruction_error: Tensor
    regularization: Tensor | None
    weight_norm_mean: Tensor
    bias_mean: Tensor
    pre_activation_mean: Tensor
    units: Units

    def rows(self) -> list[dict[str, Any]]:
        """Each member's columns of the results: its status, and where it is ok the numbers."""
        names = [f.name for f in fields(self) if f.name not in ("diverged", "units")]
        columns = {
            name: values.tolist() for name in names if (values := getattr(self, name)) is not None
        }
        units = self.units.bias.shape[1]
        rows: list[dict[str, Any]] = []
        for member, diverged in enumerate(self.diverged.tolist()):
            if diverged:
                rows.append({"status": "diverged"})
                continue
            row = {name: column[member] for name, column in columns.items()}
            row["dead_fraction"] = row["dead_units"] / units
            row["loss"] = row["reconstruction_error"] + row.get("regularization", 0.0)
            rows.append({"status": "ok", **row})
        return rows


@dataclass(frozen=True)
class Units:
    """The same a unit, (S, m) each, float64."""

    activation_fraction: Tensor
    pre_activation_mean: Tensor
    bias: Tensor
    weight_norm: Tensor
