"""The search for the constants of a loss law: a grid of exponents, then least squares.

E, A and B are solved for at each pair of exponents, where they are linear, with none of
them negative; the best pairs are refined by SciPy's trust-region solver with the
analytic Jacobian. Both terms are taken at the geometric mean of N and D, because A and
alpha are nearly one constant otherwise.
"""

from collections.abc import Mapping
from itertools import product
from typing import NamedTuple

import numpy as np
from scipy.optimize import least_squares, nnls

from lostjax.analysis.scaling.laws import (
    CONSTANTS,
    LawPrior,
    LossFit,
    LossLaw,
    Objective,
    predict_loss,
)
from lostjax.analysis.scaling.points import LossPoints

_EXPONENTS = (0.1, 0.2, 0.35, 0.6, 1.0)
_POLISHED = 4  # starts that are refined
_EXPONENT_BOUNDS = (1e-2, 3.0)
_VAGUE = 0.5  # deviation of a term relative to it: two of them reach 0, or E's share
_SMALLEST_SHARE = 1e-6  # of the loss, for E and both terms: 0 has no logarithm


class Solution(NamedTuple):
    """Where the solver ended."""

    theta: np.ndarray
    cost: float
    success: bool
    jacobian: np.ndarray
    at_bounds: np.ndarray


