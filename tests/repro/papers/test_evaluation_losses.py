"""Losses on other texts: what a forecast sees, and planted relations."""

import numpy as np
import pytest

from lostjax.errors import ConfigError
from lostjax.repro.papers import evaluation_losses as paper
from lostjax.repro.papers.evaluation_losses import (
    ERROR,
    KNOWN,
    METHODS,
    Models,
    Study,
    Target,
    list_targets,
    measure,
)


def test_targets_are_larger_than_all_that_is_seen():
    targets = list_targets()
    assert len(targets) == paper.EXPERIMENT.seeds == 9
    for target in targets:
        assert len(target.model.tokens) == 1
        assert target.smaller.n_params.max() < target.model.n_params[0]
        assert set(target.model.losses) == {KNOWN, *paper.TEXTS}
    with pytest.raises(ConfigError, match="there are 9 targets"):
        measure(Study(), None, 9)


def plant_target():
    """Losses on C4 by a law; code's are a line of them; German has its own law."""
    sizes, ratios = np.geomspace(1e7, 4e8, 4), np.array([5.0, 20.0, 80.0, 320.0])
    n_params = np.append(np.repeat(sizes, 4), 2e9)
    tokens = np.append(np.outer(sizes, ratios).ravel(), 1e11)
    known = 1.8 + 300 / n_params**0.34 + 900 / tokens**0.35
    own = 1.1 + 150 / n_params**0.25 + 2000 / tokens**0.4
    losses = {KNOWN: known, "code": 0.3 + 0.8 * known, "german": own}
    models = Models(n_params, tokens, losses)
    kept = np.arange(len(tokens)) < 16
    return Target(models.take(~kept), models.take(kept))


@pytest.mark.parametrize(
    "method, text, exact",
    [
        ("law of the text", "german", True),
        ("through C4", "code", True),
        ("C4 known", "code", True),
        ("through C4", "german", False),
        ("same as C4", "code", False),
        ("best loss", "code", False),
    ],
)
def test_forecasts_of_planted_losses(method, text, exact):
    target = plant_target()
    error = abs(METHODS[method](target, text) / target.model.losses[text][0] - 1)
    assert error < 2e-3 if exact else error > 5e-3


def test_the_control_uses_another_line():
    target = list_targets()[0]
    first, second = paper.TEXTS[:2]
    control, through = METHODS["another's line"], METHODS["through C4"]
    assert control(target, first) == through(target, second)
    assert control(target, paper.TEXTS[-1]) == through(target, first)


def test_the_error_is_the_mean_over_the_texts():
    target = list_targets()[2]
    errors = [
        abs(target.smaller.losses[text].min() / target.model.losses[text][0] - 1)
        for text in paper.TEXTS
    ]
    found = measure(Study("best loss"), None, 2)
    np.testing.assert_allclose(found[ERROR], 100 * np.mean(errors))
