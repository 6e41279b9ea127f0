"""Past parameters, kept by the optimiser: a moving average, or a copy now and then.

    average:  v_0 = theta_0,   v_t = decay v_(t-1) + (1 - decay) theta_t
    lagged:   v_t = theta_(t - t mod lag)

The average is the past of MESA (Du et al., "Sharpness-Aware Training for Free", 2022,
arXiv:2205.14083): the model is kept near what v answers, by `losses.trajectory`. It is
also plain weight averaging, its control. The lagged copy is the past where data is seen
only once, so that no example has past outputs of its own.

Both are optax transformations that let updates through and see the parameters after
them: they must come last in a chain. Inside `optax.MultiSteps` only steps that are
taken count. Of a LOST model it is the factors that are averaged.

Cost: one copy of the parameters, 4 bytes each, or 2 as bfloat16. A bfloat16 average
that was rounded to nearest would never move: at decay .9998 a step adds 2e-4 of the
difference, and the type resolves 4e-3. So narrow averages are rounded up or down in
turns, by how near they are (the turns are a Weyl sequence in the step), and are right
in the mean over steps; there is no random key to keep.
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
    """Updates seen, int32."""
    past: PyTree
    """Past parameters, in the parameters' structure and shapes."""


def track_past_params(
    decay: ArrayLike, *, dtype: DTypeLike | None = None
) -> optax.GradientTransformationExtraArgs:
    """Keep a moving average of the parameters; last in a chain.

    Args:
      decay: in [0, 1); the average reaches back over 1 / (1 - decay) steps (0: the
        parameters themselves). The authors' code takes .9998, for some 10^5 steps.
      dtype: of the average; None keeps the parameters' own.

    Returns:
      A transformation that changes no update; read it with `get_past_params`.

    Raises:
      ValueError: where decay is outside its range, a parameter is not of a float type
        (from init), or update is called without params.

    Example:
      tx = optax.chain(optax.adamw(1e-3), track_past_params(0.99))
      averaged = get_past_params(opt_state)
    """
    if isinstance(decay, int | float) and not 0 <= decay < 1:
        raise ValueError(f"decay={decay}: must lie in [0, 1)")

    def average(past: jax.Array, now: jax.Array, step: jax.Array) -> jax.Array:
        wide = jnp.promote_types(past.dtype, jnp.float32)
        share = 1 - jnp.asarray(decay, wide)
        old = past.astype(wide)
        return _round_in_turns(old + share * (now.astype(wide) - old), past.dtype, step)

    return _track(average, dtype=dtype)


def track_lagged_params(
    lag: ArrayLike, *, dtype: DTypeLike | None = None
) -> optax.GradientTransformationExtraArgs:
    """Keep a copy of the parameters that is renewed every `lag` steps; last in a chain.

    Its age goes through 0, ..., lag - 1 steps: right after it was renewed, past and
    present are one and a trajectory loss is 0.

    Args:
      lag: steps between copies, at least 1.
      dtype: of the copy; None keeps the parameters' own.

    Returns:
      A transformation that changes no update; read it with `get_past_params`.

    Raises:
      ValueError: where lag is below 1, a parameter is not of a float type (from init),
        or update is called without params.
    """
    if isinstance(lag, int | float) and lag < 1:
        raise ValueError(f"lag={lag}: must be at least 1")

    def renew(past: jax.Array, now: jax.Array, step: jax.Array) -> jax.Array:
        return jnp.where(step % lag == 0, now.astype(past.dtype), past)

    return _track(renew, dtype=dtype)


def get_past_params(opt_state: PyTree) -> PyTree:
    """Find the past parameters in an optimiser's state.

    Args:
      opt_state: the state of a chain, however nested (`optax.MultiSteps`,
        `inject_hyperparams`, `masked`), that holds one of this module's.

    Returns:
      The past parameters, of the type they are kept in.

    Raises:
      ValueError: where there are none, or several.
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
    """Build a transformation whose state follows the parameters leaf by leaf."""

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
            raise ValueError("params: past parameters need update(..., params=params)")
        step = optax.safe_increment(state.step)
        now = optax.apply_updates(params, updates)
        past = jax.tree.map(partial(follow, step=step), state.past, now)
        return updates, PastParamsState(step, past)

    return optax.GradientTransformationExtraArgs(init, update)


def _copy(path: tuple[object, ...], leaf: Any, *, dtype: DTypeLike | None) -> Any:
    """Copy a parameter, for a buffer can be given away (donated) only once."""
    dtype = leaf.dtype if dtype is None else dtype
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        raise ValueError(f"params: {name} is {leaf.dtype}, must be of a float type")
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf.update(dtype=jnp.dtype(dtype))
    return jnp.array(leaf, dtype, copy=True)


def _round_in_turns(values: jax.Array, dtype: Any, step: jax.Array) -> jax.Array:
    """Round to a narrower type, up at a share of steps that is the part cut off."""
    if _mantissa_bits(dtype) >= _mantissa_bits(values.dtype):
        return values.astype(dtype)
    # 2^32 / golden ratio: the multiples of no number lie more evenly modulo 2^32.
    turn = (step.astype(jnp.uint32) * jnp.uint32(2654435769)) >> 8
    mantissa, exponent = jnp.frexp(values)
    grid = 2.0 ** (_mantissa_bits(dtype) + 1)
    mantissa = jnp.floor(mantissa * grid + turn.astype(values.dtype) * 2.0**-24) / grid
    return jnp.ldexp(mantissa, exponent).astype(dtype)


def _mantissa_bits(dtype: Any) -> int:
    return int(jnp.finfo(dtype).nmant)  # type: ignore[no-untyped-call]
