"""An epoch of a batched stack as one program, and on a GPU as a CUDA graph.

All that a step depends on lies in tensors on the device: the order of the samples, the counter that
says where in it the step stands, the streams of noise. So a step is the same list of kernels every
time. On a GPU the first step of a stack runs as it is, which also warms up the libraries; then the
step is captured, which executes nothing, and the graph is replayed for every further one. The
weights and the random streams are those of an epoch without a graph. A short last minibatch runs
as it is. Nothing waits for the device within an epoch.

On a CPU the same steps run without a graph; that is how they are tested.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache

import torch

from sparseae.engine.minibatches import Minibatches, Run
from sparseae.errors import first_line


class Program:
    """The epochs of a stack whose members all step at once.

    Args:
        minibatches: of the stack, on its device.
        step: updates the weights in place on a run of one step.
    """

    def __init__(self, minibatches: Minibatches, step: Callable[[Run], None]) -> None:
        self._minibatches, self._update = minibatches, step
        data, samples = minibatches.data, minibatches.samples
        self._batch = minibatches.batch
        self._order = torch.zeros(
            len(minibatches.seeds), samples, dtype=torch.int64, device=data.device
        )
        #: Where in the order the next step stands, (1,).
        self.position = torch.zeros(1, dtype=torch.int64, device=data.device)
        self._offsets = torch.arange(min(self._batch, samples), device=data.device)
        self._graph: torch.cuda.CUDAGraph | None = None
        #: Whether to capture the next full step; set to False, all steps run kernel by kernel.
        self.may_capture = data.is_cuda

    def run(self, epoch: int) -> None:
        """Do the steps of an epoch; ``epoch`` counts from 1."""
        self._order.copy_(self._minibatches.begin(epoch))
        self.position.zero_()
        with _side_stream(self._order.device):
            for _ in range(self._minibatches.samples // self._batch):
                self._full_step()
            if rest := self._minibatches.samples % self._batch:
                self._step(rest)

    def _full_step(self) -> None:
        if self._graph is not None:
            self._graph.replay()
            return
        self._step(self._batch)
        if self.may_capture:
            self._graph = self._captured()
            self.may_capture = False

    def _step(self, size: int) -> None:
        """The step of the next ``size`` samples."""
        rows = self._order.index_select(1, self._offsets[:size] + self.position)
        eps = self._minibatches.noise(1, size)
        self._update(Run(self._minibatches.data, rows.unsqueeze(0), eps))
        self.position.add_(size)

    def _captured(self) -> torch.cuda.CUDAGraph | None:
        """A graph of the step of a full minibatch, or None where it cannot be captured, twice."""
        error = ""
        for _ in range(2):
            streams = self._minibatches.streams
            states = [stream.get_state() for stream in streams]
            try:
                with _no_collection():
                    return self._capture()
            except RuntimeError as caught:
                error = first_line(caught)
                # A stream that was in a capture which broke off may refuse to draw.
                streams[:] = [torch.Generator(self._order.device) for _ in states]
                for stream, state in zip(streams, states, strict=True):
                    stream.set_state(state)
        _warn(error)
        return None

    def _capture(self) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        for stream in self._minibatches.streams:
            graph.register_generator_state(stream)
        # Only this thread's calls can spoil the capture: a worker has others.
        with torch.cuda.graph(
            graph, stream=torch.cuda.current_stream(), capture_error_mode="thread_local"
        ):
            self._step(self._batch)
        return graph


@contextmanager
def _no_collection() -> Iterator[None]:
    """No garbage collection, but one before.

    A stack and its program refer to each other, so that a former stack goes when Python collects
    garbage, whenever that is. Its graph and its memory pool go with it, by calls that a capture on
    this thread does not survive.
    """
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def precision(*, tf32: bool) -> Iterator[None]:
    """float32 products in TF32 or in full, whatever the process has set; restored at the end."""
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "tf32" if tf32 else "ieee"
    try:
        yield
    finally:
        matmul.fp32_precision = before


def _side_stream(device: torch.device) -> AbstractContextManager:
    """Work on a stream that a capture may take, in order with what comes before and after."""
    return _SideStream(_stream(device)) if device.type == "cuda" else nullcontext()


class _SideStream(AbstractContextManager):
    def __init__(self, stream: torch.cuda.Stream) -> None:
        self._stream = stream
        self._outer = torch.cuda.current_stream(stream.device)
        self._context = torch.cuda.stream(stream)

    def __enter__(self) -> None:
        self._stream.wait_stream(self._outer)
        self._context.__enter__()

    def __exit__(self, *error: object) -> None:
        self._context.__exit__(*error)
        self._outer.wait_stream(self._stream)


@lru_cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """One for all stacks of a process: each stream costs a workspace of the GEMMs."""
    return torch.cuda.Stream(device)


@lru_cache(maxsize=1)
def _warn(reason: str) -> None:
    logging.getLogger(__name__).warning(
        "a step could not be captured as a CUDA graph and runs kernel by kernel: %s", reason
    )
