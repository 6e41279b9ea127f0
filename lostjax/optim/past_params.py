"""Past parameters kept by the optimiser: a moving average, or a periodic copy.

    average:  v_0 = theta_0,   v_t = decay v_(t-1) + (1 - decay) theta_t
    lagged:   v_t = theta_(t - t mod lag)

MESA uses the average as the past (Du et al., "Sharpness-Aware Training for Free", 2022,
arXiv:2205.14083): `losses.trajectory` keeps the model close to the outputs of v. The
average is also plain weight averaging, the method's control. The lagged copy serves
data that is seen only once, so that no example has past outputs of its own.

Both are optax transformations that pass updates through unchanged and read the
parameters after the update. They must come last in a chain. Inside `optax.MultiSteps`
only completed steps count. For a LOST model the factors are averaged.

Cost: one copy of the parameters, 4 bytes each, or 2 as bfloat16. A bfloat16 average
that is rounded to nearest would never move: at decay .9998 a step adds 2e-4 of the
difference, while the resolution of the type is 4e-3. Narrow averages are therefore
rounded up or down in turns, with frequencies proportional to the distances, so that the
mean over steps is right. The turns follow a Weyl sequence in the step, which needs no
random key.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike, DTypeLike

from lostjax.typing import Array, Int, PyTree


class PastParamsState(NamedTuple):
    """State of `track_past_params` and `track_lagged_params`."""

    step: Int[Array, ""]
    """Number of updates so far, int32."""
    past: PyTree
    """Past parameters, with the structure and shapes of the parameters."""


def track_past_params(
    decay: ArrayLike, *, dtype: DTypeLike | None = None
) -> optax.GradientTransformationExtraArgs:
    """Keep a moving average of the parameters; must come last in a chain.

    Args:
      decay: in [0, 1); the average spans about 1 / (1 - decay) steps (0 keeps the
        present parameters). The authors' code uses .9998 for about 10^5 steps.
      dtype: type of the average; None for the type of the parameters.

    Returns:
      A transformation that leaves updates unchanged; read the average with
      `get_past_params`.

    Raises:
      ValueError: if decay is out of range; from init, if a parameter is not of a float
        type; from update, if it is called without params.

    Example:
      tx = optax.chain(optax.adamw(1e-3), track_past_params(0.99))
      averaged = get_past_params(opt_state)
    """
    if isinstance(decay, int | float) and not 0 <= decay < 1:
        raise ValueError(f"decay={decay}: must lie in [0, 1)")

    def average(past: jax.Array, now: jax.Array, step: jax.Array) -> jax.Array:
        # At least float32: the step of a narrow average is below its resolution.
        wide = jnp.promote_types(past.dtype, jnp.float32)
        # In the wide type: 1 - .9998 in bfloat16 would be 0.
        share = 1 - jnp.asarray(decay, wide)
        old = past.astype(wide)
        # old + share * difference, not decay * old + share * now: exact if both are
        # equal.
        return _round_in_turns(old + share * (now.astype(wide) - old), past.dtype, step)

    return _track(average, dtype=dtype)


def track_lagged_params(
    lag: ArrayLike, *, dtype: DTypeLike | None = None
) -> optax.GradientTransformationExtraArgs:
    """Keep a copy of the parameters that is renewed every `lag` steps; last in a chain.

    The age of the copy cycles through 0, ..., lag - 1 steps. Right after a renewal,
    past and present parameters are equal and a trajectory loss is 0.

    Args:
      lag: steps between renewals, at least 1.
      dtype: type of the copy; None for the type of the parameters.

    Returns:
      A transformation that leaves updates unchanged; read the copy with
      `get_past_params`.

    Raises:
      ValueError: if lag is below 1; from init, if a parameter is not of a float type;
        from update, if it is called without params.
    """
    if isinstance(lag, int | float) and lag < 1:
        raise ValueError(f"lag={lag}: must be at least 1")

    def renew(past: jax.Array, now: jax.Array, step: jax.Array) -> jax.Array:
        # Select by `where`: a copy per step is cheap, and `lag` may be traced.
        return jnp.where(step % lag == 0, now.astype(past.dtype), past)

    return _track(renew, dtype=dtype)


def get_past_params(opt_state: PyTree) -> PyTree:
    """Return the past parameters from an optimiser's state.

    Args:
      opt_state: state of any nest of transformations (`optax.chain`,
        `optax.MultiSteps`, `inject_hyperparams`, `masked`) that contains one state of
        this module.

    Returns:
      The past parameters, in the type in which they are kept.

    Raises:
      ValueError: if there is no such state, or more than one.
    """

    def is_ours(node: object) -> bool:
        return isinstance(node, PastParamsState)

    nodes = jax.tree.leaves(opt_state, is_leaf=is_ours)
    found: list[PastParamsState] = [node for node in nodes if is_ours(node)]
    if len(found) != 1:
        raise ValueError(
            f"opt_state: holds {len(found)} states of past parameters, must be 1; put "
            "track_past_params or track_lagged_params last in the optimiser's chain"
        )
    return found[0].past


def _track(
    follow: Callable[..., jax.Array], *, dtype: DTypeLike | None
) -> optax.GradientTransformationExtraArgs:
    """Build a transformation whose state follows the parameters, leaf by leaf."""

    def init(params: PyTree) -> PastParamsState:
        past = jax.tree_util.tree_map_with_path(partial(_copy, dtype=dtype), params)
        return PastParamsState(jnp.zeros((), jnp.int32), past)

    def update(
        updates: PyTree,
        state: PastParamsState,
        params: PyTree | None = None,
        **extra_args: Any,
    ) -> tuple[PyTree, PastParamsState]:
        del extra_args
        if params is None:
            raise ValueError(
                "params: past parameters require update(..., params=params)"
            )
        step = optax.safe_increment(state.step)
        # The parameters after this update: the reason to come last in a chain.
        now = optax.apply_updates(params, updates)
        past = jax.tree.map(partial(follow, step=step), state.past, now)
        return updates, PastParamsState(step, past)

    return optax.GradientTransformationExtraArgs(init, update)


def _copy(path: tuple[object, ...], leaf: Any, *, dtype: DTypeLike | None) -> Any:
    """Copy a parameter, because a buffer can be donated only once."""
    dtype = leaf.dtype if dtype is None else dtype
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        raise ValueError(f"params: {name} is {leaf.dtype}, must be of a float type")
    # Keep the state countable from shapes alone, without allocating it.
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf.update(dtype=jnp.dtype(dtype))
    return jnp.array(leaf, dtype, copy=True)


def _round_in_turns(values: jax.Array, dtype: Any, step: jax.Array) -> jax.Array:
    """Round to a narrower type, up in a fraction of steps equal to the part cut off."""
    if _mantissa_bits(dtype) >= _mantissa_bits(values.dtype):
        return values.astype(dtype)
    # 2^32 / golden ratio: its multiples modulo 2^32 are spread most evenly. uint32
    # products wrap around by definition. The shift leaves 24 bits, exact in float32.
    turn = (step.astype(jnp.uint32) * jnp.uint32(2654435769)) >> 8
    # Work on the mantissa, so that one grid serves numbers of all magnitudes.
    mantissa, exponent = jnp.frexp(values)
    grid = 2.0 ** (_mantissa_bits(dtype) + 1)
    mantissa = jnp.floor(mantissa * grid + turn.astype(values.dtype) * 2.0**-24) / grid
    # Exact: the value is already on the grid of `dtype`.
    return jnp.ldexp(mantissa, exponent).astype(dtype)


def _mantissa_bits(dtype: Any) -> int:
    return int(jnp.finfo(dtype).nmant)  # type: ignore[no-untyped-call]
