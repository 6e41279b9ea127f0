"""Build the optax chain of a configuration."""

from functools import partial
from typing import Any

import jax
import optax
from optax.contrib import (
    MuonDimensionNumbers,
    ScheduleFreeState,
    muon,
    schedule_free,
    schedule_free_eval_params,
)

from lostjax import optim
from lostjax.steps.state import TrainState, model_variables
from lostjax.train.build.schedule import build_schedule
from lostjax.train.config.schema import OptimConfig
from lostjax.typing import PyTree, Variables

SUBSPACES = {
    "columns": optim.columns,
    "rows": optim.rows,
    "coordinates": optim.coordinates,
    "blocks": optim.blocks,
    "svd": optim.gradient_svd,
    "orthonormal": optim.random_orthonormal,
}
ORDERS = {
    "random": optim.random_order,
    "ascending": optim.ascending_order,
    "descending": optim.descending_order,
    "mirror": optim.mirror_order,
}
STATE_FREE = {
    "sign": optax.scale_by_sign,
    "sgd": optax.identity,
    "none": optax.set_to_zero,
}
REFRESH = {"reset": optim.RESET, "keep": optim.KEEP, "reproject": optim.REPROJECT}

GALORE_SCALE = 0.25
"""Scale of GaLore's updates of matrices, from its authors' scripts."""


def build_optimizer(
    config: OptimConfig, *, steps: int, multipliers: PyTree | None = None
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Build the chain: clip, optimiser, weight decay, learning rate, kept zeros.

    Args:
      config: see `OptimConfig`; already checked.
      steps: length of the schedule, positive.
      multipliers: learning-rate multipliers by tensor; None: all are 1.

    Returns:
      The transformation and its schedule (step -> learning rate).
    """
    is_free = config.name == "schedule_free"
    schedule = build_schedule(config, steps=steps)
    clip = optax.clip_by_global_norm(config.clip) if config.clip else optax.identity()
    parts = [_build_direction(config)]
    if multipliers is not None:
        parts.append(optim.scale_by_tensor(multipliers))
    if config.weight_decay:
        # The schedule multiplies decay by its peak; independent decay divides by it.
        unit = config.learning_rate if config.independent_decay else 1.0
        decay = config.weight_decay / unit
        parts.append(optax.add_decayed_weights(decay, mask=optim.mask_decayed))
    parts.append(optax.scale_by_learning_rate(schedule))
    if config.keep_zeros:
        parts.append(optim.mask_updates(_find_nonzero))
    if is_free:
        tail = schedule_free(optax.chain(*parts), schedule, b1=config.b1)
        return optax.chain(clip, tail), schedule
    return optax.chain(clip, *parts), schedule


def decomposes_gradients(config: OptimConfig) -> bool:
    """Return whether updates come from an SVD, which can fail on a finite gradient."""
    by_svd = config.name == "frugal" and config.frugal.subspace == "svd"
    return config.name == "galore" or by_svd


def trains_elsewhere(config: OptimConfig) -> bool:
    """Return whether training uses other parameters than evaluation does."""
    return config.name == "schedule_free"


def evaluation_variables(state: TrainState) -> Variables:
    """Return the variables with which a state is evaluated and generates text.

    They hold the state's parameters, except with a schedule-free optimiser: it takes
    gradients between its iterate and the average, and the average is evaluated.
    """
    variables = model_variables(state)
    for part in jax.tree.leaves(state.opt_state, is_leaf=_is_schedule_free):
        if _is_schedule_free(part):
            params = schedule_free_eval_params(part, state.params)
            return {**variables, "params": params}
    return variables


def find_layer_matrices(params: PyTree, *, full_state: str | None) -> PyTree:
    """Find the matrices of a model whose layers are stacked.

    Args:
      params: parameters of `nn.Transformer`; the first axis of every array under
        `layers` is the layer.
      full_state: see `optim.find_matrices`.

    Returns:
      The labels of `optim.find_matrices`, with None for stacked vectors (SLTrain's
      `values`), whose first axis is the layer and not an axis of a matrix.
    """

    def label(path: tuple[Any, ...], leaf: Any, numbers: Any) -> Any:
        is_stacked = getattr(path[0], "key", None) == "layers"
        return None if is_stacked and leaf.ndim < 3 else numbers

    found = optim.find_matrices(params, full_state=full_state)
    return jax.tree.map_with_path(label, params, found)


def _build_direction(config: OptimConfig) -> optax.GradientTransformation:
    """Build the transform from gradients to updates of learning rate 1."""
    adam = optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps)
    if config.name == "adamw":
        return adam
    if config.name == "muon":
        return _build_muon(config)
    if config.name == "sign_sgd":
        return optax.scale_by_sign()
    if config.name == "schedule_free":
        # schedule_free replaces Adam's first moment by its own average: this is optax's
        # schedule_free_adamw with the order and the mask of decay used here.
        return optax.scale_by_rms(
            decay=config.b2, eps=config.eps, eps_in_sqrt=False, bias_correction=True
        )
    split = config.frugal
    frugal = partial(
        optim.scale_by_frugal,
        density=split.density,
        update_gap=split.update_gap,
        state_full=adam,
        matrices=partial(find_layer_matrices, full_state=config.full_state),
    )
    if config.name == "galore":
        return optax.chain(
            frugal(
                subspace=optim.gradient_svd(stagger=split.stagger),
                state_free=optax.set_to_zero(),
                on_refresh=optim.KEEP,
            ),
            optax.masked(
                optax.scale(GALORE_SCALE),
                partial(_mask_matrices, full_state=config.full_state),
            ),
        )
    options: dict[str, Any] = {}
    if split.subspace == "blocks":
        options["order"] = ORDERS[split.block_order]
    if split.subspace == "svd":
        options["stagger"] = split.stagger
    return frugal(
        subspace=SUBSPACES[split.subspace](**options),
        state_free=STATE_FREE[split.state_free](),
        free_scale=split.free_scale,
        on_refresh=REFRESH[split.on_refresh],
    )


def _build_muon(config: OptimConfig) -> optax.GradientTransformation:
    whole = muon(
        1.0,
        eps=config.eps,
        adam_b1=config.b1,
        adam_b2=config.b2,
        muon_weight_dimension_numbers=partial(
            find_layer_matrices, full_state=config.full_state
        ),
        # The RMS of Adam's updates, so that one learning rate suits both halves.
        consistent_rms=0.2,
    )
    # optax's muon returns a descent direction; the other branches return ascent
    # directions, to which decay and the learning rate are applied later. Muon's own
    # decay is not used, because it would decay norm scales too.
    return optax.chain(whole, optax.scale(-1.0))


def _find_nonzero(params: PyTree) -> PyTree:
    """Make the mask of weights to train, from the parameters that training starts with.

    Other arrays are trained whole: a bias of zero has not been pruned.
    """
    is_matrix = _mask_matrices(params, full_state=None)
    return jax.tree.map(
        lambda leaf, chosen: leaf != 0 if chosen else True, params, is_matrix
    )


def _mask_matrices(params: PyTree, *, full_state: str | None) -> PyTree:
    return jax.tree.map(
        lambda numbers: numbers is not None,
        find_layer_matrices(params, full_state=full_state),
        is_leaf=_is_label,
    )


def _is_label(x: Any) -> bool:
    return x is None or isinstance(x, MuonDimensionNumbers)


def _is_schedule_free(x: Any) -> bool:
    return isinstance(x, ScheduleFreeState)
