"""Complete optimisers: transformations with weight decay and a learning rate.

To build your own chain, use `scale_by_frugal`, which has neither.
"""

from collections.abc import Callable

import optax
from jax.typing import DTypeLike

from lostjax.optim.splitting.arguments import (
    check_number,
    check_rate,
    check_rule_or_tree,
)
from lostjax.optim.splitting.matrices import MatricesOrRule
from lostjax.optim.splitting.refresh import RESET, RefreshRule
from lostjax.optim.splitting.subspace import Subspace
from lostjax.optim.splitting.transform import scale_by_frugal
from lostjax.typing import PyTree, Scalar


def frugal(
    learning_rate: optax.ScalarOrSchedule = 1e-3,
    *,
    density: Scalar = 0.25,
    update_gap: Scalar = 200,
    subspace: Subspace | None = None,
    state_free: optax.GradientTransformation | None = None,
    free_scale: Scalar = 1.0,
    on_refresh: RefreshRule = RESET,
    matrices: MatricesOrRule | None = None,
    seed: Scalar = 0,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    mu_dtype: DTypeLike | None = None,
    weight_decay: Scalar = 0.0,
    mask: PyTree | Callable[[PyTree], PyTree] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Build FRUGAL: Adam for a quarter of each matrix, sign descent for the rest.

    This is a complete optimiser for any tree. The defaults are those of the authors'
    scripts, including the learning rate, except that it uses rows instead of blocks,
    because every matrix has rows.

    Args:
      learning_rate: a number, or a schedule of the step.
      density: share of each matrix with state, in [0, 1]; see `scale_by_frugal`.
      update_gap: steps between refreshes, at least 1.
      subspace: the part with state; None for `rows()`.
      state_free: transformation of the other part; None for `optax.scale_by_sign()`.
      free_scale: learning rate of that part relative to the part with state (the
        authors fine-tune with 0.1).
      on_refresh: RESET, KEEP, or REPROJECT.
      matrices: the arrays to split; None for `find_matrices`.
      seed: seed of all random choices.
      b1: decay of Adam's first moment.
      b2: decay of Adam's second moment.
      eps: added to the square root of the second moment.
      mu_dtype: type of the first moment; None for the type of the gradient.
      weight_decay: decoupled weight decay, multiplied by the learning rate.
      mask: the arrays that decay, as in `optax.adamw`; None for all.

    Returns:
      The transformation; add its updates to the parameters.

    Raises:
      ValueError: under the conditions of `scale_by_frugal`.

    Example:
      >>> tx = optax.chain(optax.clip_by_global_norm(1.0), lostjax.optim.frugal())
      >>> state = tx.init(params)
    """
    check_rate(learning_rate)
    check_number("weight_decay", weight_decay)
    check_rule_or_tree("mask", mask)
    adam = optax.scale_by_adam(b1=b1, b2=b2, eps=eps, mu_dtype=mu_dtype)
    return optax.chain(
        scale_by_frugal(
            density=density,
            update_gap=update_gap,
            subspace=subspace,
            state_full=adam,
            state_free=state_free,
            free_scale=free_scale,
            on_refresh=on_refresh,
            matrices=matrices,
            seed=seed,
        ),
        _add_decay(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )


def _add_decay(
    weight_decay: Scalar, mask: PyTree | Callable[[PyTree], PyTree] | None
) -> optax.GradientTransformation:
    """Build weight decay, or nothing at rate 0: 0 * params would read them all."""
    if isinstance(weight_decay, (int, float)) and weight_decay == 0:
        return optax.identity()
    return optax.add_decayed_weights(weight_decay, mask)
