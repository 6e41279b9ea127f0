"""Checks of FRUGAL's arguments: each error names the argument and what would work."""

import math
from typing import Any

import jax
import numpy as np
import optax

from lostjax.errors import nearest_hint
from lostjax.optim.splitting.refresh import RefreshRule
from lostjax.optim.splitting.subspace import Subspace
from lostjax.typing import Scalar

SUBSPACE_NAMES = (
    "blocks",
    "columns",
    "coordinates",
    "gradient_svd",
    "random_orthonormal",
    "rows",
)
RULE_NAMES = ("KEEP", "REPROJECT", "RESET")


def check_density(density: Scalar) -> float:
    """Return a density as a float.

    Raises:
      ValueError: if it is not a Python or NumPy number in [0, 1].
    """
    is_number = isinstance(density, (int, float, np.number))
    if not is_number or isinstance(density, bool):
        raise ValueError(
            f"density={density!r}: must be a Python number, because it determines "
            "shapes; under optax.inject_hyperparams list it in static_args=('density',)"
        )
    if not 0 <= density <= 1:
        raise ValueError(f"density={density}: must lie in [0, 1]")
    return float(density)


def check_gap(update_gap: Scalar) -> None:
    """Raise a ValueError unless the gap is traced, or a number in [1, 2^31)."""
    _refuse_schedule("update_gap", update_gap)
    if isinstance(update_gap, jax.core.Tracer):
        return
    if not _is_number(update_gap) or not 1 <= update_gap <= 2**31 - 1:
        raise ValueError(f"update_gap={update_gap!r}: must be a number in [1, 2^31)")


def check_number(name: str, value: Scalar) -> None:
    """Raise a ValueError unless a value is traced, or a finite number."""
    _refuse_schedule(name, value)
    if isinstance(value, jax.core.Tracer):
        return
    if not _is_number(value) or not math.isfinite(float(value)):
        raise ValueError(f"{name}={value!r}: must be a finite number")


def check_rate(learning_rate: optax.ScalarOrSchedule) -> None:
    """Raise a ValueError unless the rate is a number or a function of the step."""
    if not callable(learning_rate):
        check_number("learning_rate", learning_rate)


def check_subspace(subspace: Any) -> Subspace:
    """Return a subspace.

    Raises:
      ValueError: if it is anything else, such as `rows` without its brackets.
    """
    if isinstance(subspace, Subspace):
        return subspace
    name = _name_of(subspace)
    if name in SUBSPACE_NAMES:
        raise ValueError(
            f"subspace={subspace!r}: must be a Subspace; use "
            f"subspace=lostjax.optim.{name}()"
        )
    raise ValueError(
        f"subspace={subspace!r}: must be a Subspace, such as lostjax.optim.rows()"
        + nearest_hint(name, SUBSPACE_NAMES)
    )


def check_rule(on_refresh: Any) -> RefreshRule:
    """Return a refresh rule.

    Raises:
      ValueError: if it is anything else, such as its name.
    """
    if isinstance(on_refresh, RefreshRule):
        return on_refresh
    name = str(on_refresh).upper()
    known = name if name in RULE_NAMES else "RESET"
    raise ValueError(
        f"on_refresh={on_refresh!r}: must be one of {', '.join(RULE_NAMES)} of "
        f"lostjax.optim; use on_refresh=lostjax.optim.{known}"
    )


def check_transformation(
    name: str, tx: Any, *, default: str
) -> optax.GradientTransformationExtraArgs:
    """Return a transformation that takes extra arguments.

    Raises:
      ValueError: if it is anything else, such as its constructor.
    """
    if not isinstance(tx, optax.GradientTransformation):
        raise ValueError(
            f"{name}={tx!r}: must be an optax.GradientTransformation, such as {default}"
        )
    return optax.with_extra_args_support(tx)


def check_rule_or_tree(name: str, value: Any) -> None:
    """Refuse what `optax.inject_hyperparams` makes of a function of the parameters.

    It takes every function for a schedule of the step, and passes on its value at a
    number, such as False.

    Raises:
      ValueError: if the value is an array or text, or False for the whole tree.
    """
    if value is False or isinstance(value, (str, jax.Array, np.ndarray, np.bool_)):
        raise ValueError(
            f"{name}={value!r}: must be a function of the parameters or a tree like "
            "theirs; under optax.inject_hyperparams, which takes functions for "
            f"schedules, list it in static_args=('density', {name!r})"
        )


def _refuse_schedule(name: str, value: Any) -> None:
    if callable(value):
        raise ValueError(
            f"{name}={value}: must be a number; wrap the transformation in "
            "optax.inject_hyperparams to pass a schedule"
        )


def _is_number(value: Any) -> bool:
    kinds = (int, float, np.number, np.ndarray, jax.Array)
    return (
        isinstance(value, kinds) and not isinstance(value, bool) and not np.ndim(value)
    )


def _name_of(value: Any) -> str:
    return value if isinstance(value, str) else getattr(value, "__name__", "")
