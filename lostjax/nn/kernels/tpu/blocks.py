"""Block sizes of the TPU kernels: rows of a grid step, column strips of a loop.

The bounds for P rows at two bytes per number (forward; C is a hundredth of M):

    FLOPs = 2 P (R M + R N + C N)        HBM bytes = 2 (P (M + N) + R (M + N) + C N)

    layer       M x N         R     FLOPs / byte at 8192 rows
    60m up      512 x 1376    128   126
    350m up     1024 x 2736   256   247
    1b up       2048 x 5461   512   451
    7b up       4096 x 11008  1024  865

A v5e balances at 240 FLOPs per byte: layers of 60m and 130m are bound by HBM, larger
ones by the matrix units. Therefore every weight is read once and stays in VMEM, and
only rows are streamed. The heuristics:

- Rows of a grid step: the largest of 512, 256, 128 whose tiles fit in VMEM together
  with the weights (backward: also with float32 sums of the weights' gradients). If none
  fits, XLA computes the product.
- VMEM: a kernel requests only what it needs, because XLA cannot use requested memory
  for arrays that it would otherwise keep there between operations. A step of lost_60m
  on v5e transfers 14.0 GB through HBM if every kernel requests all VMEM, 9.8 otherwise.
- Forward blocks have 128 rows and strips of 128 columns: one float32 sum over the whole
  contraction takes 16 vector registers, which leaves room for the sum of the next strip
  and for the kept channels. With 256 rows and 32 registers the schedule is a tenth
  shorter, below the units' minimum, but 350m up spills 176 registers per step. With
  many inputs a block has 256 rows: kept channels then have a separate loop, because
  they would spill if interleaved with such long products, and the products are long
  enough to hide everything else.
- Backward, the blocks of 256 rows are unrolled in one loop body: 350m square then takes
  1.08 of the units' minimum, and 1.16 if only 128 rows are unrolled. (Unrolling all 512
  leaves no loop, and the stages overlap: 1319 spills.) A block has 64 rows if an
  activation, or a scatter that takes longer than the product, is interleaved with its
  product: 60m up and 350m up then spill nothing, and 8 and 52 registers per step with
  128 rows.
- A step of 128 rows (7b up and down) adds to 112 rows of a weight gradient at once. 7b
  up spills 128 registers with 128 rows and 1148 with 144; it takes 1.01 of the units'
  minimum with 96 rows and .98 with 112.
- v6e, whose units are 256 wide, is slower with blocks of 64 rows (350m up: 12495
  bundles per step, 11293 with 128) and with 112 gradient rows at once (7b up: 55902
  bundles, 42845 with 128, half a unit). It spills about a hundred registers per step.
- Strips are unrolled until a loop body has about 380 matrix instructions: shorter
  bodies expose the latency of the units (1.24 of their minimum with 96), longer ones
  spill.

The sizes are those with which v5e's compiler (libtpu 0.0.52) produces the best programs
at the shapes of the papers.

The rank and the number of kept channels are each padded to whole tiles of the matrix
units (128 deep on v5e and v5p, 256 on v6e): 10 channels cost as much as 128.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import jax

LANES = 128
"""Columns of a vector register, and of a strip."""

ROWS = 128
"""Rows of a forward block within a grid step."""

DEEP = 30 * LANES
"""Maximum number of inputs for which the gather of kept channels is interleaved with
the products."""

DEEP_ROWS = 256
"""Rows of a forward block with more inputs than `DEEP`."""

GATHERED = 64
"""Rows from which kept channels are gathered at once."""

WRITTEN_OUT = 256
"""Rows of a backward step whose blocks are unrolled in one loop body."""

TURNED = 256
"""Rows whose kept channels are transposed at once."""

SUMMED = 288
"""Maximum rows of a weight gradient to which one strip adds: 36 registers of sums.

Steps of 128 rows use `Chip.shallow_summed` instead.
"""

LEAVING = 128
"""Rows of a weight gradient that are copied from VMEM to HBM at once."""

_MIB = 2**20
_SPILLS = 4 * _MIB  # reserve for register spills and the compiler's own data
_INSTRUCTIONS_PER_BODY = 380  # matrix instructions, see the module docstring
_ROWS_PER_INSTRUCTION = 16


@dataclasses.dataclass(frozen=True)
class Chip:
    """Properties of a TPU that determine block sizes.

    Attributes:
        vmem_bytes: vector memory of one core.
        cores: number of cores that share the steps of one grid.
        block: rows of a backward block that interleaves other work with its product.
        shallow_summed: maximum rows of a weight gradient to which one strip adds in
            steps of 128 rows, where sums are reloaded for every product.
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
_UNKNOWN = Chip(64 * _MIB)  # the smallest VMEM of the known chips, one core


