"""All constants of a step law at once, from loss curves of runs that need not converge.

    L ~ (N_c / N)^alpha_N + (S_c / S_min)^alpha_S      S_min = S / (1 + B_crit(L) / B)

The fits of `step_law`, one after the other, need converged losses, and levels that all
batches reach. Here the six constants minimise the squared difference of log L over all
points together. The measured loss is taken in B_crit(L), so that no root has to be
found; `loss_trajectory` finds it when a curve is predicted. On exact curves both agree.
Several starts; float64 NumPy.
"""

from itertools import product
from typing import NamedTuple

import numpy as np
from scipy.optimize import least_squares
from scipy.special import expit

from lostjax.analysis.scaling.points import Numbers, UnidentifiedLaw, require_positive
from lostjax.analysis.scaling.step_law import PowerLaw, StepLaw

# Exponents have floors so that scales, which are powers of 1 / exponent, stay finite.
_LOW = np.array([-12.0, 5e-3, -12.0, 0.02, -3.0, 0.05])
_HIGH = np.array([5.0, 2.0, 5.0, 4.0, 25.0, 25.0])
_NAMES = ("N_c", "alpha_N", "S_c", "alpha_S", "L_B", "1 / alpha_B")
_CONSTANTS = len(_NAMES)


class StepFit(NamedTuple):
    """A fitted step law and how far it can be trusted."""

    law: StepLaw
    warnings: tuple[str, ...]
    """Why it should not be extrapolated; empty if there is no reason."""
    residuals: np.ndarray
    """log loss minus log law at each point, with the measured loss in B_crit."""


def fit_step_curves(
    *, n_params: Numbers, steps: Numbers, batch: Numbers, losses: Numbers
) -> StepFit:
    """Fit a step law to points of loss curves.

    Args:
      n_params: parameters without embeddings of each point's model, two or more sizes.
      steps: steps up to each point, after the warm-up.
      batch: tokens a step, three or more different ones.
      losses: loss there, nats.

    Returns:
      The law, with warnings for constants that the points leave open.

    Raises:
      UnidentifiedLaw: if there are too few sizes, batches or points, or larger models
        are not better.
      ValueError: if a value is not positive and finite, or lengths differ.
    """
    given = {"n_params": n_params, "steps": steps, "batch": batch, "losses": losses}
    found = {name: require_positive(name, values) for name, values in given.items()}
    if len({len(values) for values in found.values()}) > 1:
        counts = ", ".join(f"{len(values)} {name}" for name, values in found.items())
        raise ValueError(f"lengths differ: {counts}")
    _require_identified(*found.values())
    logs = np.log(list(found.values()))
    middle = logs.mean(axis=1)
    x, s, b, y = logs - middle[:, None]

    def terms(theta: np.ndarray) -> tuple[np.ndarray, ...]:
        """Compute logs of both terms, of S_min, and of B_crit / B."""
        size, alpha_n, step, alpha_s, needed, growth = theta
        log_ratio = needed - growth * y - b
        least = s - np.logaddexp(0.0, log_ratio)
        return size - alpha_n * x, step - alpha_s * least, least, log_ratio

    def residuals(theta: np.ndarray) -> np.ndarray:
        by_size, by_steps, *_ = terms(theta)
        return np.asarray(np.logaddexp(by_size, by_steps) - y)

    def slopes(theta: np.ndarray) -> np.ndarray:
        # Differences would take six more evaluations for each of hundreds of steps.
        by_size, by_steps, least, log_ratio = terms(theta)
        share = expit(by_steps - by_size)
        lost = share * theta[3] * expit(log_ratio)
        rest = 1 - share
        return np.stack([rest, -rest * x, share, -share * least, lost, -lost * y], 1)

    tried = [
        least_squares(
            residuals,
            np.array([-0.3, alpha_n, -1.2, alpha_s, 0.0, growth]),
            jac=slopes,
            bounds=(_LOW, _HIGH),
            x_scale="jac",
            max_nfev=300,
        )
        for alpha_n, alpha_s, growth in product((0.05, 0.2), (0.4, 0.9), (2.0, 8.0))
    ]
    best = min(tried, key=lambda one: float(one.cost))
    if best.x[1] < 1.01 * _LOW[1]:
        raise UnidentifiedLaw(
            "larger models are not better after the same steps at the same batch; "
            "tune the learning rate of each size"
        )
    return StepFit(
        law=_decode(best.x, middle),
        warnings=tuple(_list_warnings(best.x, best.jac, success=best.status > 0)),
        residuals=-residuals(best.x),
    )


def _require_identified(
    n_params: np.ndarray, steps: np.ndarray, batch: np.ndarray, losses: np.ndarray
) -> None:
    for name, values, fewest in (
        ("model size(s)", n_params, 2),
        ("batch size(s)", batch, 3),
        ("number(s) of steps", steps, 3),
    ):
        if (count := len(np.unique(values))) < fewest:
            raise UnidentifiedLaw(f"{count} {name}: needs {fewest} or more")
    if len(losses) <= _CONSTANTS:
        raise UnidentifiedLaw(
            f"{len(losses)} points for {_CONSTANTS} constants: needs more"
        )
    most = max(len(np.unique(batch[n_params == size])) for size in np.unique(n_params))
    if most < 2:
        raise UnidentifiedLaw(
            "no model size was trained at two batch sizes, so that size and batch "
            "cannot be told apart"
        )


def _decode(theta: np.ndarray, middle: np.ndarray) -> StepLaw:
    """Convert centred coordinates to scales: where each power is 1."""
    size, alpha_n, step, alpha_s, needed, growth = map(float, theta)
    x, s, b, y = map(float, middle)
    # The powers are of the loss itself, the coordinates of its ratio to the middle.
    return StepLaw(
        size=PowerLaw(float(np.exp(x + (size + y) / alpha_n)), alpha_n),
        batch=PowerLaw(float(np.exp(y + (needed + b) / growth)), growth),
        step=PowerLaw(float(np.exp(s + (step + y) / alpha_s)), alpha_s),
    )


def _list_warnings(
    theta: np.ndarray, jacobian: np.ndarray, *, success: bool
) -> list[str]:
    warnings = [] if success else ["the solver did not converge"]
    edge = 1e-3 * (_HIGH - _LOW)
    for place in np.flatnonzero((theta < _LOW + edge) | (theta > _HIGH - edge)):
        warnings.append(f"{_NAMES[place]} is at its bound: the points leave it open")
    lengths = np.linalg.norm(jacobian, axis=0)
    values = np.linalg.svd(jacobian / np.maximum(lengths, 1e-30), compute_uv=False)
    if values[-1] < 1e-6 * values[0]:
        warnings.append("the points do not determine all constants")
    return warnings
