"""Which input channels of a matrix stay beside its low-rank part.

LOST keeps k of the M input channels whole: those whose residual after the rank-r part,
W0 - U_r S_r V_r', has the largest norm (arXiv 2508.02668). At a Gaussian W0 these norms
differ by a few per cent only, so random channels and the largest channels of W0 itself
are here as controls.

Every choice is a score per channel followed by the same top-k. Ours differs from the
paper's in one option: with G groups the channels are the best k / G of each of G
contiguous groups of inputs, so that a matrix whose inputs are sharded over G devices
gathers from its own inputs only.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from lostjax.nn.initializers.factorize import InitialMatrix, squared_residual_norms
from lostjax.nn.initializers.replication import replicated
from lostjax.typing import Array, Float, Int, Key

ChannelScores = Callable[[Key, InitialMatrix], jax.Array]
"""Scores the input channels (M,) of W0: the highest are kept."""


def residual_norm_channels(key: Key, initial: InitialMatrix) -> Float[Array, "M"]:
    """Score channels by what the rank-r part leaves of them (the paper's choice)."""
    del key
    return squared_residual_norms(initial)


def largest_channels(key: Key, initial: InitialMatrix) -> Float[Array, "M"]:
    """Score channels by their norm in W0."""
    del key
    dense_MN = replicated(initial.dense_MN.astype(jnp.float32))
    return jnp.sum(jnp.square(dense_MN), axis=1)


def random_channels(key: Key, initial: InitialMatrix) -> Float[Array, "M"]:
    """Score channels by chance alone."""
    return jax.random.uniform(key, initial.dense_MN.shape[:1])


def count_channels(n_inputs: int, delta: float) -> int:
    """How many of `n_inputs` channels a share `delta` keeps: none at 0, else >= 1."""
    if not 0 <= delta <= 1:
        raise ValueError(f"delta={delta} is not within 0 to 1")
    # floor(.29 * 100) is 28 in floating point: a hair of tolerance makes it 29.
    return max(1, math.floor(delta * n_inputs + 1e-9)) if delta else 0


def select_channels(
    scores_M: Float[Array, "M"], *, n_channels: int, groups: int = 1
) -> Int[Array, "C"]:
    """Pick the highest-scored channels, equally many in each group of inputs.

    Args:
        scores_M: a score per input channel.
        n_channels: how many to keep, 0 to M; a multiple of `groups`.
        groups: number of contiguous groups of M / groups inputs.

    Returns:
        Indices (C,) int32, sorted and unique.

    Raises:
        ValueError: if `groups` does not divide M and n_channels.
    """
    n_inputs = scores_M.shape[0]
    require_groups(groups, n_inputs=n_inputs, n_channels=n_channels)
    _, local_GC = jax.lax.top_k(scores_M.reshape(groups, -1), n_channels // groups)
    first_G1 = jnp.arange(groups)[:, None] * (n_inputs // groups)
    return (jnp.sort(local_GC, axis=1) + first_G1).reshape(-1).astype(jnp.int32)


def require_groups(groups: int, *, n_inputs: int, n_channels: int) -> None:
    """Refuse groups that cannot hold equal numbers of inputs and kept channels."""
    if groups < 1:
        raise ValueError(f"channel_groups={groups} must be at least 1")
    for count, what in ((n_inputs, "inputs"), (n_channels, "kept channels")):
        if count % groups:
            raise ValueError(
                f"channel_groups={groups} does not divide the {count} {what} of a "
                f"matrix of {n_inputs} inputs"
            )
    if not 0 <= n_channels <= n_inputs:
        raise ValueError(f"n_channels={n_channels} is not within 0 to {n_inputs}")
