"""One pass of rows through two products on a GPU, what lies between them staying there.

    y = [narrow(x A), kept(x E)] [B; W]

Forward E is one-hot: x E is x_I, exact, read from the tile of x that is there anyway.
Backward the same pass takes the output's gradient g through B' and W', then A' and E':
its one-hot product is the scatter into dx.

A block has a tile of rows. One warpgroup starts copies (TMA); the others multiply 64
rows each (wgmma), put what lies between the products into shared memory and stream the
second factors past it. The last tile of rows and of columns is moved back so that it
ends where the array does: what two tiles share is written twice, the same.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from lostjax.nn.kernels.gpu_blocks import BLOCK, FEEDER_REGISTERS, Sizes, Tiles
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
        x_PM: the rows: a multiple of 8, no fewer than a tile's. Of all widths here (M,
            R, C, N, K) 64 is a divisor.
        down: (M, R) and (M, C).
        up: (R, N) and (C, N).
        gamma: handed to `between`.
        between: what to do with x A.
        between_kept: what to do with x E.
        tiles: how the pass is cut.
        saved_PK: also handed to `between`; at least R columns.
        keep: how many columns of what `between` gives are written out, of K.
        name: of the kernel.

    Returns:
        (y_PN,) or (y_PN, kept_back_PK).
    """
    (n_rows, n_inputs), dtype = x_PM.shape, x_PM.dtype
    rank, n_outputs = up.rank.shape
    n_kept = 0 if up.kept is None else up.kept.shape[0]
    sizes = Sizes(n_rows, n_inputs, n_outputs, rank, n_kept)
    widths = (n_outputs, keep) if keep else (n_outputs,)
    operands = [gamma, x_PM, down.rank, up.rank]
    operands += [array for array in (down.kept, up.kept, saved_PK) if array is not None]
    readers = tiles.warpgroups
    scratch = {
        "rows": ring(
            tiles.row_stages, (tiles.rows, BLOCK), readers=readers, dtype=dtype
        ),
        "weights": ring(
            tiles.stages, (BLOCK, tiles.columns), readers=readers, dtype=dtype
        ),
        "narrow": tile(
            (rank + n_kept) // BLOCK, readers, BLOCK, BLOCK, dtype=dtype
        ),
        "leaving": tile(readers, BLOCK, BLOCK, dtype=dtype),
        "arrived": plgpu.Barrier(num_barriers=readers),
    }

    def body(*refs: Ref, **scratch: Any) -> None:
        rest = iter(refs)
        gamma_ref, x_ref, down_ref, up_ref = (next(rest) for _ in range(4))
        down_kept_ref, up_kept_ref = (next(rest) if n_kept else None for _ in range(2))
        saved_ref = next(rest) if saved_PK is not None else None
        y_ref = next(rest)
        pass_ = _Pass(
            sizes=sizes,
            tiles=tiles,
            gamma_ref=gamma_ref,
            x_ref=x_ref,
            down=Factors(down_ref, down_kept_ref),
            up=Factors(up_ref, up_kept_ref),
            saved_ref=saved_ref,
            y_ref=y_ref,
            kept_back_ref=next(rest) if keep else None,
            **scratch,
        )
        warpgroup = jax.lax.axis_index("warpgroup")
        pl.when(warpgroup == readers)(pass_.feed)
        pl.when(warpgroup < readers)(
            lambda: pass_.multiply(warpgroup, between, between_kept)
        )

    outputs = plgpu.kernel(
        body,
        out_type=[jax.ShapeDtypeStruct((n_rows, width), dtype) for width in widths],
        scratch_types=scratch,
        grid=(pl.cdiv(n_rows, tiles.rows),),
        grid_names=("tile",),
        num_threads=readers + 1,
        thread_name="warpgroup",
        kernel_name=name,
        compiler_params=plgpu.CompilerParams(approx_math=True),
    )(*operands)
    return tuple(outputs)


