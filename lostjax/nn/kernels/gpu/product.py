"""One pass of rows through two products on a GPU, what lies between them staying there.

    y = [between(x A), between_kept(x E)] [B; W]

Forward E is one-hot: x E is x_I, exact, made of the tile of x that is there anyway.
Backward the same pass takes the output's gradient g through B' and W', then A' and E':
its one-hot product is the scatter into dx.

A block has a tile of rows. One warpgroup starts copies (TMA); the others multiply 64
rows each (wgmma), put what lies between the products into shared memory and stream the
second factors past it. The last tiles of rows and of columns are moved back so that
they end where the array does: what two tiles share is written twice, the same. Where a
copy reaches beyond an array it brings zeros.
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
    """The two factors of one side of a pass; the kept part is None without channels."""

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
    """Multiply rows by the factors down, then by those up; all of one 16-bit type.

    Args:
        x_PM: the rows: a multiple of 8, no fewer than a tile's. 16 divides M and N, 64
            all other widths.
        down: (M, R) and (M, C).
        up: (R, N) and (C, N).
        gamma: handed to `between`.
        between: what to do with x A.
        between_kept: what to do with x E.
        tiles: how the pass is cut.
        saved_PK: also handed to both, R + C columns; or nothing is.
        keep: columns of the arrays that these write out, R or R + C each.
        name: of the kernel.

    Returns:
        y_PN and what was written out.
    """
    (n_rows, n_inputs), dtype = x_PM.shape, x_PM.dtype
    rank, n_outputs = up.rank.shape
    n_kept = 0 if up.kept is None else up.kept.shape[0]
    sizes = Sizes(n_rows, n_inputs, n_outputs, rank, n_kept)
    operands = {
        "gamma": gamma,
        "x": x_PM,
        "down": down.rank,
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
        num_threads=tiles.warpgroups + 1,
        thread_name="warpgroup",
        kernel_name=name,
        compiler_params=plgpu.CompilerParams(approx_math=True),
    )(*operands.values())
    return tuple(outputs)


def _end_with_a_tile(factor: jax.Array, columns: int) -> jax.Array:
    # Tiles start at multiples of their width; the last has what the last of y needs.
    rest = factor.shape[1] % columns
    if not rest:
        return factor
    whole, last = factor[:, : factor.shape[1] - rest], factor[:, -columns:]
    return jnp.concatenate([whole, last], axis=1)


def _scratch(sizes: Sizes, tiles: Tiles, dtype: Any) -> dict[str, Any]:
    readers, grain = tiles.warpgroups, grain_of(sizes.inputs)
    grain_out = grain_of(sizes.outputs)

    def tiles_of(stages: int, rows: int, columns: int) -> Ring:
        return ring(stages, rows, columns, readers=readers, grain=grain, dtype=dtype)

    return {
        "rows": tiles_of(STAGES, tiles.rows, BLOCK),
        "weights": tiles_of(tiles.stages, BLOCK, tiles.columns),
        "narrow": tile(
            sizes.narrow // BLOCK, readers, BLOCK, BLOCK, grain=grain, dtype=dtype
        ),
        "leaving": tile(readers, BLOCK, BLOCK, grain=grain_out, dtype=dtype),
        "arrived": plgpu.Barrier(num_barriers=readers),
    }
