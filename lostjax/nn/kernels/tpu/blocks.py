"""How the TPU kernels of narrow products are cut: rows of a step, strips of a loop.

What bounds them, for P rows, at two bytes a number (forward; C is a hundredth of M):

    FLOPs = 2 P (R M + R N + C N)        HBM bytes = 2 (P (M + N) + R (M + N) + C N)

    layer       M x N         R     FLOPs / byte at 8192 rows
    60m up      512 x 1376    128   126
    350m up     1024 x 2736   256   247
    1b up       2048 x 5461   512   451
    7b up       4096 x 11008  1024  865

A v5e balances at 240 FLOPs a byte, so that 60m and 130m layers are bound by HBM and
larger ones by the matrix units. Hence: every weight is read once and stays in VMEM, and
only rows pass through. The heuristic:

- Rows of a grid step: the most of 512, 256, 128 whose tiles fit VMEM beside the weights
  (backward: beside float32 sums of the weights' gradients too). None do: XLA's form.
- A kernel asks for the vector memory that it needs and no more: what it asks for, XLA
  takes from the arrays that it would have kept there from one operation to the next (a
  step of lost_60m on v5e: 14.0 GB through HBM if each asks for all, 9.8 if not).
- Within a step, blocks of 128 rows by strips of 128 columns: 16 vector registers hold
  one float32 sum over the whole contraction, and leave room for the next strip's and
  for the kept channels' way (256 rows, 32 registers: a schedule shorter by a tenth, to
  under what the units can do, but 350m up spills 176 registers a step). Where inputs
  are many, 256 rows: there kept channels have a loop of their own, for between products
  so long they would spill, and the products are long enough to hide the rest.
- Backward, the blocks of 256 rows stand beside each other in a loop's body: 350m square
  is at 1.08 of the units' floor, at 1.16 with those of 128 rows. (Those of all 512
  leave no loop, and the stages run into each other: 1319 spills.) Where an activation
  stands beside a block's product, or a scatter that outlasts it, a block has 64 rows:
  60m up and 350m up spill nothing, 8 and 52 registers a step with 128.
- A step of 128 rows (7b up and down) adds to 112 rows of a weight's gradient at once:
  7b up spills 128 registers with 128, 1148 with 144, and is at 1.01 of the floor with
  96 where 112 have .98.
- v6e, whose units are 256 wide, is slower with blocks of 64 rows (350m up: 12495
  bundles a step, 11293 with 128) and with 112 rows of a gradient at once (7b up: 55902,
  42845 with 128, half a unit). It spills some hundred registers a step.
- Strips are unrolled until a loop's body has about 380 matrix instructions: a shorter
  body shows the units' latency (1.24 of their floor with 96), a longer one spills.

Sizes are those with which v5e's compiler (libtpu 0.0.52) does best by the papers'
shapes.

A rank and a number of kept channels each fill whole tiles of the matrix units (128 deep
on v5e and v5p, 256 on v6e): 10 channels cost the output product what 128 would.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import jax

LANES = 128
"""Columns of a vector register and of a strip."""

ROWS = 128
"""Rows of a block within a grid step."""

DEEP = 30 * LANES
"""Most inputs whose kept channels are gathered between the products."""

DEEP_ROWS = 256
"""Rows of a forward block of more inputs than that."""

GATHERED = 64
"""Rows of which kept channels are gathered at once in a loop of their own."""

WRITTEN_OUT = 256
"""Rows of a backward step whose blocks stand beside each other in a loop's body."""

TURNED = 256
"""Rows whose kept channels are transposed at once."""

SUMMED = 288
"""Most rows of a weight's gradient that one strip adds to: 36 registers of sums.

A step of 128 rows has `Chip.shallow_summed`.
"""

LEAVING = 128
"""Rows of a weight's gradient that leave VMEM at once."""

_MIB = 2**20
_SPILLS = 4 * _MIB  # and what else the compiler puts there
_INSTRUCTIONS_PER_BODY = 380
_ROWS_PER_INSTRUCTION = 16


@dataclasses.dataclass(frozen=True)
class Chip:
    """What the cutting must know about a TPU.

    Attributes:
        vmem_bytes: vector memory of one core.
        cores: cores that share the steps of one grid.
        block: rows of a backward block with more than sums beside its product.
        shallow_summed: most rows of a weight's gradient that one strip adds to in a
            step of 128 rows, whose sums come and go with every product.
    """

    vmem_bytes: int
    cores: int = 1
    block: int = 64
    shallow_summed: int = 112


