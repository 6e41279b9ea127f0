"""Images of experiments, as rows of pixels: garments at half their size, or digits."""

import dataclasses
from functools import cache

import numpy as np

from lostjax.data import (
    Samples,
    Split,
    load_digits,
    load_fashion_mnist,
    split_samples,
)

GARMENTS, DIGITS = "Fashion-MNIST", "digits"
"""Names of the data; digits are for the smoke scale, which needs no Debian package."""


@cache
def load_rows(data: str) -> Split:
    """Load images as rows (B, M) of float32 in [0, 1].

    Args:
      data: `Fashion-MNIST`: the authors' split, each pixel the mean of 2 x 2, M = 196;
        or `digits`: 1,200 of scikit-learn's and the 597 others, M = 64.

    Raises:
      DataError: the data are not installed.
    """
    if data == DIGITS:
        digits = split_samples(load_digits(), train_rows=1200, seed=0)
        return Split(*(_flatten(part, pool=1) for part in digits))
    return Split(*(_flatten(part, pool=2) for part in load_fashion_mnist()))


def _flatten(samples: Samples, *, pool: int) -> Samples:
    images = np.asarray(samples.inputs)
    n_images, size = len(images), images.shape[1] // pool
    pooled = images.reshape(n_images, size, pool, size, pool).mean((2, 4))
    return dataclasses.replace(samples, inputs=pooled.reshape(n_images, -1))
