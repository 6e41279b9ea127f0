"""Training that takes no time: a bowl over the logarithm of the learning rate."""

import math

import pytest

from lostjax.repro import cells
from lostjax.train.trial import Trial


@pytest.fixture
def fake_training(monkeypatch):
    """Let cells train for nothing; gives the list of configurations trained so far."""
    trained = []

    def start(best=4e-3, diverges=math.inf):
        def trial(config):
            trained.append(config)
            rate = config.optim.learning_rate
            value = 2.0 + math.log2(rate / best) ** 2 + 0.001 * config.seed
            value = math.nan if rate >= diverges else value
            evaluation = type("E", (), {"loss": value, "bits_per_byte": value / 2})()
            return Trial([3.0, value], evaluation, 100)

        monkeypatch.setattr(cells, "run_trial", trial)
        return trained

    return start