class _Pass(NamedTuple):
    sizes: Sizes
    tiles: Tiles
    gamma_ref: Ref
    x_ref: Ref
    down: Factors
    up: Factors
    saved_ref: Ref
    y_ref: Ref
    kept_back_ref: Ref
    rows: Ring
    weights: Ring
    narrow: Ref
    leaving: Ref
    arrived: Ref

    @property
    def first_row(self) -> jax.Array:
        tile_index = jax.lax.axis_index("tile")
        last = self.sizes.rows - self.tiles.rows
        return jnp.minimum(tile_index * self.tiles.rows, last)

    @property
    def depth(self) -> int:
        """Steps of a contraction over the inputs."""
        return self.sizes.inputs // BLOCK

    @property
    def rank_depth(self) -> int:
        return self.sizes.rank // BLOCK

    @property
    def kept_depth(self) -> int:
        return self.sizes.kept // BLOCK

    @property
    def chunks(self) -> list[tuple[bool, int, int]]:
        """Columns summed at once on the way down: kept or not, first, how many."""
        chunks = []
        for kept, n_columns in ((False, self.sizes.rank), (True, self.sizes.kept)):
            for start in range(0, n_columns, self.tiles.columns):
                width = min(self.tiles.columns, n_columns - start)
                chunks.append((kept, start, width))
        return chunks

    @property
    def n_tiles_up(self) -> int:
        return pl.cdiv(self.sizes.outputs, self.tiles.columns)

    def first_column(self, index: Step) -> jax.Array:
        last = self.sizes.outputs - self.tiles.columns
        return jnp.minimum(index * self.tiles.columns, last)

    def feed(self) -> None:
        """Start all copies of rows and weights, in the order of their use."""
        plgpu.set_max_registers(FEEDER_REGISTERS, action="decrease")
        rows = pl.ds(self.first_row, self.tiles.rows)

        def weights_of(factor: Ref, row: Step, column: Step) -> Ref:
            # A copy may reach beyond the factor's columns: it brings zeros, unread.
            columns = pl.ds(jnp.int32(column), self.tiles.columns)
            return factor.at[pl.ds(row * BLOCK, BLOCK), columns]

        for index, (kept, start, _) in enumerate(self.chunks):
            factor = self.down.kept if kept else self.down.rank

            @pl.loop(0, self.depth)
            def _down(k: jax.Array, index=index, factor=factor, start=start) -> None:
                step = index * self.depth + k
                self.rows.fill(step, self.x_ref.at[rows, pl.ds(k * BLOCK, BLOCK)])
                self.weights.fill(step, weights_of(factor, k, start))

        before = len(self.chunks) * self.depth
        each = self.rank_depth + self.kept_depth

        @pl.loop(0, self.n_tiles_up)
        def _up(index: jax.Array) -> None:
            column, step = self.first_column(index), before + index * each

            @pl.loop(0, self.rank_depth)
            def _rank(k: jax.Array) -> None:
                self.weights.fill(step + k, weights_of(self.up.rank, k, column))

            if self.kept_depth:

                @pl.loop(0, self.kept_depth)
                def _kept(k: jax.Array) -> None:
                    source = weights_of(self.up.kept, k, column)
                    self.weights.fill(step + self.rank_depth + k, source)

        self.rows.drain(before)
        self.weights.drain(before + self.n_tiles_up * each)

    def multiply(
        self, warpgroup: jax.Array, between: Between, between_kept: Between
    ) -> None:
        """Take 64 rows through both products."""
        plgpu.set_max_registers(self.tiles.registers, action="increase")
        own = pl.ds(self.first_row + warpgroup * BLOCK, BLOCK)
        inner = pl.ds(warpgroup * BLOCK, BLOCK)
        gamma = self.gamma_ref[0]
        leaving = self.leaving.at[warpgroup]
        arrived = self.arrived.at[warpgroup]

        def leave(piece: jax.Array, target: Ref) -> None:
            plgpu.wait_smem_to_gmem(0, wait_read_only=True)
            leaving[...] = piece
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(leaving, target)

        for index, (kept, start, width) in enumerate(self.chunks):

            def left(step: Step) -> Ref:
                return self.rows.take(step).at[inner]

            sums = self._sum(
                width, left, index * self.depth, self.depth, rows=self.rows
            )
            base = start + (self.sizes.rank if kept else 0)
            for column in range(0, width, BLOCK):
                piece = sums[:, column : column + BLOCK]
                place = pl.ds(base + column, BLOCK)
                saved = None
                if self.saved_ref is not None and not kept:
                    plgpu.wait_smem_to_gmem(0, wait_read_only=True)
                    plgpu.copy_gmem_to_smem(
                        self.saved_ref.at[own, place], leaving, arrived
                    )
                    plgpu.barrier_wait(arrived)
                    saved = leaving[...].astype(jnp.float32)
                apply = between_kept if kept else between
                out, narrow = apply(piece, gamma, saved)
                narrow = narrow.astype(self.x_ref.dtype)
                self.narrow[(base + column) // BLOCK, warpgroup] = narrow
                if (
                    self.kept_back_ref is not None
                    and base + column < self.kept_back_ref.shape[1]
                ):
                    leave(
                        out.astype(self.x_ref.dtype), self.kept_back_ref.at[own, place]
                    )
        plgpu.commit_smem()
        before = len(self.chunks) * self.depth
        each = self.rank_depth + self.kept_depth

        @pl.loop(0, self.n_tiles_up)
        def _up(index: jax.Array) -> None:
            def left(step: Step) -> Ref:
                k = step - before - index * each
                return self.narrow.at[k, warpgroup]

            sums = self._sum(self.tiles.columns, left, before + index * each, each)
            for column in range(0, self.tiles.columns, BLOCK):
                place = pl.ds(self.first_column(index) + column, BLOCK)
                piece = sums[:, column : column + BLOCK].astype(self.x_ref.dtype)
                leave(piece, self.y_ref.at[own, place])

        plgpu.wait_smem_to_gmem(0, wait_read_only=True)

    def _sum(
        self,
        width: int,
        left: Callable[[Step], Ref],
        start: Step,
        n_steps: int,
        rows: Ring | None = None,
    ) -> jax.Array:
        def release(step: Step) -> None:
            self.weights.release(step)
            if rows is not None:
                rows.release(step)

        def accumulate(sums_ref: Ref) -> jax.Array:
            @pl.loop(0, n_steps)
            def _(k: jax.Array) -> None:
                step = start + k
                right = self.weights.take(step).at[:, pl.ds(0, width)]
                plgpu.wgmma(sums_ref, left(step), right)
                # One product is under way while the next is started.
                plgpu.wgmma_wait(1)
                pl.when(k > 0)(lambda: release(step - 1))

            sums = sums_ref[...]
            release(start + n_steps - 1)
            return sums

        sums: jax.Array = pl.run_scoped(
            accumulate, plgpu.ACC((BLOCK, width), jnp.float32)
        )
        return sums