def kind_here() -> str:
    """Return the device kind of the current mesh, or of this process."""
    device = jax.sharding.get_abstract_mesh().abstract_device or jax.devices()[0]
    return str(device.device_kind)


def chip_here() -> Chip:
    """Return the chip of the current mesh or process; a small default if unknown."""
    return _BY_DEVICE_KIND.get(kind_here(), _UNKNOWN)


class Sizes(NamedTuple):
    """Sizes of the products of siblings, which are all equal.

    Attributes:
        rows: number of rows P.
        inputs: number of inputs M.
        outputs: number of outputs N.
        rank: width R between the factors.
        kept: number of kept channels C.
        itemsize: bytes per number, 2 or 4.
        siblings: number of matrices S per kernel.
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
        """Return the number of rows that one vector register holds."""
        return 32 // self.itemsize


class Cut(NamedTuple):
    """Block size of a kernel.

    Attributes:
        rows: rows of a grid step.
        vmem_bytes: vector memory that the kernel requests.
    """

    rows: int
    vmem_bytes: int


def cut_forward(sizes: Sizes, chip: Chip) -> Cut | None:
    """Choose the rows of a forward grid step; None if nothing fits in VMEM."""
    return _choose_cut(sizes, chip, _forward_bytes)


def cut_backward(sizes: Sizes, chip: Chip) -> Cut | None:
    """Choose the rows of a backward grid step; None if nothing fits in VMEM."""
    return _choose_cut(sizes, chip, _backward_bytes)


def strips_per_body(contraction: int, rows: int) -> int:
    """Return the number of 128-column strips to unroll in one loop body.

    Args:
        contraction: depth of the product of a strip.
        rows: rows of this product.
    """
    moves = math.ceil(rows / _ROWS_PER_INSTRUCTION)
    instructions = moves * math.ceil(contraction / LANES)
    return max(1, _INSTRUCTIONS_PER_BODY // instructions)


def round_up(size: int, multiple: int) -> int:
    """Round a size up to a multiple of `multiple`."""
    return -(-size // multiple) * multiple


def _choose_cut(
    sizes: Sizes, chip: Chip, count_bytes: Callable[[Sizes, int], int]
) -> Cut | None:
    whole = round_up(sizes.rows, sizes.sublanes)
    # Larger steps first: they amortise the fixed cost of a step.
    for most in (512, 256, 128):
        rows = min(most, whole)
        asked = count_bytes(sizes, rows) + _SPILLS
        # Keep a margin of one sixteenth: the byte counts are estimates.
        if asked <= chip.vmem_bytes * 15 // 16:
            return Cut(rows, asked)
    return None


def _weight_bytes(sizes: Sizes) -> int:
    m, n, r, c, _ = _padded(sizes)
    return sizes.siblings * sizes.itemsize * (m * r + r * n + c * n)


def _forward_bytes(sizes: Sizes, rows: int) -> int:
    m, n, r, _, lanes = _padded(sizes)
    # Factor 2: Pallas double-buffers every block that changes from step to step.
    passing = 2 * rows * (m + sizes.siblings * (n + r))
    # One scratch tile of act(x A); kept channels twice, as words and scaled.
    kept_back = rows * (r + 2 * lanes)
    return _weight_bytes(sizes) + sizes.itemsize * (passing + kept_back)


def _backward_bytes(sizes: Sizes, rows: int) -> int:
    m, n, r, c, lanes = _padded(sizes)
    passing = 2 * rows * (2 * m + sizes.siblings * (n + r))
    # z and both transposed operands are shared by siblings; each has a dh of its own.
    kept_back = rows * ((3 + sizes.siblings) * r + c + lanes)
    leaving = 2 * LEAVING * (m + n)  # factor 2: float32 if cores share the grid
    # float32 sums of all siblings stay in VMEM until the last step.
    sums = sizes.siblings * 4 * (r * m + (r + c) * n + rows * lanes)
    return (
        _weight_bytes(sizes) + sizes.itemsize * (passing + kept_back + leaving) + sums
    )


def _padded(sizes: Sizes) -> tuple[int, int, int, int, int]:
    # VMEM holds whole registers: pad lanes to 128, rows of kept values to sublanes.
    m, n, r = (
        round_up(size, LANES) for size in (sizes.inputs, sizes.outputs, sizes.rank)
    )
    return m, n, r, round_up(sizes.kept, sizes.sublanes), round_up(sizes.kept, LANES)
