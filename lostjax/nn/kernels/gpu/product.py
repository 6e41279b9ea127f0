"""One pass of rows through two products on a GPU, without a round trip through HBM.

    y = [between(x A), between_kept(x E)] [B; W]

Forward, E is one-hot: x E equals x_I exactly, and uses the tile of x that is already in
shared memory. Backward, the same pass multiplies the output gradient g by B' and W',
then by A' and E': the one-hot product is the scatter into dx.

A block processes a tile of rows. One warpgroup issues copies (TMA); the others multiply
64 rows each (wgmma), keep the intermediate result in shared memory and stream the
second factors. The last tiles of rows and columns are shifted back to end where the
array ends; the overlap of two tiles is written twice with equal values. Copies beyond
the end of an array return zeros.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from lostjax.nn.kernels.gpu.blocks import BLOCK, STAGES, Sizes, Tiles, grain_of
from lostjax.nn.kernels.gpu.pass_over_rows import Between, Pass
from lostjax.nn.kernels.gpu.rings import Ref, Ring, ring, tile
from lostjax.typing import Array, Float


class Factors(NamedTuple):
    """The two factors of one side of a pass; `kept` is None without kept channels."""

    rank: jax.Array
    kept: jax.Array | None


def two_products(
    x_PM: Float[Array, "P M"],
    down: Factors,
    up: Factors,
    gamma: Float[Array, "1"],
    *,
    between: Between,
    between_kept: Between,
    tiles: Tiles,
    saved_PK: Float[Array, "P K"] | None = None,
    keep: tuple[int, ...] = (),
    name: str,
) -> tuple[jax.Array, ...]:
    """Multiply rows by the factors `down`, then by the factors `up`.

    All arrays except gamma have the same 16-bit dtype.

    Args:
        x_PM: rows (P, M), at least one tile, P a multiple of 8; 16 divides M and N, 64
            divides all other widths.
        down: first factors, (M, R) and (M, C).
        up: second factors, (R, N) and (C, N).
        gamma: float32 array (1,), passed to `between` and `between_kept`.
        between: function applied to x A.
        between_kept: function applied to x E.
        tiles: tile sizes of the pass.
        saved_PK: array of R + C columns that is also passed to both functions, or None.
        keep: widths of the arrays that both functions write, R or R + C each.
        name: name of the kernel in profiles.

    Returns:
        y (P, N) and the written arrays.
    """
    (n_rows, n_inputs), dtype = x_PM.shape, x_PM.dtype
    rank, n_outputs = up.rank.shape
    n_kept = 0 if up.kept is None else up.kept.shape[0]
    sizes = Sizes(n_rows, n_inputs, n_outputs, rank, n_kept)
    operands = {
        "gamma": gamma,
        "x": x_PM,
        "down": down.rank,
        # No copy if the tile width divides the columns.
        "up": _end_with_a_tile(up.rank, tiles.columns),
    }
    if down.kept is not None and up.kept is not None:
        operands["down_kept"] = down.kept
        operands["up_kept"] = _end_with_a_tile(up.kept, tiles.columns)
    if saved_PK is not None:
        operands["saved"] = saved_PK

    def body(*refs: Ref, **scratch: Any) -> None:
        named = dict(zip([*operands, "y"], refs, strict=False))
        kept_back = refs[len(named) :]
        one_pass = Pass(sizes, tiles, kept_back=kept_back, **named, **scratch)
        warpgroup = jax.lax.axis_index("warpgroup")
        # Warp specialisation: one warpgroup copies, so that the others never wait
        # for addresses and barriers of copies.
        pl.when(warpgroup == tiles.warpgroups)(one_pass.feed)
        pl.when(warpgroup < tiles.warpgroups)(
            lambda: one_pass.multiply(warpgroup, between, between_kept)
        )

    outputs = plgpu.kernel(
        body,
        out_type=[
            jax.ShapeDtypeStruct((n_rows, width), dtype) for width in (n_outputs, *keep)
        ],
        scratch_types=_scratch(sizes, tiles, dtype),
        grid=(pl.cdiv(n_rows, tiles.rows),),
        grid_names=("tile",),
        # One more thread group than multiplying warpgroups: the one that copies.
        num_threads=tiles.warpgroups + 1,
        thread_name="warpgroup",
        kernel_name=name,
        # Hardware approximations of exp and tanh are more precise than bfloat16.
        compiler_params=plgpu.CompilerParams(approx_math=True),
    )(*operands.values())
    return tuple(outputs)


def _end_with_a_tile(factor: jax.Array, columns: int) -> jax.Array:
    # Tiles start at multiples of their width, except the last tile of y, which is
    # shifted back: repeat its columns at the end, so that one tile holds them.
    rest = factor.shape[1] % columns
    if not rest:
        return factor
    whole, last = factor[:, : factor.shape[1] - rest], factor[:, -columns:]
    return jnp.concatenate([whole, last], axis=1)


def _scratch(sizes: Sizes, tiles: Tiles, dtype: Any) -> dict[str, Any]:
    # Input and output arrays can have different swizzle widths.
    readers, grain = tiles.warpgroups, grain_of(sizes.inputs)
    grain_out = grain_of(sizes.outputs)

    def tiles_of(stages: int, rows: int, columns: int) -> Ring:
        return ring(stages, rows, columns, readers=readers, grain=grain, dtype=dtype)

    return {
        # Rings hide the latency of HBM and L2 behind the products.
        "rows": tiles_of(STAGES, tiles.rows, BLOCK),
        "weights": tiles_of(tiles.stages, BLOCK, tiles.columns),
        "narrow": tile(
            sizes.narrow // BLOCK, readers, BLOCK, BLOCK, grain=grain, dtype=dtype
        ),
        "leaving": tile(readers, BLOCK, BLOCK, grain=grain_out, dtype=dtype),
        # One barrier per warpgroup: each waits for its own copies of saved values.
        "arrived": plgpu.Barrier(num_barriers=readers),
    }
