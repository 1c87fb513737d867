"""Counts the bytes of the tensors that a piece of code holds, operator by operator."""

from __future__ import annotations

from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Allocations(TorchDispatchMode):
    """The peak of the bytes of all storages that operators made or were given, and still live.

    Also of tensors on "meta", which have sizes and no contents. What an operator allocates and
    frees inside itself is not seen.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        """Counts what is on this device, or on all."""
        super().__init__()
        self.peak, self._device = 0, device
        self._living: dict[int, tuple[StorageWeakRef, int]] = {}

    @property
    def held(self) -> int:
        """Bytes that live now."""
        self._living = {k: v for k, v in self._living.items() if not v[0].expired()}
        return sum(size for _, size in self._living.values())

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs, result)):
            if isinstance(leaf, torch.Tensor) and self._device in (None, leaf.device):
                storage = leaf.untyped_storage()
                self._living[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.peak = max(self.peak, self.held)
        return result
