"""Programs for TPUs that are not here: their compiler, and the schedules it writes.

Needs libtpu (`pip install -e '.[plan]'`), no TPU. Import this before jax: libtpu reads
its flags once, and the compiler's final schedules go to a directory of this process.

A schedule is a list of bundles, one a cycle. Loops say how often they turn, so bundles
of a steady grid step can be counted: those of inner loops by their turns, without what
runs in the first or the last step alone. Waits for memory are not in them.
"""

import dataclasses
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

DUMP = tempfile.TemporaryDirectory(prefix="tpu_schedule_")
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # or libtpu asks a server and waits
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # no device is opened
os.environ["LIBTPU_INIT_ARGS"] = (
    f"--xla_jf_dump_to={DUMP.name} --xla_jf_dump_llo_text=true "
    "--xla_jf_dump_llo_pass_label_regex=.*final_bundles.*"
)

import jax  # noqa: E402
import numpy as np  # noqa: E402
from jax.experimental import topologies  # noqa: E402
from jax.experimental.layout import Format, Layout  # noqa: E402
from jax.sharding import Mesh, NamedSharding  # noqa: E402
from jax.sharding import PartitionSpec as P  # noqa: E402

TOPOLOGIES = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}

_BUNDLE = re.compile(r"\s*(?:0x[0-9a-f]+|0)\s+(LB|LH|LE|PB|PF|CT|)\s*: (>*)")
_BRANCH = re.compile(r"sbr\.rel \((!?)(?:%\w+ )?%(\w+)\)")


@dataclasses.dataclass
class Schedule:
    """One kernel's steady grid step.

    Attributes:
        name: of the kernel.
        bundles: cycles of a step, if nothing waits for memory.
        matmuls: matrix-unit instructions of a step.
        spills: registers stored to memory and loaded again, for want of registers.
    """

    name: str
    bundles: int = 0
    matmuls: int = 0
    spills: int = 0

    @property
    def floor(self) -> int:
        """Cycles that four units of v5e and v5p need for the matrix instructions."""
        return 4 * self.matmuls


def compile_for(chip: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Compile for one chip, every array in the layout of its rows.

    Args:
        chip: a key of `TOPOLOGIES`.
        function: what to compile; it returns a tuple or an array.
        arguments: nests of shapes and types.

    Returns:
        The compiled program; it cannot run here.
    """
    topology = topologies.get_topology_desc(
        topology_name=TOPOLOGIES[chip], platform="tpu"
    )
    one = NamedSharding(Mesh(np.array(topology.devices[:1]), ("chip",)), P())

    def by_rows(array: jax.ShapeDtypeStruct) -> Format:
        return Format(Layout(tuple(range(array.ndim))), one)

    outputs = jax.tree.map(by_rows, jax.eval_shape(function, *arguments))
    inputs = jax.tree.map(by_rows, arguments)
    step = jax.jit(function, in_shardings=inputs, out_shardings=outputs)
    return step.lower(*arguments).compile()


def take_schedules(name: str) -> list[Schedule]:
    """Read, and remove, the schedules of kernels whose names start with `name`."""
    schedules = []
    for path in sorted(Path(DUMP.name).iterdir()):
        kernel = re.match(rf"\d+-({name}[\w.]*)-\d+-final_bundles", path.name)
        if kernel:
            schedules.append(read_schedule(kernel[1], path.read_text()))
        path.unlink()
    return schedules


def read_schedule(name: str, text: str) -> Schedule:
    """Count a steady step of the one grid loop in a schedule."""
    # Loops are closed by a branch on a test that states their turns.
    tests = dict(
        re.findall(
            r"%(\w+) = scmp\.ge\.s32\.totalorder (?:\(%\w+\), )?%\w+, (\d+) "
            r"/\* loop exit test \*/",
            text,
        )
    )
    once = set(re.findall(r"%(\w+) = scmp\.ne\.s32\.totalorder", text))
    schedule = Schedule(name)
    nest, skipped = [Schedule(name)], False
    for line in text.splitlines():
        bundle = _BUNDLE.match(line)
        if not bundle:
            continue
        if bundle[1] in ("PF", "CT"):
            skipped = False
        if bundle[1] == "LB":
            nest.append(Schedule(name))
        if not skipped:
            nest[-1].bundles += 1
            nest[-1].matmuls += len(re.findall(r"= vmatmul\b|\bvmatmul\.", line))
            nest[-1].spills += len(re.findall(r"\bv(?:st|ld) [^;]*_spill\]", line))
        branch = _BRANCH.search(line)
        if branch and branch[2] in tests and len(nest) > 1:
            body = nest.pop()
            if len(nest) == 1:  # the grid
                return body
            turns = int(tests[branch[2]])
            nest[-1].bundles += turns * body.bundles
            nest[-1].matmuls += turns * body.matmuls
            nest[-1].spills += turns * body.spills
        elif branch and not branch[1] and branch[2] in once and len(nest) == 2:
            skipped = True
    return schedule
