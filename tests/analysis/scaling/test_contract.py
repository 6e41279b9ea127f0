"""Each function of scaling laws: a planted truth is found, what is wrong is named."""

import importlib
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest

from lostjax.analysis import scaling

pytestmark = pytest.mark.newest
NOT_FUNCTIONS = {
    *("PARAMETER_DECAY", "SQUARED_ERROR", "TOKEN_DECAY", "Allocation", "BatchTradeoff"),
    *("Extrapolation", "Forecast", "LawPrior", "LossFit", "LossLaw", "LossPoints"),
    *("Objective", "PowerLaw", "StepFit", "StepLaw", "UnidentifiedLaw"),
}

LAW = scaling.LossLaw(1.7, 400.0, 1500.0, 0.34, 0.36)
SIZES = np.repeat([1e8, 3e8, 1e9, 4e9], 8)
SEEN = np.tile(np.geomspace(2e9, 3e11, 8), 4)
LOSSES = scaling.predict_loss(LAW, n_params=SIZES, tokens=SEEN)
POINTS = scaling.make_points(n_params=SIZES, tokens=SEEN, losses=LOSSES)
for array in (*POINTS, SIZES, SEEN):
    array.setflags(write=False)  # what a function is given it does not change
ONE_RUN = POINTS.take(SIZES == 1e9)
STEPS = scaling.StepLaw(
    scaling.PowerLaw(9e13, 0.08),
    scaling.PowerLaw(50.0, 5.0),
    scaling.PowerLaw(2e3, 0.8),
)
S, B = np.meshgrid([100.0, 1e3, 1e4], [1e3, 1e4, 1e5])
N = np.full(9, 1e6)
SMALL = np.array([1e5, 1e6, 1e7])
CURVE = scaling.loss_trajectory(STEPS, n_params=1e6, steps=S.ravel(), batch=B.ravel())
UNIQUE = SEEN / 4


class Row(NamedTuple):
    """A function, its arguments, what it must come to, and a wrong argument."""

    of: Callable[..., Any]
    given: dict[str, Any]
    truth: Any
    bad: dict[str, Any] = {}
    rtol: float = 1e-6


def law_of(fit, **given):
    return fit(**given).law


