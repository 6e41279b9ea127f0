"""The best use of computing, against another solver; tokens that are seen again."""

import numpy as np
from scipy.optimize import minimize_scalar

from lostjax.analysis.scaling import (
    LossLaw,
    compute_optimal,
    effective_params,
    effective_tokens,
    predict_loss,
    predict_repeated_loss,
)

LAW = LossLaw(1.7, 400.0, 1500.0, 0.34, 0.28)
FLOPS = np.array([1e18, 1e21, 1e24])


def test_no_other_size_is_better():
    best = compute_optimal(LAW, FLOPS, flops_per_token=8.0)
    for flops, n_params, tokens, loss in zip(FLOPS, *best, strict=True):

        def spend(log_size, flops=flops):
            size = np.exp(log_size)
            return float(predict_loss(LAW, n_params=size, tokens=flops / (8 * size)))

        found = minimize_scalar(spend, bounds=(5, 40), options={"xatol": 1e-9})
        np.testing.assert_allclose(n_params, np.exp(found.x), rtol=1e-4)
        np.testing.assert_allclose(loss, found.fun, rtol=1e-12)
        np.testing.assert_allclose(8 * n_params * tokens, flops)


def test_a_model_too_large_for_its_tokens_counts_as_the_optimal_one():
    best = compute_optimal(LAW, FLOPS)
    worth = effective_params(
        30 * best.n_params, law=LAW, unique=best.tokens, decay=1e-9
    )
    np.testing.assert_allclose(worth, best.n_params, rtol=1e-6)
    same = effective_params(best.n_params / 2, law=LAW, unique=best.tokens)
    np.testing.assert_allclose(same, best.n_params / 2)


def test_a_repetition_is_worth_less_and_never_harms():
    epochs = np.array([1, 2, 4, 16, 100, 1e6])
    worth = effective_tokens(epochs * 1e9, unique=1e9)
    assert worth[0] == 1e9 and 1.9e9 < worth[1] < 2e9
    assert (np.diff(worth) > 0).all() and (np.diff(worth / epochs) < 0).all()
    losses = predict_repeated_loss(
        LAW, n_params=1e5, tokens=epochs * 1e9, unique=1e9
    )  # far fewer parameters than the tokens can use
    assert (np.diff(losses) < 0).all()
    floor = predict_loss(LAW, n_params=1e5, tokens=1e9 * (1 + 15.387756))
    np.testing.assert_allclose(losses[-1], floor, rtol=1e-6)
