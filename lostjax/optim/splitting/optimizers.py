"""Complete optimisers: transformations with decay and a learning rate.

For a chain of one's own, take the transformation without: `scale_by_frugal`.
"""

from collections.abc import Callable

import optax
from jax.typing import DTypeLike

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
    """FRUGAL: Adam's state for a quarter of each matrix, sign descent for the rest.

    A complete optimiser on any tree. The defaults are those of the authors' scripts,
    their learning rate included, with rows for blocks, which every matrix has.

    Args:
      learning_rate: a number, or a schedule of the step.
      density: share of each matrix with a state, in [0, 1]; see `scale_by_frugal`.
      update_gap: steps between refreshes, at least 1.
      subspace: which part has a state; None for `rows()`.
      state_free: what the other part does; None for `optax.scale_by_sign()`.
      free_scale: learning rate of that part relative to the other's (the authors
        fine-tune with 0.1).
      on_refresh: RESET, KEEP, or REPROJECT.
      matrices: which arrays are split; None for `find_matrices`.
      seed: of every random choice.
      b1: decay of Adam's first moment.
      b2: decay of Adam's second moment.
      eps: added to the root of the second moment.
      mu_dtype: type of the first moment; None for the gradient's.
      weight_decay: decoupled, times the learning rate.
      mask: which arrays decay, as in `optax.adamw`; None for all.

    Returns:
      The transformation, descending: add its updates to the parameters.

    Raises:
      ValueError: see `scale_by_frugal`.

    Example:
      >>> tx = optax.chain(optax.clip_by_global_norm(1.0), lostjax.optim.frugal())
      >>> state = tx.init(params)
    """
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
    """Decay by a number that may be traced; adding 0 * params would read them all."""
    if isinstance(weight_decay, (int, float)) and weight_decay == 0:
        return optax.identity()
    return optax.add_decayed_weights(weight_decay, mask)
