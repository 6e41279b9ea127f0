"""Selection of the input channels that a matrix keeps beside its low-rank part.

LOST keeps k of the M input channels whole: those whose residual after the rank-r part,
W0 - U_r S_r V_r', has the largest norm (arXiv 2508.02668). For a Gaussian W0 these
norms differ by a few per cent only, so two controls are provided: random channels, and
the channels with the largest norm in W0 itself.

Every choice is a score per channel followed by the same top-k. One option is not in the
paper: with G groups, the best k / G channels of each of G contiguous groups of inputs
are kept. If the inputs of the matrix are sharded over G devices, every device then
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
"""Function from a key and W0 to scores (M,) of the input channels; the highest-scored
channels are kept."""


def residual_norm_channels(key: Key, initial: InitialMatrix) -> Float[Array, "M"]:
    """Score channels by the norm of their rank-r residual (the choice of the paper).

    Args:
        key: not used.
        initial: W0 (M, N) and the rank.

    Returns:
        Squared residual norms (M,), float32.
    """
    del key
    return squared_residual_norms(initial)


def largest_channels(key: Key, initial: InitialMatrix) -> Float[Array, "M"]:
    """Score channels by their norm in W0.

    Args:
        key: not used.
        initial: W0 (M, N).

    Returns:
        Squared norms (M,), float32.
    """
    del key
    dense_MN = replicated(initial.dense_MN.astype(jnp.float32))
    return jnp.sum(jnp.square(dense_MN), axis=1)


def random_channels(key: Key, initial: InitialMatrix) -> Float[Array, "M"]:
    """Score channels by independent uniform random numbers.

    Args:
        key: random key.
        initial: W0 (M, N); only its shape is used.

    Returns:
        Scores (M,) in [0, 1).
    """
    return jax.random.uniform(key, initial.dense_MN.shape[:1])


def count_channels(n_inputs: int, delta: float) -> int:
    """Return the number of channels in a share `delta` of all input channels.

    Args:
        n_inputs: number of input channels M.
        delta: share of channels to keep, in [0, 1].

    Returns:
        max(1, floor(delta * n_inputs)), or 0 if delta is 0.

    Raises:
        ValueError: if `delta` is not in [0, 1].
    """
    if not 0 <= delta <= 1:
        raise ValueError(f"delta={delta} is not within 0 to 1")
    # floor(.29 * 100) is 28 in floating point; the tolerance makes it 29.
    return max(1, math.floor(delta * n_inputs + 1e-9)) if delta else 0


def select_channels(
    scores_M: Float[Array, "M"], *, n_channels: int, groups: int = 1
) -> Int[Array, "C"]:
    """Select the highest-scored channels, equally many from each group of inputs.

    Args:
        scores_M: one score per input channel (M,).
        n_channels: number of channels to keep, 0 to M; a multiple of `groups`.
        groups: number of contiguous groups of M / groups inputs, >= 1.

    Returns:
        Indices (C,) int32, sorted and unique.

    Raises:
        ValueError: if `groups` does not divide M and n_channels, or n_channels is not
            in [0, M].
    """
    n_inputs = scores_M.shape[0]
    require_groups(groups, n_inputs=n_inputs, n_channels=n_channels)
    _, local_GC = jax.lax.top_k(scores_M.reshape(groups, -1), n_channels // groups)
    first_G1 = jnp.arange(groups)[:, None] * (n_inputs // groups)
    # Sorted within groups, and groups in order: the gather is told that it is sorted.
    return (jnp.sort(local_GC, axis=1) + first_G1).reshape(-1).astype(jnp.int32)


def require_groups(groups: int, *, n_inputs: int, n_channels: int) -> None:
    """Check that every group holds equally many inputs and kept channels.

    Args:
        groups: number of channel groups.
        n_inputs: number of input channels M.
        n_channels: number of kept channels C.

    Raises:
        ValueError: if `groups` is less than 1 or does not divide both counts, or
            `n_channels` is not in [0, n_inputs].
    """
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
