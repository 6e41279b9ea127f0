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

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from lostjax.nn.kernels.gpu_blocks import (
    BLOCK,
    FEEDER_REGISTERS,
    STAGES,
    Sizes,
    Tiles,
    grain_of,
)
from lostjax.nn.kernels.gpu_rings import Ref, Ring, Step, ring, tile
from lostjax.typing import Array, Float

Between = Callable[..., tuple[jax.Array, jax.Array]]
"""`between(sums, gamma, saved)`: what is written out, and what is multiplied next.

All are pieces of 64 x 64 in float32; `saved` is None if nothing was.
"""


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
    keep: int = 0,
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
        saved_PK: also handed to `between`; at least R columns.
        keep: how many columns of what `between` gives are written out, of R + C.
        name: of the kernel.

    Returns:
        (y_PN,) or (y_PN, kept_back_PK).
    """
    (n_rows, n_inputs), dtype = x_PM.shape, x_PM.dtype
    rank, n_outputs = up.rank.shape
    n_kept = 0 if up.kept is None else up.kept.shape[0]
    sizes = Sizes(n_rows, n_inputs, n_outputs, rank, n_kept)
    widths = (n_outputs, keep) if keep else (n_outputs,)
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
        named = dict(zip([*operands, "y", "kept_back"], refs, strict=False))
        one_pass = _Pass(sizes=sizes, tiles=tiles, **named, **scratch)
        warpgroup = jax.lax.axis_index("warpgroup")
        pl.when(warpgroup == tiles.warpgroups)(one_pass.feed)
        pl.when(warpgroup < tiles.warpgroups)(
            lambda: one_pass.multiply(warpgroup, between, between_kept)
        )

    outputs = plgpu.kernel(
        body,
        out_type=[jax.ShapeDtypeStruct((n_rows, width), dtype) for width in widths],
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
    readers, grain, grain_out = (
        tiles.warpgroups,
        grain_of(sizes.inputs),
        grain_of(sizes.outputs),
    )
    assert grain is not None
    assert grain_out is not None

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


class _Pass(NamedTuple):
    sizes: Sizes
    tiles: Tiles
    rows: Ring
    weights: Ring
    narrow: Ref
    leaving: Ref
    arrived: Ref
    gamma: Ref
    x: Ref
    down: Ref
    up: Ref
    y: Ref
    down_kept: Ref = None
    up_kept: Ref = None
    saved: Ref = None
    kept_back: Ref = None

    @property
    def first_row(self) -> jax.Array:
        index = jax.lax.axis_index("tile")
        last = self.sizes.rows - self.tiles.rows
        return jnp.minimum(index * self.tiles.rows, last)

    @property
    def depth(self) -> int:
        """Steps of a contraction over the inputs."""
        return pl.cdiv(self.sizes.inputs, BLOCK)

    @property
    def chunks(self) -> list[tuple[int, int]]:
        """Columns that are summed at once on the way down: the first and how many."""
        starts = range(0, self.sizes.rank, self.tiles.columns)
        return [(s, min(self.tiles.columns, self.sizes.rank - s)) for s in starts]

    @property
    def steps_down(self) -> int:
        """Tiles of weights on the way down: the last chunk's alternate with one-hot."""
        return (len(self.chunks) + (self.sizes.kept > 0)) * self.depth

    @property
    def steps_up(self) -> int:
        """Steps of a contraction over what lies between the products."""
        return self.sizes.narrow // BLOCK

    @property
    def n_tiles_up(self) -> int:
        return pl.cdiv(self.sizes.outputs, self.tiles.columns)

    def feed(self) -> None:
        """Start all copies of rows and weights, in the order of their use."""
        plgpu.set_max_registers(FEEDER_REGISTERS, action="decrease")
        own = pl.ds(self.first_row, self.tiles.rows)

        def weights_of(factor: Ref, row: Step, column: Step) -> Ref:
            columns = pl.ds(column, self.tiles.columns)
            return factor.at[pl.ds(row * BLOCK, BLOCK), columns]

        @pl.loop(0, len(self.chunks))
        def _(index: jax.Array) -> None:
            column, first = index * self.tiles.columns, index * self.depth
            last = index == len(self.chunks) - 1
            each = jnp.where(last, 2, 1) if self.sizes.kept else 1

            @pl.loop(0, self.depth)
            def _(k: jax.Array) -> None:
                step = first + k * each
                self.rows.fill(first + k, self.x.at[own, pl.ds(k * BLOCK, BLOCK)])
                self.weights.fill(step, weights_of(self.down, k, column))
                if self.sizes.kept:
                    one_hot = weights_of(self.down_kept, k, column * 0)
                    pl.when(last)(lambda: self.weights.fill(step + 1, one_hot))

        rank_steps = self.sizes.rank // BLOCK

        @pl.loop(0, self.n_tiles_up)
        def _(index: jax.Array) -> None:
            column = index * self.tiles.columns
            first = self.steps_down + index * self.steps_up

            @pl.loop(0, rank_steps)
            def _(k: jax.Array) -> None:
                self.weights.fill(first + k, weights_of(self.up, k, column))

            if self.sizes.kept:

                @pl.loop(0, self.steps_up - rank_steps)
                def _(k: jax.Array) -> None:
                    source = weights_of(self.up_kept, k, column)
                    self.weights.fill(first + rank_steps + k, source)

        self.rows.drain(len(self.chunks) * self.depth)
        self.weights.drain(self.steps_down + self.n_tiles_up * self.steps_up)

    def multiply(
        self, warpgroup: jax.Array, between: Between, between_kept: Between
    ) -> None:
        """Take 64 rows through both products."""
        plgpu.set_max_registers(self.tiles.registers, action="increase")
        for index, (start, width) in enumerate(self.chunks):
            kept = self.sizes.kept if index == len(self.chunks) - 1 else 0
            sums = self._sum_down(warpgroup, index * self.depth, width, kept)
            if kept:  # first: it leaves registers to the other
                rank = self.sizes.rank
                self._go_between(warpgroup, rank, sums[1], between_kept, None)
            self._go_between(warpgroup, start, sums[0], between, self.saved)
        plgpu.commit_smem()

        @pl.loop(0, self.n_tiles_up)
        def _(index: jax.Array) -> None:
            first = self.steps_down + index * self.steps_up
            sums = self._sum_up(warpgroup, first)
            last = self.sizes.outputs - self.tiles.columns
            start = jnp.minimum(index * self.tiles.columns, last)
            for column in range(0, self.tiles.columns, BLOCK):
                piece = sums[:, column : column + BLOCK]
                self._leave(warpgroup, piece, self.y, start + column)

        plgpu.wait_smem_to_gmem(0, wait_read_only=True)

    def _sum_down(
        self, warpgroup: jax.Array, first: int, width: int, kept: int
    ) -> list[jax.Array]:
        inner = pl.ds(warpgroup * BLOCK, BLOCK)
        widths = (width, kept) if kept else (width,)

        def accumulate(*sums: Ref) -> list[jax.Array]:
            @pl.loop(0, self.depth)
            def _(k: jax.Array) -> None:
                rows, step = self.rows.take(first + k).at[inner], first + k * len(sums)
                self._add(sums[0], rows, step, k > 0)
                pl.when(k > 0)(lambda: self.rows.release(first + k - 1))
                if kept:
                    self._add(sums[1], rows, step + 1, True)

            wholes = [ref[...] for ref in sums]
            self.rows.release(first + self.depth - 1)
            self.weights.release(first + self.depth * len(sums) - 1)
            return wholes

        wholes: list[jax.Array] = pl.run_scoped(
            accumulate, *(plgpu.ACC((BLOCK, each), jnp.float32) for each in widths)
        )
        return wholes

    def _sum_up(self, warpgroup: jax.Array, first: jax.Array) -> jax.Array:
        def accumulate(sums: Ref) -> jax.Array:
            @pl.loop(0, self.steps_up)
            def _(k: jax.Array) -> None:
                self._add(sums, self.narrow.at[k, warpgroup], first + k, k > 0)

            whole = sums[...]
            self.weights.release(first + self.steps_up - 1)
            return whole

        whole: jax.Array = pl.run_scoped(
            accumulate, plgpu.ACC((BLOCK, self.tiles.columns), jnp.float32)
        )
        return whole

    def _add(self, sums: Ref, left: Ref, step: Step, follows: bool | jax.Array) -> None:
        right = self.weights.take(step).at[:, pl.ds(0, sums.shape[1])]
        plgpu.wgmma(sums, left, right)
        # This product is under way while the next is started; the last one is done.
        plgpu.wgmma_wait(1)
        pl.when(follows)(lambda: self.weights.release(step - 1))

    def _go_between(
        self,
        warpgroup: jax.Array,
        start: int,
        sums: jax.Array,
        between: Between,
        saved_ref: Ref,
    ) -> None:
        gamma, dtype = self.gamma[0], self.x.dtype
        kept_back = 0 if self.kept_back is None else self.kept_back.shape[1]
        for column in range(start, start + sums.shape[1], BLOCK):
            piece = sums[:, column - start : column - start + BLOCK]
            saved = None
            if saved_ref is not None:
                saved = self._fetch(warpgroup, saved_ref, column).astype(jnp.float32)
            out, narrow = between(piece, gamma, saved)
            self.narrow[column // BLOCK, warpgroup] = narrow.astype(dtype)
            if column < kept_back:
                self._leave(warpgroup, out, self.kept_back, column)

    def _fetch(self, warpgroup: jax.Array, source: Ref, column: int) -> jax.Array:
        place, arrived = self.leaving.at[warpgroup], self.arrived.at[warpgroup]
        plgpu.wait_smem_to_gmem(0, wait_read_only=True)
        plgpu.copy_gmem_to_smem(self._piece(warpgroup, source, column), place, arrived)
        plgpu.barrier_wait(arrived)
        piece: jax.Array = place[...]
        return piece

    def _leave(
        self, warpgroup: jax.Array, piece: jax.Array, target: Ref, column: Step
    ) -> None:
        place = self.leaving.at[warpgroup]
        plgpu.wait_smem_to_gmem(0, wait_read_only=True)
        place[...] = piece.astype(self.x.dtype)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(place, self._piece(warpgroup, target, column))

    def _piece(self, warpgroup: jax.Array, array: Ref, column: Step) -> Ref:
        rows = pl.ds(self.first_row + warpgroup * BLOCK, BLOCK)
        return array.at[rows, pl.ds(column, BLOCK)]
