"""One number a member of a group, applied to all members at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class PerMember:
    """A coefficient for each of the G members of a group.

    Where all members share the value it is applied as a number, which spares the broadcast.

    Args:
        values: one a member.
        like: for the type and the device; of one member's tensors if it is a plain matrix.
    """

    def __init__(self, values: Sequence[float], like: Tensor) -> None:
        self._shared = values[0] if len(set(values)) == 1 else None
        column = torch.tensor(values, dtype=like.dtype, device=like.device).unsqueeze(-1)
        self._cube = column.unsqueeze(-1)
        #: The values as (G, 1), or (1,) of one member alone.
        self.column = column[0] if like.dim() == 2 else column

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

    def add_to(
        self, y: Tensor, x: Tensor, *, scale: float = 1.0, out: Tensor | None = None
    ) -> None:
        """y += scale * coefficient * x, for y and x (G, ., .); into ``out`` where given."""
        out = y if out is None else out
        if self._shared is not None:
            torch.add(y, x, alpha=scale * self._shared, out=out)
        else:
            torch.addcmul(y, x, self._cube, value=scale, out=out)

    def times(self, x: Tensor) -> Tensor:
        """coefficient * x for x (G, .) or (G, ., .)."""
        if self._shared is not None:
            return x * self._shared
        return x * (self.column if x.dim() == 2 else self._cube)
