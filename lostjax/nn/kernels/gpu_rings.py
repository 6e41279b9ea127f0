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


def tile(*shape: int, dtype: DTypeLike) -> Any:
    """Allocate shared memory as matrix units and bulk copies want it, 64 columns wide."""
    return plgpu.SMEM(
        shape,
        dtype,
        transforms=(plgpu.TilingTransform((8, 64)), plgpu.SwizzleTransform(128)),
    )


def ring(
    stages: int, shape: tuple[int, int], *, readers: int, dtype: DTypeLike
) -> Ring:
    """Allocate a ring."""
    return Ring(
        tile(stages, *shape, dtype=dtype),
        plgpu.Barrier(num_barriers=stages),
        plgpu.Barrier(num_arrivals=readers, num_barriers=stages),
    )
