"""What a stack launches on a GPU, compiled for an H100 without one.

    python -m tests.engine.compiled_kernels VARIANT   # one line of JSON for each kernel

The launches are those of a real stack at the paper's sizes; they are recorded and not made.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.pop("TRITON_INTERPRET", None)  # else the kernels below are the interpreter's

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from sparseae.engine import kernels
from sparseae.engine.choice import ON_CARD
from sparseae.engine.minibatches import Run
from sparseae.engine.products import TORCH
from sparseae.engine.stack import Stack
from sparseae.model.trial import Training, Trial

H100 = GPUTarget("cuda", 90, 32)
KERNELS = ("encode", "decode", "back", "update")
TYPES = {torch.float32: "*fp32", torch.int64: "*i64"}
#: What has most to keep: noise, and a smooth slope with norms.
MEMBERS = (("dae", "relu", "unit_norm"), ("cae", "sigmoid", "none"))


class Launches:
    """A kernel that records how it is launched."""

    def __init__(self, name: str, found: dict[str, tuple]) -> None:
        self._name, self._kernel, self._found = name, getattr(kernels, name), found

    def __getitem__(self, grid):
        def record(*values, num_warps, num_stages, **constants):
            signature, attributes = {}, {}
            for at, (parameter, value) in enumerate(zip(self._kernel.params, values, strict=False)):
                name = parameter.name
                # As Triton tells kinds of arguments apart when it launches.
                if isinstance(value, torch.Tensor):
                    signature[name], aligned = TYPES[value.dtype], value.data_ptr() % 16 == 0
                elif isinstance(value, float):
                    signature[name], aligned = "fp32", False
                else:
                    signature[name], aligned = "i32", value % 16 == 0
                if aligned:
                    attributes[at,] = [["tt.divisibility", 16]]
            signature |= dict.fromkeys(constants, "constexpr")
            launch = (signature, constants, attributes, num_warps, num_stages)
            self._found[f"{self._name} {launch!r}"] = (self._name, self._kernel, *launch)

        return record


def launched(variant: str) -> list[tuple]:
    """Every kind of launch of a step and of a measurement, once."""
    os.environ["TRITON_INTERPRET"] = "1"  # the backend then takes tensors of a CPU
    found: dict[str, tuple] = {}
    for name in KERNELS:
        setattr(kernels, name, Launches(name, found))
    rows = torch.arange(50).view(1, 1, 50)
    for (model, activation, constraint), inputs in zip(
        MEMBERS * 2, (784, 784, 192, 192), strict=True
    ):
        trials = [
            Trial(model=model, activation=activation, constraint=constraint, dataset="d",
                  sigma2=sigma2, seed=0, training=Training()) for sigma2 in (0.1, 1.0)
        ]  # fmt: skip
        x = torch.zeros(50, inputs)
        stack = Stack(trials, x, routine=f"{TORCH}{ON_CARD}triton-{variant}", together=2)
        stack.run(Run(x, rows, torch.zeros(1, 1, 1, 50, inputs) if model == "dae" else None))
        stack.measure()
    return list(found.values())


def compiled(kernel, signature, constants, attributes, warps, stages) -> dict[str, int]:
    """Bytes of a thread's spilled registers and of a program's shared memory."""
    source = ASTSource(kernel, signature, constexprs=constants, attrs=attributes)
    made = triton.compile(source, target=H100, options={"num_warps": warps, "num_stages": stages})
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        command = [str(tool), "-res-usage", file.name]
        words = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    uses = dict(word.split(":") for word in words if word.count(":") == 1 and word[-1].isdigit())
    return {
        "registers": int(uses["REG"]), "spilled": int(uses["STACK"]), "shared": made.metadata.shared
    }  # fmt: skip


if __name__ == "__main__":
    for kernel_name, *launch in launched(sys.argv[1]):
        print(json.dumps({"kernel": kernel_name, **compiled(*launch)}), flush=True)
