"""Rings of tiles in shared memory, filled by one warpgroup and read by the others."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.typing import DTypeLike

Ref = Any
Step = jax.Array | int


class Ring(NamedTuple):
    """Tiles with two barriers each; both sides count steps from zero."""

    tiles: Ref
    ready: Ref
    free: Ref

    def fill(self, step: Step, source: Ref) -> None:
        """Start a copy as soon as the place of the step is free."""
        place = self._place(step)

        # In the first round every place is free, and no barrier would complete.
        @pl.when(jnp.asarray(step >= self.tiles.shape[0]))
        def _() -> None:
            plgpu.barrier_wait(self.free.at[place])

        plgpu.copy_gmem_to_smem(source, self.tiles.at[place], self.ready.at[place])

    def take(self, step: Step) -> Ref:
        """Wait for the tile of the step and return it."""
        plgpu.barrier_wait(self.ready.at[self._place(step)])
        return self.tiles.at[self._place(step)]

    def release(self, step: Step) -> None:
        """Mark the place of the step as free."""
        plgpu.barrier_arrive(self.free.at[self._place(step)])

    def drain(self, n_steps: int) -> None:
        """Wait until all filled tiles were released; called by the filling side."""
        # The last fill of each place is the only one that no later `fill` waited for.
        for step in range(max(0, n_steps - self.tiles.shape[0]), n_steps):
            plgpu.barrier_wait(self.free.at[step % self.tiles.shape[0]])

    def _place(self, step: Step) -> jax.Array:
        # `%` would add a sign correction to every step.
        return jax.lax.rem(jnp.int32(step), jnp.int32(self.tiles.shape[0]))


def tile(*shape: int, grain: int, dtype: DTypeLike) -> Any:
    """Allocate shared memory in the layout of tensor cores and bulk copies.

    Args:
        shape: shape of the array; the last two axes are rows, a multiple of 8, and
            columns.
        grain: swizzle width in columns: 64, 32 or 16.
        dtype: a 16-bit dtype.

    Returns:
        A scratch type for `plgpu.kernel`.
    """
    # Tensor cores read 8-row tiles; swizzling avoids bank conflicts.
    transforms = (
        plgpu.TilingTransform((8, grain)),
        plgpu.SwizzleTransform(2 * grain),
    )
    return plgpu.SMEM(shape, dtype, transforms=transforms)


def ring(*shape: int, readers: int, grain: int, dtype: DTypeLike) -> Ring:
    """Allocate a ring.

    Args:
        shape: stages, rows and columns of the ring.
        readers: number of warpgroups that release every tile.
        grain: swizzle width in columns: 64, 32 or 16.
        dtype: a 16-bit dtype.

    Returns:
        The ring, as scratch types for `plgpu.kernel`.
    """
    return Ring(
        tile(*shape, grain=grain, dtype=dtype),
        plgpu.Barrier(num_barriers=shape[0]),
        # Every reader arrives once per tile: a tile is free after the last of them.
        plgpu.Barrier(num_arrivals=readers, num_barriers=shape[0]),
    )