class Problem:
    """A fit in its own coordinates: log E, log a, log b, alpha, beta.

    a and b are the terms of size and tokens at the geometric mean of the points.
    """

    def __init__(
        self,
        points: LossPoints,
        objective: Objective,
        fixed: Mapping[str, float],
        prior: LawPrior | None,
    ) -> None:
        self.points, self.objective, self.fixed = points, objective, fixed
        x, y = np.log(points.n_params), np.log(points.tokens)
        self.centre = float(x.mean()), float(y.mean())
        self.x, self.y = x - x.mean(), y - y.mean()
        self.target = objective.transform(points.losses)
        self.free = np.array([name not in fixed for name in CONSTANTS])
        self.level = float(points.losses.mean())
        # A constant that is fixed to less has no room of its own to be moved in.
        low = np.log(_SMALLEST_SHARE * self.level)
        high = np.log(100 * self.level)
        self.low = np.array([low, low, low, *[_EXPONENT_BOUNDS[0]] * 2])
        self.high = np.array([high, high, high, *[_EXPONENT_BOUNDS[1]] * 2])
        self.prior = None
        if prior is not None:
            deviations = np.array(
                [prior.log_deviation] * 3 + [prior.exponent_deviation] * 2
            )
            unit = prior.noise * float(self.objective.slope(np.array(self.level)))
            scale = unit * self.level
            self.prior = self.encode(prior.law), scale / deviations

    def encode(self, law: LossLaw) -> np.ndarray:
        """Convert a law to coordinates within the bounds."""
        theta = np.array(
            [
                np.log(law.E) if law.E > 0 else -np.inf,
                np.log(law.A) - law.alpha * self.centre[0],
                np.log(law.B) - law.beta * self.centre[1],
                law.alpha,
                law.beta,
            ]
        )
        return np.asarray(np.clip(theta, self.low, self.high))

    def decode(self, theta: np.ndarray) -> LossLaw:
        """Convert coordinates to a law; fixed constants are exact."""
        found = LossLaw(
            E=float(np.exp(theta[0])),
            A=float(np.exp(theta[1] + theta[3] * self.centre[0])),
            B=float(np.exp(theta[2] + theta[4] * self.centre[1])),
            alpha=float(theta[3]),
            beta=float(theta[4]),
        )
        return found._replace(**self.fixed)

    def complete(self, theta: np.ndarray) -> np.ndarray:
        """Put fixed constants into coordinates; A and B depend on the exponents."""
        theta = theta.copy()
        for place, name in enumerate(CONSTANTS):
            if name in self.fixed and place in (0, 3, 4):
                value = self.fixed[name]
                theta[place] = np.log(value) if place == 0 else value
        for place, name, exponent in ((1, "A", 3), (2, "B", 4)):
            if name in self.fixed:
                middle = self.centre[place - 1]
                theta[place] = np.log(self.fixed[name]) - theta[exponent] * middle
        return theta

    def parts(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Compute E and both terms at the points."""
        return (
            np.full_like(self.x, np.exp(theta[0])),
            np.exp(theta[1] - theta[3] * self.x),
            np.exp(theta[2] - theta[4] * self.y),
        )

    def residuals(self, theta: np.ndarray) -> np.ndarray:
        """Compute law minus loss, and the distance from the prior."""
        loss = sum(self.parts(theta), start=np.zeros(()))
        away = self.objective.transform(loss) - self.target
        if self.prior is None:
            return np.asarray(away)
        middle, scale = self.prior
        return np.asarray(np.concatenate([away, scale * (theta - middle)]))

    def jacobian(self, theta: np.ndarray) -> np.ndarray:
        """Differentiate the residuals by all five coordinates."""
        least, by_size, by_tokens = self.parts(theta)
        # With A fixed, its term moves with alpha about N = 1, not about the centre.
        x = self.x + self.centre[0] * ("A" in self.fixed)
        y = self.y + self.centre[1] * ("B" in self.fixed)
        columns = np.stack(
            [least, by_size, by_tokens, -x * by_size, -y * by_tokens], axis=1
        )
        rows = columns * self.objective.slope(least + by_size + by_tokens)[:, None]
        if self.prior is None:
            return np.asarray(rows)
        pull = np.diag(self.prior[1])
        for place, name in ((1, "A"), (2, "B")):
            if name in self.fixed:
                pull[place, place + 2] -= self.prior[1][place] * self.centre[place - 1]
        return np.concatenate([rows, pull])

    def grid(self) -> list[np.ndarray]:
        """Solve for E and the terms at each pair of exponents; return the best."""
        tried = []
        alphas = [self.fixed["alpha"]] if "alpha" in self.fixed else _EXPONENTS
        betas = [self.fixed["beta"]] if "beta" in self.fixed else _EXPONENTS
        for alpha, beta in product(alphas, betas):
            theta = self.complete(np.array([0.0, 0.0, 0.0, alpha, beta]))
            parts = np.stack(self.parts(theta), axis=1)
            free = self.free[:3]
            rest = self.points.losses - parts[:, ~free].sum(axis=1)
            if free.any():
                shares, _ = nnls(parts[:, free], np.maximum(rest, 0))
                floor = _SMALLEST_SHARE * 10 * self.level
                theta[:3][free] += np.log(np.maximum(shares, floor))
            theta[self.free] = np.clip(theta, self.low, self.high)[self.free]
            tried.append((float(np.sum(self.residuals(theta) ** 2)), theta))
        tried.sort(key=lambda pair: pair[0])
        return [theta for _, theta in tried[:_POLISHED]]

    def solve(self, start: np.ndarray, *, evaluations: int = 1000) -> Solution:
        """Minimise from a start."""
        free = self.free
        start = self.complete(start)
        if not free.any():
            rows = self.residuals(start)
            return Solution(start, float(rows @ rows), True, np.zeros((1, 0)), ~free)

        def put(values: np.ndarray) -> np.ndarray:
            theta = start.copy()
            theta[free] = values
            return self.complete(theta)

        inside = self.low[free] + 1e-9, self.high[free] - 1e-9
        found = least_squares(
            lambda values: self.residuals(put(values)),
            np.clip(start[free], *inside),
            jac=lambda values: self.jacobian(put(values))[:, free],
            bounds=(self.low[free], self.high[free]),
            x_scale="jac",
            loss="linear" if np.isinf(self.objective.delta) else "huber",
            f_scale=1.0 if np.isinf(self.objective.delta) else self.objective.delta,
            xtol=1e-10,
            ftol=1e-12,
            gtol=1e-12,
            max_nfev=evaluations,
        )
        theta = put(found.x)
        edge = 1e-4 * (self.high - self.low)
        at_bounds = free & ((theta < self.low + edge) | (theta > self.high - edge))
        return Solution(
            theta, float(found.cost), found.status > 0, found.jac, at_bounds
        )

    def describe(self, best: Solution, costs: list[float]) -> LossFit:
        """Convert a solution to a fit with its warnings."""
        warnings = []
        if not best.success:
            warnings.append("the solver did not converge")
        for place in np.flatnonzero(best.at_bounds):
            name = CONSTANTS[place]
            warnings.append(f"{name} is at its bound: the points do not determine it")
        least = float(costs[0])
        agreeing = [cost for cost in costs if cost <= least * 1.001 + 1e-12]
        if len(costs) > 1 and len(agreeing) < 2:
            warnings.append("no two starts led to the same constants")
        law = self.decode(best.theta)
        predicted = predict_loss(
            law, n_params=self.points.n_params, tokens=self.points.tokens
        )
        residuals = np.log(self.points.losses) - np.log(predicted)
        covariance = self._covariance(best)
        if covariance is None:
            warnings.append("the points do not determine all constants")
            covariance = np.full((5, 5), np.inf)
        else:
            spreads = np.sqrt(np.diag(covariance))[1:3]
            for what, spread in zip(("size", "tokens"), spreads, strict=True):
                if spread > _VAGUE:
                    warnings.append(
                        f"the term of the {what} is uncertain by {100 * spread:.0f} %"
                    )
        centre = float(np.exp(self.centre[0])), float(np.exp(self.centre[1]))
        return LossFit(law, tuple(warnings), residuals, covariance, centre)

    def _covariance(self, best: Solution) -> np.ndarray | None:
        """Invert the normal equations; None if they are singular."""
        rows, columns = best.jacobian.shape
        covariance = np.zeros((5, 5))
        if not columns:
            return covariance
        lengths = np.linalg.norm(best.jacobian, axis=0)
        if not lengths.min() > 0:
            return None
        _, values, turn = np.linalg.svd(best.jacobian / lengths, full_matrices=False)
        if values[-1] < 1e-7 * values[0]:
            return None
        away = self.residuals(best.theta)
        variance = float(away @ away) / max(1, rows - columns)
        inverse = (turn.T / values**2) @ turn / np.outer(lengths, lengths)
        covariance[np.ix_(self.free, self.free)] = variance * inverse
        return covariance
