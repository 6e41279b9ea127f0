"""Tile sizes of the GPU kernels: rows of a block, columns of a weight tile.

A block on Hopper (one of 132 multiprocessors) computes both products of one tile of
rows. [h | x_I] stays in its shared memory, 227 KiB, next to rings of tiles that are
being copied from HBM or L2. With K = R + C, each rounded up to 64, at two bytes per
number:

    narrow rows of a block   2 T K         T rows, 64 per warpgroup that multiplies
    ring of rows             2 T 64 2      two stages
    ring of weights          2 64 W S      W columns of a tile, S stages
    output buffer            2 T 64

A block has 128 or 64 rows, whichever leaves the busiest multiprocessor fewer rows: 64
if 128 would leave half of the chip idle (8192 rows: 64 blocks). In a tie it is 128,
because every block reads all weights from L2, and the 2 T FLOPs per weight hide the
transfer; blocks do not share weights in clusters. Then wider tiles are preferred, then
more stages. At 16384 rows:

    K      example       rows   columns   stages of weights
    192    60m           128    128       4
    320    350m          128    256       3
    576    1b attention  128    128       2
    1088   7b up          64    256       2
    1152   7b down        64    128       3

A warpgroup accumulates a tile of 64 x W in float32 and, in the first product, one of
64 x C in addition: (W + C) / 2 registers per thread, of 232 with two warpgroups and 248
with one.

According to the model of `choose_paying_tiles`, the kernel is faster if HBM bounds
XLA's products. On an H100, which balances at 295 FLOPs per byte, that holds up to 350m
(R 256, about 250 FLOPs per byte). An H200 balances at 206: there it holds for 60m, and
for the square matrices of 130m. In all other cases, products bound both, and rounding K
up costs time: XLA is used. The same holds with few rows, or if the last wave of blocks
is nearly empty.

Copies and tensor cores need rows of 128, 64 or 32 bytes in shared memory, and arrays
that divide into such pieces. Widths that 64 divides use 128 bytes, 1376 uses 64 and
2736 uses 32. Widths that 16 does not divide (5461) are padded with zeros to a multiple
of 64 (5504). This copies the array unless XLA fuses it into the producer of the rows or
the consumer of the products; the model counts one copy.
"""

import dataclasses
import math

BLOCK = 64
"""Rows of a warpgroup's tile, depth of a contraction step, and columns per store."""

GRAINS = (64, 32, 16)
"""Possible swizzle widths of shared memory, in columns, in order of preference."""

MULTIPROCESSORS = 132
"""Number of multiprocessors of an H100 (SXM); each runs one block at a time."""

SHARED_BYTES = 232448
"""Shared memory of one block on Hopper, in bytes."""

FEEDER_REGISTERS = 40
"""Registers per thread of the warpgroup that issues copies."""

STAGES = 2
"""Stages of the ring of rows."""

BANDWIDTHS = {"NVIDIA H100": 3350e9, "NVIDIA H200": 4800e9}
"""Bytes/s of HBM3 and HBM3e, by prefix of JAX's `device_kind` (NVIDIA's data sheets of
the SXM modules). Everything else that the model of time needs is equal on both."""

