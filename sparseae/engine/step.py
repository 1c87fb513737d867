"""What a step is, and what a way to compute it promises.

A `Backend` takes the forms of `sparseae.model.forms` that it knows, and says why where it refuses.
Its `Step` updates some members of a stack. For every backend:

- W, V, b and vb are written in place and never replaced; x and the noise are only read;
- a step is the same operations on the same addresses every time, whatever the numbers are, so that
  a CUDA graph may hold it; what changes from step to step lies in tensors;
- no member's numbers enter another's: one that diverges harms none;
- where members step apart, a member's bits are those of the trial alone.

`tests/engine/test_conformance.py` asks all of them of every backend that is there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparseae.engine.minibatches import Run
from sparseae.model.activations import Activation
from sparseae.model.coefficients import Coefficients
from sparseae.model.constraints import Constraint
from sparseae.model.network import Network
from sparseae.model.objective import Model
from sparseae.model.trial import Training, Trial


@dataclass(frozen=True)
class Problem:
    """What a step computes: all that its members have in common.

    Attributes:
        together: how many members a step updates at once.
        inputs: n.
        dtype, device: of the weights.
        tf32: products may be in TF32.
    """

    model: Model
    activation: Activation
    constraint: Constraint
    training: Training
    together: int
    inputs: int
    dtype: torch.dtype
    device: torch.device
    tf32: bool = False


class Members:
    """Members of a stack that a step updates at once: views into the stack's tensors.

    Attributes:
        W, V: weights and their momentum, (G, m, n).
        b, vb: biases and their momentum, (G, m).
        parameters, momentum: (W, b) and (V, vb) of a member as one row, (G, .).
        probe: (G, 1, 1); a step adds a square to it that is finite where the loss is.
        coefficients: the members' numbers.
        seeds: where each member's seed stands among the stack's.
    """

    def __init__(
        self,
        trials: Sequence[Trial],
        seeds: Sequence[int],
        *,
        W: Tensor,
        V: Tensor,
        b: Tensor,
        vb: Tensor,
        parameters: Tensor,
        momentum: Tensor,
        probe: Tensor,
    ) -> None:
        self.W, self.V, self.b, self.vb, self.probe = W, V, b, vb, probe
        self.parameters, self.momentum = parameters, momentum
        self.coefficients = Coefficients.of(trials, W)
        self.seeds = [seeds.index(trial.seed) for trial in trials]
        #: The same as a tensor, (G,) int64.
        self.seed_rows = torch.tensor(self.seeds, device=W.device)
        self.one_seed = len(set(self.seeds)) == 1

    def of_members(self, x: Tensor) -> Tensor:
        """Of x (S, ...) each member's, (G, ...)."""
        return x.index_select(0, self.seed_rows)

    def network(self, unit_rows: bool) -> Network:
        """Its batched products."""
        return Network(self.W, self.b, unit_rows=unit_rows)


class Step(ABC):
    """Steps of SGD with momentum on a model's objective, for some members of a stack."""

    @abstractmethod
    def run(self, run: Run) -> None:
        """Take the steps of a run."""


class Backend(ABC):
    """A way to compute a step. A subclass with a ``name`` registers itself."""

    name: ClassVar[str]

    def __init_subclass__(cls) -> None:
        if "name" in cls.__dict__:
            BACKENDS[cls.name] = cls()

    @abstractmethod
    def missing(self, device: torch.device, dtype: torch.dtype) -> str | None:
        """What it lacks on this machine, in a few words, or None."""

    @abstractmethod
    def refuses(self, problem: Problem) -> str | None:
        """Why it does not take this problem, in a few words, or None."""

    @abstractmethod
    def build(self, problem: Problem, groups: Sequence[Members], variant: str) -> list[Step]:
        """A step for each group; they may share buffers, and none is used within another."""


#: Every backend by its name.
BACKENDS: dict[str, Backend] = {}