V5E = Chip(128 * _MIB)
V5P = Chip(64 * _MIB, cores=2)
V6E = Chip(128 * _MIB, block=128, shallow_summed=128)

_BY_DEVICE_KIND = {
    "TPU v5 lite": V5E,
    "TPU v5e": V5E,
    "TPU v5": V5P,
    "TPU v5p": V5P,
    "TPU v6 lite": V6E,
    "TPU v6e": V6E,
}
_UNKNOWN = Chip(64 * _MIB)


def kind_here() -> str:
    """Name the devices of the mesh in use, or of this process."""
    device = jax.sharding.get_abstract_mesh().abstract_device or jax.devices()[0]
    return str(device.device_kind)


def chip_here() -> Chip:
    """Look up the chip of the mesh in use, or of this process; else a cautious one."""
    return _BY_DEVICE_KIND.get(kind_here(), _UNKNOWN)


class Sizes(NamedTuple):
    """Sizes of products by siblings: all the same.

    Attributes:
        rows: number of rows P.
        inputs: number of inputs M.
        outputs: number of outputs N.
        rank: width between the factors R.
        kept: number of kept channels C.
        itemsize: bytes of a number, 2 or 4.
        siblings: number of matrices S that one kernel multiplies with.
    """

    rows: int
    inputs: int
    outputs: int
    rank: int
    kept: int
    itemsize: int
    siblings: int = 1

    @property
    def sublanes(self) -> int:
        """Count the rows that one vector register holds."""
        return 32 // self.itemsize


class Cut(NamedTuple):
    """How a kernel is cut.

    Attributes:
        rows: rows of a grid step.
        vmem_bytes: vector memory that it asks for.
    """

    rows: int
    vmem_bytes: int


def cut_forward(sizes: Sizes, chip: Chip) -> Cut | None:
    """Choose the rows of a forward grid step; None where nothing fits."""
    return _choose_cut(sizes, chip, _forward_bytes)


def cut_backward(sizes: Sizes, chip: Chip) -> Cut | None:
    """Choose the rows of a backward grid step; None where nothing fits."""
    return _choose_cut(sizes, chip, _backward_bytes)


def strips_per_body(contraction: int, rows: int) -> int:
    """Count the strips of 128 columns that make up one loop body."""
    moves = math.ceil(rows / _ROWS_PER_INSTRUCTION)
    instructions = moves * math.ceil(contraction / LANES)
    return max(1, _INSTRUCTIONS_PER_BODY // instructions)


def round_up(size: int, multiple: int) -> int:
    """Round a size up to a multiple."""
    return -(-size // multiple) * multiple


def _choose_cut(
    sizes: Sizes, chip: Chip, count_bytes: Callable[[Sizes, int], int]
) -> Cut | None:
    whole = round_up(sizes.rows, sizes.sublanes)
    for most in (512, 256, 128):
        rows = min(most, whole)
        asked = count_bytes(sizes, rows) + _SPILLS
        if asked <= chip.vmem_bytes * 15 // 16:
            return Cut(rows, asked)
    return None


def _weight_bytes(sizes: Sizes) -> int:
    m, n, r, c, _ = _padded(sizes)
    return sizes.siblings * sizes.itemsize * (m * r + r * n + c * n)


def _forward_bytes(sizes: Sizes, rows: int) -> int:
    m, n, r, _, lanes = _padded(sizes)
    passing = 2 * rows * (m + sizes.siblings * (n + r))
    kept_back = rows * (r + 2 * lanes)
    return _weight_bytes(sizes) + sizes.itemsize * (passing + kept_back)


def _backward_bytes(sizes: Sizes, rows: int) -> int:
    m, n, r, c, lanes = _padded(sizes)
    passing = 2 * rows * (2 * m + sizes.siblings * (n + r))
    kept_back = rows * ((3 + sizes.siblings) * r + c + lanes)
    leaving = 2 * LEAVING * (m + n)  # float32, if cores share the grid
    sums = sizes.siblings * 4 * (r * m + (r + c) * n + rows * lanes)
    return (
        _weight_bytes(sizes) + sizes.itemsize * (passing + kept_back + leaving) + sums
    )


def _padded(sizes: Sizes) -> tuple[int, int, int, int, int]:
    # What VMEM really holds: whole registers.
    m, n, r = (
        round_up(size, LANES) for size in (sizes.inputs, sizes.outputs, sizes.rank)
    )
    return m, n, r, round_up(sizes.kept, sizes.sublanes), round_up(sizes.kept, LANES)
