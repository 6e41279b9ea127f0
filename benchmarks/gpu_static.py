"""Programs for an H100 that is not here: their compiler, and what it says of kernels.

Needs the CUDA compilers (`pip install -e '.[plan]'`), no GPU. Import this before jax:
Mosaic GPU's flags are in the environment. ptxas tells of each kernel how many registers
a thread has and how many bytes it spills; it knows of no cycles.
"""

import contextlib
import dataclasses
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["MOSAIC_GPU_DUMP_PTXAS"] = "1"

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lostjax.plan.costs import Costs, count_costs
from lostjax.plan.hlo_text import parse_program
from lostjax.plan.targets import find_target

_KERNEL = re.compile(
    r"Compiling entry function '(\w+?)_mosaic_gpu_kernel'.*?(\d+) bytes spill stores"
    r".*?Used (\d+) registers",
    re.DOTALL,
)


@dataclasses.dataclass(frozen=True)
class Kernel:
    """What ptxas says of a kernel: registers of a thread, bytes it spills."""

    name: str
    registers: int
    spills: int


def compile_for_h100(
    step: Callable[..., Any], *arguments: jax.ShapeDtypeStruct
) -> tuple[Costs, list[Kernel]]:
    """Compile a program; count its costs and list the Mosaic kernels in it."""
    devices = np.array(find_target("h100:1").devices)
    one = NamedSharding(Mesh(devices, ("gpu",)), P())
    lowered = jax.jit(step, in_shardings=one, out_shardings=one).lower(*arguments)
    with _output() as said:
        program = lowered.compile().as_text()
    kernels = [
        Kernel(name, int(registers), int(spills))
        for name, spills, registers in _KERNEL.findall("".join(said))
    ]
    if len(kernels) != program.count('custom_call_target="mosaic_gpu_v2"'):
        raise RuntimeError("ptxas did not speak of each kernel in the program")
    return count_costs(parse_program(program), axes={"gpu": 1}), kernels


@contextlib.contextmanager
def _output() -> Iterator[list[str]]:
    """Catch what the compiler writes to standard output, below Python."""
    said: list[str] = []
    sys.stdout.flush()
    kept = os.dup(1)
    with tempfile.TemporaryFile("w+") as file:
        os.dup2(file.fileno(), 1)
        try:
            yield said
        finally:
            os.dup2(kept, 1)
            os.close(kept)
            file.seek(0)
            said.append(file.read())
