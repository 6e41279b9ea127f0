"""Rings of tiles in shared memory: one warpgroup fills them, the others empty them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.typing import DTypeLike

Ref = Any
Step = jax.Array | int


class Ring(NamedTuple):
    """Tiles with two barriers each. Steps count up from zero, on both sides alike."""

    tiles: Ref
    ready: Ref
    free: Ref

    def fill(self, step: Step, source: Ref) -> None:
        """Start a copy as soon as the step's place is free."""
        place = self._place(step)

        @pl.when(jnp.asarray(step >= self.tiles.shape[0]))
        def _() -> None:
            plgpu.barrier_wait(self.free.at[place])

        plgpu.copy_gmem_to_smem(source, self.tiles.at[place], self.ready.at[place])

    def take(self, step: Step) -> Ref:
        """Wait for the step's tile."""
        plgpu.barrier_wait(self.ready.at[self._place(step)])
        return self.tiles.at[self._place(step)]

    def release(self, step: Step) -> None:
        """Give the step's place back."""
        plgpu.barrier_arrive(self.free.at[self._place(step)])

    def drain(self, n_steps: int) -> None:
        """Wait, where it was filled, until all that was filled has been taken."""
        for step in range(max(0, n_steps - self.tiles.shape[0]), n_steps):
            plgpu.barrier_wait(self.free.at[step % self.tiles.shape[0]])

    def _place(self, step: Step) -> jax.Array:
        return jax.lax.rem(jnp.int32(step), jnp.int32(self.tiles.shape[0]))


def tile(*shape: int, grain: int, dtype: DTypeLike) -> Any:
    """Allocate shared memory as matrix units and bulk copies want it.

    Args:
        shape: the last two axes are rows, a multiple of 8, and columns.
        grain: columns that lie side by side: 64, 32 or 16.
        dtype: a 16-bit type.
    """
    transforms = (
        plgpu.TilingTransform((8, grain)),
        plgpu.SwizzleTransform(2 * grain),
    )
    return plgpu.SMEM(shape, dtype, transforms=transforms)


def ring(*shape: int, readers: int, grain: int, dtype: DTypeLike) -> Ring:
    """Allocate a ring: its stages, and the rows and columns of a tile."""
    return Ring(
        tile(*shape, grain=grain, dtype=dtype),
        plgpu.Barrier(num_barriers=shape[0]),
        plgpu.Barrier(num_arrivals=readers, num_barriers=shape[0]),
    )
