"""The warpgroups of a block in one pass through two products.

One warpgroup issues all copies in the order of their use, and waits only for free
places in the rings. Each of the others multiplies 64 rows by the first factors, writes
the result to shared memory, and multiplies it by the second factors, one tile of
columns after the other. See `lostjax.nn.kernels.gpu.product`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from lostjax.nn.kernels.gpu.blocks import BLOCK, FEEDER_REGISTERS, Sizes, Tiles
from lostjax.nn.kernels.gpu.rings import Ref, Ring, Step

Pieces = tuple[jax.Array | None, ...]
"""One piece per output array; None if the array has no such columns."""

Between = Callable[..., tuple[Pieces, jax.Array]]
"""`between(sums, gamma, saved)` returns the pieces to write and the next left operand.

All are pieces of 64 x 64 in float32; `saved` is None if the pass has no saved array.
"""


class Pass(NamedTuple):
    """References of one pass, and the programs of its warpgroups."""

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
    kept_back: Sequence[Ref]
    down_kept: Ref = None
    up_kept: Ref = None
    saved: Ref = None

    @property
    def first_row(self) -> jax.Array:
        index = jax.lax.axis_index("tile")
        last = self.sizes.rows - self.tiles.rows
        # The last tile ends where the array ends: overlapping rows are written twice.
        return jnp.minimum(index * self.tiles.rows, last)

    @property
    def depth(self) -> int:
        """Return the contraction steps over the inputs."""
        return pl.cdiv(self.sizes.inputs, BLOCK)

    @property
    def n_chunks(self) -> int:
        """Return the number of column tiles of the first product."""
        return pl.cdiv(self.sizes.rank, self.tiles.columns)

    @property
    def steps_down(self) -> int:
        """Return the weight tiles of the first product.

        In the last chunk, tiles of the factor and of the one-hot matrix alternate.
        """
        return (self.n_chunks + (self.sizes.kept > 0)) * self.depth

    @property
    def steps_up(self) -> int:
        """Return the contraction steps of the second product."""
        return self.sizes.narrow // BLOCK

    @property
    def n_tiles_up(self) -> int:
        return pl.cdiv(self.sizes.outputs, self.tiles.columns)

    def feed(self) -> None:
        """Issue all copies of rows and weights, in the order of their use."""
        # Copies need few registers: release the rest to the multiplying warpgroups.
        plgpu.set_max_registers(FEEDER_REGISTERS, action="decrease")
        own = pl.ds(self.first_row, self.tiles.rows)

        def weights_of(factor: Ref, row: Step, column: Step) -> Ref:
            columns = pl.ds(column, self.tiles.columns)
            # Copies past the last row return zeros, which add nothing to the sums.
            return factor.at[pl.ds(row * BLOCK, BLOCK), columns]

        @pl.loop(0, self.n_chunks)
        def _(index: jax.Array) -> None:
            column, first = index * self.tiles.columns, index * self.depth
            last = index == self.n_chunks - 1
            # In the last chunk every step has two weight tiles: factor and one-hot.
            each = jnp.where(last, 2, 1) if self.sizes.kept else 1

            @pl.loop(0, self.depth)
            def _(k: jax.Array) -> None:
                step = first + k * each
                self.rows.fill(first + k, self.x.at[own, pl.ds(k * BLOCK, BLOCK)])
                self.weights.fill(step, weights_of(self.down, k, column))
                if self.sizes.kept:
                    # `column * 0`: a traced zero, so that both cases have equal types.
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
                # The kept values follow the second factor in the same ring.
                @pl.loop(0, self.steps_up - rank_steps)
                def _(k: jax.Array) -> None:
                    source = weights_of(self.up_kept, k, column)
                    self.weights.fill(first + rank_steps + k, source)

        # The ring buffers must outlive the last reads of the other warpgroups.
        self.rows.drain(self.n_chunks * self.depth)
        self.weights.drain(self.steps_down + self.n_tiles_up * self.steps_up)

    def multiply(
        self, warpgroup: jax.Array, between: Between, between_kept: Between
    ) -> None:
        """Multiply 64 rows by both factors; the program of one warpgroup."""
        # Taken from what the copying warpgroup released; accumulators need them.
        plgpu.set_max_registers(self.tiles.registers, action="increase")
        before, columns, kept = self.n_chunks - 1, self.tiles.columns, self.sizes.kept

        @pl.loop(0, before)
        def _(index: jax.Array) -> None:
            (sums,) = self._sum_down(warpgroup, index * self.depth, columns, 0)
            self._go_between(warpgroup, index * columns, sums, between)

        # The last chunk may be narrower, and also accumulates the kept channels.
        width = self.sizes.rank - before * columns
        sums = self._sum_down(warpgroup, before * self.depth, width, kept)
        # Kept channels first: this frees their registers for the other sums.
        if kept:
            self._go_between(warpgroup, self.sizes.rank, sums[1], between_kept)
        self._go_between(warpgroup, before * columns, sums[0], between)
        # Make the writes to shared memory visible to the tensor cores (async proxy).
        plgpu.commit_smem()

        @pl.loop(0, self.n_tiles_up)
        def _(index: jax.Array) -> None:
            first = self.steps_down + index * self.steps_up
            sums = self._sum_up(warpgroup, first)
            # The last tile of y is shifted back, to end where the array ends.
            last = self.sizes.outputs - self.tiles.columns
            start = jnp.minimum(index * self.tiles.columns, last)
            for column in range(0, self.tiles.columns, BLOCK):
                piece = sums[:, column : column + BLOCK]
                self._leave(warpgroup, piece, self.y, start + column)

        # The block must not end before its last stores have read shared memory.
        plgpu.wait_smem_to_gmem(0, wait_read_only=True)

    def _sum_down(
        self, warpgroup: jax.Array, first: Step, width: int, kept: int
    ) -> list[jax.Array]:
        inner = pl.ds(warpgroup * BLOCK, BLOCK)
        # This warpgroup's 64 rows of the shared tile of rows.
        widths = (width, kept) if kept else (width,)

        def accumulate(*sums: Ref) -> list[jax.Array]:
            @pl.loop(0, self.depth)
            def _(k: jax.Array) -> None:
                rows, step = self.rows.take(first + k).at[inner], first + k * len(sums)
                self._add(sums[0], rows, step, k > 0)
                # `k > 0`: the tile before the first step belongs to the previous chunk,
                # which has released it.
                pl.when(k > 0)(lambda: self.rows.release(first + k - 1))
                if kept:
                    self._add(sums[1], rows, step + 1, True)

            # Reading the accumulators waits for the last product, then frees its tiles.
            wholes = [ref[...] for ref in sums]
            self.rows.release(first + self.depth - 1)
            self.weights.release(first + self.depth * len(sums) - 1)
            return wholes

        wholes: list[jax.Array] = pl.run_scoped(
            accumulate,
            *(plgpu.WGMMAAccumulatorRef((BLOCK, each), jnp.float32) for each in widths),
        )
        return wholes

    def _sum_up(self, warpgroup: jax.Array, first: jax.Array) -> jax.Array:
        def accumulate(sums: Ref) -> jax.Array:
            @pl.loop(0, self.steps_up)
            def _(k: jax.Array) -> None:
                self._add(sums, self.narrow.at[k, warpgroup], first + k, k > 0)

            whole: jax.Array = sums[...]
            self.weights.release(first + self.steps_up - 1)
            return whole

        whole: jax.Array = pl.run_scoped(
            accumulate,
            plgpu.WGMMAAccumulatorRef((BLOCK, self.tiles.columns), jnp.float32),
        )
        return whole

    def _add(self, sums: Ref, left: Ref, step: Step, follows: bool | jax.Array) -> None:
        right = self.weights.take(step).at[:, pl.ds(0, sums.shape[1])]
        # wgmma reads shared memory asynchronously: a tile is free only once waited for.
        plgpu.wgmma(sums, left, right)
        # One product stays in flight; waiting for the previous one frees its tile.
        plgpu.wgmma_wait(1)
        pl.when(follows)(lambda: self.weights.release(step - 1))

    def _go_between(
        self, warpgroup: jax.Array, start: Step, sums: jax.Array, between: Between
    ) -> None:
        gamma, dtype = self.gamma[0], self.x.dtype
        for inner in range(0, sums.shape[1], BLOCK):
            piece, column = sums[:, inner : inner + BLOCK], start + inner
            saved = None
            if self.saved is not None:
                # Activation and its derivative are computed in float32.
                saved = self._fetch(warpgroup, self.saved, column).astype(jnp.float32)
            pieces, narrow = between(piece, gamma, saved)
            # Round to 16 bits in shared memory: wgmma reads both operands from there.
            self.narrow[column // BLOCK, warpgroup] = narrow.astype(dtype)
            for out, target in zip(pieces, self.kept_back, strict=False):
                if out is not None:
                    self._leave(warpgroup, out, target, column)

    def _fetch(self, warpgroup: jax.Array, source: Ref, column: Step) -> jax.Array:
        place, arrived = self.leaving.at[warpgroup], self.arrived.at[warpgroup]
        # The buffer is shared with stores: wait until they have read it.
        plgpu.wait_smem_to_gmem(0, wait_read_only=True)
        plgpu.copy_gmem_to_smem(self._piece(warpgroup, source, column), place, arrived)
        plgpu.barrier_wait(arrived)
        piece: jax.Array = place[...]
        return piece

    def _leave(
        self, warpgroup: jax.Array, piece: jax.Array, target: Ref, column: Step
    ) -> None:
        place = self.leaving.at[warpgroup]
        # The previous store must have read the buffer before it is overwritten.
        plgpu.wait_smem_to_gmem(0, wait_read_only=True)
        place[...] = piece.astype(self.x.dtype)
        # Make the writes visible to the copy engine (async proxy) before it reads them.
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(place, self._piece(warpgroup, target, column))

    def _piece(self, warpgroup: jax.Array, array: Ref, column: Step) -> Ref:
        rows = pl.ds(self.first_row + warpgroup * BLOCK, BLOCK)
        return array.at[rows, pl.ds(column, BLOCK)]
