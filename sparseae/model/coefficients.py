"""The numbers in which the members of a group differ, each applied to all members at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparseae.model.trial import DEFAULTS, Trial


class PerMember:
    """A coefficient for each of the G members of a group.

    Where all members share the value it is applied as a number, which spares the broadcast.

    Args:
        values: one a member.
        like: for the type and the device.
    """

    def __init__(self, values: Sequence[float], like: Tensor) -> None:
        self._shared = values[0] if len(set(values)) == 1 else None
        #: The values as (G, 1).
        self.column = torch.tensor(values, dtype=like.dtype, device=like.device).unsqueeze(-1)
        self._cube = self.column.unsqueeze(-1)

    @property
    def number(self) -> float:
        """The value that all members share.

        Raises:
            ValueError: if they do not.
        """
        if self._shared is None:
            raise ValueError("the members have different values")
        return self._shared

    @property
    def is_zero(self) -> bool:
        """Whether it is 0 for every member."""
        return self._shared == 0

    def plus(
        self, y: Tensor, x: Tensor, *, scale: float = 1.0, out: Tensor | None = None
    ) -> Tensor:
        """y + scale * coefficient * x, for y and x (G, ., .); in ``out`` where given."""
        if self._shared is not None:
            return torch.add(y, x, alpha=scale * self._shared, out=out)
        return torch.addcmul(y, x, self._cube, value=scale, out=out)

    def times(self, x: Tensor) -> Tensor:
        """coefficient * x for x (G, .) or (G, ., .)."""
        if self._shared is not None:
            return x * self._shared
        return x * (self.column if x.dim() == 2 else self._cube)


class Coefficients:
    """The numbers of the members: lambda = sigma2, sigma, and keys of ``training``.

    Args:
        like: for the type and the device.
        sigma2: one a member.
        keys: one a member of rho, max_norm, weight_decay and learning_rate; what is left out is at
            its default.
    """

    def __init__(self, like: Tensor, sigma2: Sequence[float], **keys: Sequence[float]) -> None:
        def key(name: str) -> PerMember:
            return PerMember(keys.get(name, [DEFAULTS[name]] * len(sigma2)), like)

        self.lam = PerMember(sigma2, like)
        self.sigma = PerMember([value**0.5 for value in sigma2], like)
        self.rho = key("rho")
        self.max_norm = key("max_norm")
        self.weight_decay = key("weight_decay")
        self.learning_rate = key("learning_rate")

    @classmethod
    def of(cls, trials: Sequence[Trial], like: Tensor) -> Coefficients:
        """Those of some trials, for tensors as ``like``."""
        names = ("rho", "max_norm", "weight_decay", "learning_rate")
        keys = {name: [getattr(trial.training, name) for trial in trials] for name in names}
        return cls(like, [trial.sigma2 for trial in trials], **keys)
