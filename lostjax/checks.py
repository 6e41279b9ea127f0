"""Checks of arguments that losses and scores share.

Values are checked only if they are known: under `jax.jit` a label outside its range
does not raise, and each docstring states what happens instead.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def require_shape(name: str, array: jax.Array, shape: tuple[int, ...]) -> None:
    """Raise ValueError if an array does not have a shape."""
    if array.shape != shape:
        raise ValueError(f"{name}: shape {array.shape}, must be {shape}")


def require_examples(name: str, array: jax.Array, *, at_least: int = 1) -> None:
    """Raise ValueError if an array holds too few examples to score."""
    if not array.size or len(array) < at_least:
        raise ValueError(
            f"{name}: shape {array.shape}, needs {at_least} example(s) or more"
        )


def require_classes(name: str, ids: jax.Array, n_classes: int) -> None:
    """Raise ValueError if a known class lies outside [0, n_classes)."""
    if (wrong := _first(ids, lambda known: (known < 0) | (known >= n_classes))) is None:
        return
    raise ValueError(f"{name}: holds {wrong}, must lie in [0, {n_classes})")


def require_binary(name: str, flags: jax.Array) -> None:
    """Raise ValueError if a known flag is neither 0 nor 1."""
    wrong = _first(flags, lambda known: (known != 0) & (known != 1))
    if wrong is not None:
        raise ValueError(f"{name}: holds {wrong}, must be 0 or 1")


def require_weights(name: str, weights: jax.Array) -> None:
    """Raise ValueError if a known weight is negative, infinite or NaN."""
    wrong = _first(weights, lambda known: ~((known >= 0) & (known < np.inf)))
    if wrong is not None:
        raise ValueError(f"{name}: holds {wrong}, must be finite and not negative")


def require_probabilities(name: str, values: jax.Array) -> None:
    """Raise ValueError if a known value lies outside [0, 1], but for a rounding."""
    wrong = _first(values, lambda known: ~((known >= 0) & (known <= 1 + 1e-5)))
    if wrong is not None:
        raise ValueError(f"{name}: holds {wrong}, must lie in [0, 1]")


def require_positive(name: str, value: Any) -> None:
    """Raise ValueError if a known number is not positive, or NaN."""
    if not isinstance(value, jax.core.Tracer) and not value > 0:
        raise ValueError(f"{name}={value}: must be positive")


def require_not_negative(name: str, value: Any) -> None:
    """Raise ValueError if a known number is negative or NaN."""
    if not isinstance(value, jax.core.Tracer) and not value >= 0:
        raise ValueError(f"{name}={value}: must be 0 or positive")


def require_increasing(name: str, values: jax.Array) -> None:
    """Raise ValueError if known numbers do not increase, or one is NaN."""
    if not isinstance(values, jax.core.Tracer) and not np.all(np.diff(values) > 0):
        raise ValueError(f"{name}: {np.asarray(values).tolist()}, must increase")


def nan_if(condition: jax.Array, score: jax.Array) -> jax.Array:
    """Replace a score by NaN if a condition holds."""
    return jnp.where(condition, jnp.nan, score)


def _first(array: jax.Array, is_wrong: Any) -> Any:
    """Return the first wrong value; None if there is none or it cannot be known."""
    if isinstance(array, jax.core.Tracer):
        return None
    known = np.asarray(array)
    wrong = known[is_wrong(known)]
    return wrong[0] if wrong.size else None
