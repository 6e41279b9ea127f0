"""Print the constants that another library fits to the points of a golden test.

    pip install chinchilla==0.2.0 && python tests/analysis/scaling/chinchilla_golden.py

It minimises the Huber loss of log L by BFGS in extended precision from a grid of
starts. Its dependencies are too many for the tests, which hold its answer.
"""

import tempfile
from functools import partial

import numpy as np


def make_table():
    """Make losses of 6 sizes x 8 numbers of tokens: 1 % noise, and two outliers."""
    rng = np.random.default_rng(7)
    n_params = np.repeat(np.geomspace(5e7, 5e9, 6), 8)
    tokens = np.tile(np.geomspace(1e9, 2e11, 8), 6)
    losses = 1.8 + 480 / n_params**0.35 + 2100 / tokens**0.37
    losses *= np.exp(0.01 * rng.standard_normal(losses.size))
    losses[[5, 30]] *= 1.3
    return n_params, tokens, losses


def main():
    from chinchilla import Chinchilla
    from chinchilla._metrics import log_huber

    with tempfile.TemporaryDirectory() as folder:
        fit = Chinchilla(
            folder,
            param_grid={
                "E": [1.0, 2.0],
                "A": [100.0, 1000.0],
                "B": [500.0, 5000.0],
                "alpha": [0.3, 0.4],
                "beta": [0.3, 0.4],
            },
            loss_fn=partial(log_huber, delta=1e-3),
            log_level=40,
        )
        for size, seen, loss in zip(*make_table(), strict=True):
            fit.append(C=6 * size * seen, N=size, D=seen, loss=loss)
        fit.fit(parallel=False)
        print({name: float(value) for name, value in fit.params.items()})


if __name__ == "__main__":
    main()