ROWS = {
    "make_points": Row(
        lambda **given: scaling.make_points(**given)[3],
        {"n_params": [1.0, 2, 1], "tokens": [1e6] * 3, "losses": [2.0, 3, 4]},
        [0, 1, 0],
        {"losses": [2.0, math.nan, 4]},
    ),
    "cut_tokens": Row(
        lambda **given: scaling.cut_tokens(**given)[1].min(),
        {"points": POINTS, "fewest": 2e9},
        np.unique(SEEN)[1],
        {"fewest": 1e12},
    ),
    "thin_points": Row(
        lambda **given: scaling.thin_points(**given)[1],
        {"points": ONE_RUN, "per_run": 2},
        [2e9, 3e11],
        {"per_run": 1},
    ),
    "predict_loss": Row(
        scaling.predict_loss,
        {"law": LAW, "n_params": 1e8, "tokens": 2e9},
        1.7 + 400 / 1e8**0.34 + 1500 / 2e9**0.36,
    ),
    "absolute_relative_error": Row(
        scaling.absolute_relative_error,
        {"predicted": np.array([1.0, 3.0]), "losses": np.array([2.0, 2.0])},
        0.5,
    ),
    "fit_loss_law": Row(
        partial(law_of, scaling.fit_loss_law),
        {"points": POINTS},
        LAW,
        {"fixed": {"gamma": 1.0}},
    ),
    "log_huber": Row(
        lambda delta: (
            scaling.fit_loss_law(POINTS, objective=scaling.log_huber(delta=delta)).law
        ),
        {"delta": 1e-3},
        LAW,
        {"delta": 0.0},
    ),
    "require_identified": Row(
        lambda points: scaling.require_identified(points) or 0,
        {"points": POINTS},
        0,
    ),
    "transfer_law": Row(
        partial(law_of, scaling.transfer_law),
        {"points": ONE_RUN, "source": LAW},
        LAW,
    ),
    "forecast_loss": Row(
        lambda **given: scaling.forecast_loss(n_draws=20, **given)[0],
        {"points": POINTS, "n_params": [7e9], "tokens": [1e12], "level": 0.9},
        scaling.predict_loss(LAW, n_params=[7e9], tokens=[1e12]),
        {"level": 1.0},
    ),
    "extrapolation_study": Row(
        lambda **given: scaling.extrapolation_study(**given).predicted,
        {"points": POINTS, "fewest_tokens": 2e9},
        LOSSES[-1:],
        {"train_fraction": 0.0},
    ),
    "split_target": Row(
        lambda **given: [len(part.losses) for part in scaling.split_target(**given)],
        {"points": POINTS, "test_from": 0.4},
        [24, 2],
        {"test_from": 1.0},
    ),
    # alpha A = beta B and alpha = beta: half of the logarithm to each.
    "compute_optimal": Row(
        scaling.compute_optimal,
        {"law": scaling.LossLaw(1.0, 10.0, 10.0, 0.5, 0.5), "flops": 6e12},
        scaling.Allocation(1e6, 1e6, 1 + 20e-3),
        {"flops": -1.0},
    ),
    "effective_tokens": Row(
        scaling.effective_tokens,
        {"tokens": np.array([0.5, 1.0, 3.0, 1e9]), "unique": 1.0, "decay": 2.0},
        [0.5, 1.0, 1 + 2 * (1 - math.exp(-1)), 3.0],
        {"decay": 0.0},
    ),
    "effective_params": Row(
        scaling.effective_params,
        {
            "n_params": np.array([1e5, 1e6, 1e16]),
            "law": scaling.LossLaw(1.0, 10.0, 10.0, 0.5, 0.5),
            "unique": 1e6,
            "decay": 5.0,
        },
        [1e5, 1e6, 6e6],
        {"decay": -1.0},
    ),
    "predict_repeated_loss": Row(
        scaling.predict_repeated_loss,
        {"law": LAW, "n_params": 1e7, "tokens": 1e12, "unique": 1e12},
        scaling.predict_loss(LAW, n_params=1e7, tokens=1e12),
        {"token_decay": 0.0},
    ),
    "fit_token_decay": Row(
        scaling.fit_token_decay,
        {
            "law": LAW,
            "unique": UNIQUE,
            "points": POINTS._replace(
                losses=scaling.predict_loss(
                    LAW,
                    n_params=SIZES,
                    tokens=scaling.effective_tokens(SEEN, unique=UNIQUE, decay=9.0),
                )
            ),
        },
        9.0,
        {"unique": UNIQUE[:3]},
        rtol=1e-4,
    ),
    "fit_model_size_law": Row(
        scaling.fit_model_size_law,
        {"n_params": [1e4, 1e6], "final_losses": [8.0, 4.0]},
        # Halved by a factor of 100: L = (N_c / N)^(log 2 / log 100).
        scaling.PowerLaw(1e4 * 8 ** (math.log(100) / math.log(2)), math.log(2, 100)),
        {"n_params": [0.0, 1e6]},
    ),
    "fit_batch_tradeoff": Row(
        scaling.fit_batch_tradeoff,
        {"batch": [1e3, 1e4, 1e5], "steps": [50 + 5e5 / b for b in (1e3, 1e4, 1e5)]},
        scaling.BatchTradeoff(50.0, 5e5, 1e4),
        {"steps": [1.0, math.inf, 1.0]},
    ),
    "fit_critical_batch": Row(
        scaling.fit_critical_batch,
        {"losses": [4.0, 2.0, 1.0], "critical_batches": [1.0, 32.0, 1024.0]},
        scaling.PowerLaw(4.0, 5.0),
        {"losses": [1.0, 2.0, -1.0]},
    ),
    "fit_step_law": Row(
        scaling.fit_step_law,
        {
            "n_params": N,
            "steps": S.ravel(),
            "batch": B.ravel(),
            "losses": np.asarray(CURVE),
            "size": STEPS.size,
            "critical_batch": STEPS.batch,
        },
        STEPS,
        {"steps": S.ravel()[:5]},
        rtol=1e-3,  # losses are float32
    ),
    "fit_step_curves": Row(
        partial(law_of, scaling.fit_step_curves),
        {
            "n_params": np.tile(SMALL, 9),
            "steps": np.repeat(S.ravel(), 3),
            "batch": np.repeat(B.ravel(), 3),
            "losses": np.asarray(
                scaling.loss_trajectory(
                    STEPS,
                    n_params=np.tile(SMALL, 9),
                    steps=np.repeat(S.ravel(), 3),
                    batch=np.repeat(B.ravel(), 3),
                )
            ),
        },
        STEPS,
        {"n_params": [1e6, -1.0]},
        rtol=1e-2,  # losses are float32
    ),
    "critical_batch": Row(
        scaling.critical_batch, {"law": STEPS, "loss": 50.0 / 2}, 32.0
    ),
    "min_steps": Row(
        scaling.min_steps,
        # The converged loss is (9e13 / 9e13)^.08 = 1, and 1 above it takes S_c steps.
        {"law": STEPS, "n_params": 9e13, "loss": np.array([2.0, 1.0, 0.5])},
        [2e3, math.inf, math.inf],
    ),
    "min_tokens": Row(
        scaling.min_tokens,
        {"law": STEPS, "n_params": 9e13, "loss": 2.0},
        2e3 * 25**5,
    ),
    "loss_trajectory": Row(
        scaling.loss_trajectory,
        # At the critical batch twice the least steps are needed.
        {"law": STEPS, "n_params": 9e13, "steps": 4e3, "batch": 25.0**5},
        2.0,
    ),
}
every_row = pytest.mark.parametrize("name", ROWS)


def test_every_public_function_has_a_row():
    assert set(ROWS) == set(scaling.__all__) - NOT_FUNCTIONS


def test_every_public_name_is_on_the_site(request):
    page = (request.config.rootpath / "docs/api/analysis.md").read_text()
    missing = [
        name
        for name in scaling.__all__
        if f":: lostjax.analysis.scaling.{name}\n" not in page
    ]
    assert missing == []


@every_row
def test_the_planted_truth_is_found(name):
    row = ROWS[name]
    np.testing.assert_allclose(
        np.hstack(
            [np.ravel(part) for part in np.atleast_1d(flat(row.of(**row.given)))]
        ),
        np.hstack([np.ravel(part) for part in np.atleast_1d(flat(row.truth))]),
        rtol=row.rtol,
    )


def flat(value):
    """List the numbers of nested tuples."""
    if isinstance(value, tuple):
        return np.hstack([np.ravel(flat(part)) for part in value])
    return np.asarray(value, np.float64)


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.bad])
def test_an_argument_out_of_range_is_named(name):
    row = ROWS[name]
    (wrong,) = row.bad
    named = {
        "cut_tokens": "1e\\+12",
        "predict_repeated_loss": "decay",
        "fit_step_law": "n_params",
    }
    with pytest.raises(ValueError, match=named.get(name, wrong)):
        row.of(**row.given | row.bad)


def test_the_folder_is_imported_as_one_module():
    assert importlib.import_module("lostjax.analysis.scaling") is scaling