_REGISTERS = 65536  # per multiprocessor
_FLOPS = 989e12  # per second, dense bfloat16
_REGISTERS_BESIDE_SUMS = 40  # per thread, for everything except sums
_STAGES = 4  # maximum of the ring of weights
_BARRIER_BYTES = 1024  # reserve for barriers


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of one pass, (P, M) by (M, R + C) by (R + C, N).

    8 divides the rows, and 64 divides rank and kept channels. Inputs and outputs are
    unpadded and can have any size.
    """

    rows: int
    inputs: int
    outputs: int
    rank: int
    kept: int

    @property
    def narrow(self) -> int:
        """Return the number of columns between the two products."""
        return self.rank + self.kept


@dataclasses.dataclass(frozen=True)
class Tiles:
    """Tile sizes of one pass.

    Attributes:
        rows: rows of a block, a multiple of 64.
        columns: columns of a weight tile, a multiple of 64 up to 256.
        stages: stages of the ring of weights.
    """

    rows: int
    columns: int
    stages: int

    @property
    def warpgroups(self) -> int:
        """Return the number of warpgroups that multiply; another one issues copies."""
        return self.rows // BLOCK

    @property
    def registers(self) -> int:
        """Return the registers per multiplying thread, a multiple of 8."""
        # The hardware assigns registers in multiples of 8, at most 255 per thread.
        each = (_REGISTERS // 128 - FEEDER_REGISTERS) // self.warpgroups
        return min(each // 8 * 8, 248)


def choose_tiles(sizes: Sizes) -> Tiles | None:
    """Choose the tiles of a pass; None if no choice fits in shared memory."""
    # A tile is not wider than what it multiplies.
    whole = fill_up(sizes.outputs) // BLOCK * BLOCK
    widest = min(256, max(sizes.rank, sizes.kept), whole)

    def most_done_by_one(rows: int) -> int:
        return rows * count_waves(sizes, rows)

    # `sorted` is stable: 128 rows are preferred in a tie.
    for rows in sorted((128, 64), key=most_done_by_one):
        if rows > sizes.rows:
            continue
        # `dict.fromkeys` removes the duplicate if the widest tile has 128 columns.
        for columns in dict.fromkeys((widest, min(widest, 128))):
            for stages in range(_STAGES, 1, -1):
                tiles = Tiles(rows, columns, stages)
                if fits(sizes, tiles):
                    return tiles
    return None


def fits(sizes: Sizes, tiles: Tiles) -> bool:
    """Return whether registers and shared memory suffice for a block."""
    # A warpgroup has 128 threads and 64 rows: half a register per column of its sums.
    sums = (tiles.columns + sizes.kept) // 2
    return (
        sizes.kept <= tiles.columns
        and shared_bytes(sizes, tiles) <= SHARED_BYTES
        and sums <= tiles.registers - _REGISTERS_BESIDE_SUMS
    )


def shared_bytes(sizes: Sizes, tiles: Tiles) -> int:
    """Return the bytes of shared memory that a block needs."""
    # Factor 2: all arrays have 16 bits.
    passing = STAGES * tiles.rows + tiles.stages * tiles.columns
    narrow = tiles.rows * sizes.narrow
    return _BARRIER_BYTES + 2 * (narrow + BLOCK * passing + BLOCK * tiles.rows)


def choose_paying_tiles(
    sizes: Sizes, *, device_kind: str = "NVIDIA H100"
) -> Tiles | None:
    """Choose tiles like `choose_tiles`; None if XLA is estimated to be as fast.

    The estimate is the maximum of arithmetic time and HBM time at the published rates
    of the device, without kept channels (about a hundredth). It has not been measured.
    Devices that `BANDWIDTHS` does not list count as an H100.
    """
    bandwidth = next(
        (rate for kind, rate in BANDWIDTHS.items() if device_kind.startswith(kind)),
        BANDWIDTHS["NVIDIA H100"],
    )
    tiles = choose_tiles(sizes)
    ends = (sizes.inputs, sizes.outputs)
    weights = sizes.rank * sum(ends)
    there_and_back = 4 * sizes.rank
    # Padding copies an array: it is read at its own width and written padded.
    filled = sum(width + fill_up(width) for width in ends if width != fill_up(width))

    def byte_seconds(columns: int) -> float:
        return 2 * (sizes.rows * (sum(ends) + columns) + weights) / bandwidth

    xla = max(2 * sizes.rows * weights / _FLOPS, byte_seconds(there_and_back))
    if tiles and max(matrix_seconds(sizes, tiles), byte_seconds(filled)) < xla:
        return tiles
    return None


def matrix_seconds(sizes: Sizes, tiles: Tiles) -> float:
    """Estimate the seconds of products on a Hopper GPU's busiest multiprocessor."""
    # Tensor cores compute whole tiles, including padding.
    steps_up = sizes.narrow // BLOCK
    columns = math.ceil(sizes.inputs / BLOCK) * sizes.narrow
    columns += math.ceil(sizes.outputs / tiles.columns) * tiles.columns * steps_up
    products = 2 * tiles.rows * BLOCK * columns * count_waves(sizes, tiles.rows)
    return products * MULTIPROCESSORS / _FLOPS


def count_waves(sizes: Sizes, rows: int) -> int:
    """Return the number of blocks that the busiest multiprocessor runs in sequence."""
    return math.ceil(math.ceil(sizes.rows / rows) / MULTIPROCESSORS)


def grain_of(width: int) -> int:
    """Return the largest width of `GRAINS` that divides the padded width."""
    return max(grain for grain in GRAINS if width % grain == 0)


def fill_up(width: int) -> int:
    """Round a width up so that a width of `GRAINS` divides it; at least one block."""
    whole = width >= BLOCK and width % min(GRAINS) == 0
    return width if whole else round_up(width, BLOCK)


def round_up(size: int, multiple: int) -> int:
    """Round a size up to a multiple of `multiple`."""
    return -(-size // multiple) * multiple
