"""How the GPU kernels of narrow products are cut: rows of a block, columns of a tile.

A block of Hopper (one of 132 multiprocessors) takes a tile of rows through both
products: [h | x_I] stays in its shared memory, 227 KiB, beside rings of tiles on their
way from HBM or L2. For K = R + C, each rounded up to 64, two bytes a number:

    block's narrow rows   2 T K           T rows, 64 for each warpgroup that multiplies
    ring of rows          2 T 64 2        two stages
    ring of weights       2 64 W S        W columns of a tile, S stages
    output on its way     2 T 64

The rows of a block, 128 or 64, are those with which the fullest multiprocessor has the
fewest to do: 64 where 128 would leave half of the chip idle (8192 rows: 64 blocks).
Equals take 128, for every block reads every weight from L2, and 2 T FLOPs are what
hides a weight's bytes; blocks do not share them in clusters. Then wider tiles, then
stages. At 16384 rows:

    K      example       rows   columns   stages of weights
    192    60m           128    128       4
    320    350m          128    256       3
    576    1b attention  128    128       2
    1088   7b up          64    256       2
    1152   7b down        64    128       3

A warpgroup sums a tile of 64 x W, and on the way down one of 64 x C beside it, in
float32: (W + C) / 2 of the registers of a thread, 232 with two warpgroups and 248 with
one.

Where it pays, by the model of `choose_paying_tiles`: where HBM binds XLA's form, which
is up to 350m (R 256, some 250 FLOPs a byte; an H100 balances at 295). At 1b and 7b
products bind both, and rounding K up is lost time: XLA's form. So it is with few rows,
or where the last round of blocks is nearly empty.

Copies and matrix units want rows of 128, 64 or 32 bytes in shared memory, and arrays
cut into such pieces: a width that 64 divides has the best of it, 1376 has 64 bytes,
2736 has 32. One that 16 does not divide (5461) is filled up with zeros to a multiple of
64 (5504): a copy of the array, unless XLA fuses it into what made the rows or uses the
products, so the model above counts one.
"""

import dataclasses
import math

BLOCK = 64
"""Rows of a warpgroup's tile, depth of a step and columns that leave at once."""

GRAINS = (64, 32, 16)
"""Columns that lie side by side in shared memory: the more the better."""

MULTIPROCESSORS = 132
"""How many an H100 (SXM) has; each has one block at a time."""

SHARED_BYTES = 232448
"""Shared memory of one block on Hopper."""

FEEDER_REGISTERS = 40
"""Registers of each thread of the warpgroup that starts copies."""

STAGES = 2
"""Tiles of rows on their way."""

_REGISTERS = 65536
_FLOPS = 989e12
_BYTES = 3350e9
_REGISTERS_BESIDE_SUMS = 40
_STAGES = 4
_BARRIER_BYTES = 1024


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of one pass, (P, M) by (M, R + C) by (R + C, N).

    8 divides the rows, 64 rank and kept channels; inputs and outputs, as yet not filled
    up, may have any size.
    """

    rows: int
    inputs: int
    outputs: int
    rank: int
    kept: int

    @property
    def narrow(self) -> int:
        """Count the columns between the products."""
        return self.rank + self.kept


@dataclasses.dataclass(frozen=True)
class Tiles:
    """How one pass is cut.

    Attributes:
        rows: rows of a block, a multiple of 64.
        columns: columns of a tile of weights, a multiple of 64 up to 256.
        stages: tiles of weights on their way.
    """

    rows: int
    columns: int
    stages: int

    @property
    def warpgroups(self) -> int:
        """Count the warpgroups that multiply; one more feeds them."""
        return self.rows // BLOCK

    @property
    def registers(self) -> int:
        """Count the registers left to each thread that multiplies, a multiple of 8."""
        each = (_REGISTERS // 128 - FEEDER_REGISTERS) // self.warpgroups
        return min(each // 8 * 8, 248)


def choose_tiles(sizes: Sizes) -> Tiles | None:
    """Choose how a pass is cut; None where no cut fits a block's shared memory."""
    whole = fill_up(sizes.outputs) // BLOCK * BLOCK
    widest = min(256, max(sizes.rank, sizes.kept), whole)

    def most_done_by_one(rows: int) -> int:
        return rows * count_waves(sizes, rows)

    for rows in sorted((128, 64), key=most_done_by_one):
        if rows > sizes.rows:
            continue
        for columns in dict.fromkeys((widest, min(widest, 128))):
            for stages in range(_STAGES, 1, -1):
                tiles = Tiles(rows, columns, stages)
                if fits(sizes, tiles):
                    return tiles
    return None


def fits(sizes: Sizes, tiles: Tiles) -> bool:
    """Say whether tiles, registers and shared memory hold what a block needs."""
    sums = (tiles.columns + sizes.kept) // 2
    return (
        sizes.kept <= tiles.columns
        and shared_bytes(sizes, tiles) <= SHARED_BYTES
        and sums <= tiles.registers - _REGISTERS_BESIDE_SUMS
    )


def shared_bytes(sizes: Sizes, tiles: Tiles) -> int:
    """Count the shared memory that a block takes."""
    passing = STAGES * tiles.rows + tiles.stages * tiles.columns
    narrow = tiles.rows * sizes.narrow
    return _BARRIER_BYTES + 2 * (narrow + BLOCK * passing + BLOCK * tiles.rows)


def choose_paying_tiles(sizes: Sizes) -> Tiles | None:
    """Choose as `choose_tiles` does, but None where XLA's form is modelled no slower.

    Either takes what its products or its bytes take, whichever is more; at an H100's
    published rates, kept channels (about a hundredth) left out. Neither is measured.
    """
    tiles = choose_tiles(sizes)
    ends = (sizes.inputs, sizes.outputs)
    weights = sizes.rank * sum(ends)
    there_and_back = 4 * sizes.rank
    filled = sum(width + fill_up(width) for width in ends if width != fill_up(width))

    def byte_seconds(columns: int) -> float:
        return 2 * (sizes.rows * (sum(ends) + columns) + weights) / _BYTES

    xla = max(2 * sizes.rows * weights / _FLOPS, byte_seconds(there_and_back))
    if tiles and max(matrix_seconds(sizes, tiles), byte_seconds(filled)) < xla:
        return tiles
    return None


def matrix_seconds(sizes: Sizes, tiles: Tiles) -> float:
    """Model for how long products keep the busiest multiprocessor of an H100 busy."""
    steps_up = sizes.narrow // BLOCK
    columns = math.ceil(sizes.inputs / BLOCK) * sizes.narrow
    columns += math.ceil(sizes.outputs / tiles.columns) * tiles.columns * steps_up
    products = 2 * tiles.rows * BLOCK * columns * count_waves(sizes, tiles.rows)
    return products * MULTIPROCESSORS / _FLOPS


def count_waves(sizes: Sizes, rows: int) -> int:
    """Count the blocks that the busiest multiprocessor has, one after the other."""
    return math.ceil(math.ceil(sizes.rows / rows) / MULTIPROCESSORS)


def grain_of(width: int) -> int:
    """Choose how many columns of an array, filled up, lie side by side."""
    return max(grain for grain in GRAINS if width % grain == 0)


def fill_up(width: int) -> int:
    """Round a width up to one of which a grain is a part; no less than a block."""
    whole = width >= BLOCK and width % min(GRAINS) == 0
    return width if whole else round_up(width, BLOCK)


def round_up(size: int, multiple: int) -> int:
    """Round a size up to a multiple."""
    return -(-size // multiple) * multiple
