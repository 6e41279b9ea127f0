"""Rotary positions of queries and keys.

    (a, b) -> (a cos - b sin, b cos + a sin)     angle of pair i: position theta^(-2i/K)

RoPE: Su et al., RoFormer, 2021, arXiv 2104.09864, in LLaMA's half-split layout:
component i of a head is paired with component i + K/2.
"""

from typing import NamedTuple

import jax.numpy as jnp

from lostjax.typing import Array, Float, Int


class Rotation(NamedTuple):
    """Rotary cosines and sines of all positions, shared by all layers."""

    cos_BTK: Array
    """Cosines (B or 1, T, K/2), float32."""
    sin_BTK: Array
    """Sines (B or 1, T, K/2), float32."""


def rotary_angles(
    positions_BT: Int[Array, "B T"], *, d_head: int, theta: float = 1e4
) -> Rotation:
    """Compute the sines and cosines that rotate heads at the given positions.

    Args:
        positions_BT: positions in their documents, from 0; B may be 1 to share them.
        d_head: head width K, even.
        theta: base of the geometric progression of wavelengths, > 0.

    Returns:
        A `Rotation` of (B, T, K/2) arrays; the angle of pair i is
        positions * theta^(-2i/K).

    Raises:
        ValueError: if `d_head` is odd or less than 2.
    """
    if d_head < 2 or d_head % 2:
        raise ValueError(f"d_head={d_head}: must be even and > 0, for rotary positions")
    wavelengths_K = theta ** (jnp.arange(0, d_head, 2, dtype=jnp.float32) / d_head)
    # Angles in float32: bfloat16 does not represent all integers above 256.
    angles_BTK = positions_BT[..., None].astype(jnp.float32) / wavelengths_K
    return Rotation(jnp.cos(angles_BTK), jnp.sin(angles_BTK))


def rotate(x_BTHK: Float[Array, "B T H K"], rotation: Rotation) -> Array:
    """Rotate the pairs (i, i + K/2) of every head by their position's angles.

    Args:
        x_BTHK: queries or keys (B, T, H, K).
        rotation: output of `rotary_angles` for the same T and K.

    Returns:
        The rotated heads (B, T, H, K), in the dtype of x; computed in float32.
    """
    cos, sin = rotation.cos_BTK[:, :, None], rotation.sin_BTK[:, :, None]
    left, right = jnp.split(x_BTHK.astype(jnp.float32), 2, axis=-1)
    # Halves, not even and odd entries: the layout of LLaMA's published weights.
    turned = jnp.concatenate(
        [left * cos - right * sin, right * cos + left * sin], axis=-1
    )
    return turned.astype(x_BTHK.dtype)
