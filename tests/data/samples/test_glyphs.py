"""Glyphs of matplotlib's fonts: what is drawn, what is left out, what is refused."""

import numpy as np
import pytest

from lostjax.data import DataError, load_glyphs
from lostjax.data.samples import glyphs


def test_the_glyphs_are_letters_in_sixteen_faces():
    found = load_glyphs(size=16)
    n_letters = len(found.names)
    assert n_letters > 150 and len(set(found.names)) == n_letters
    assert found.inputs.shape == (16 * n_letters, 16, 16)
    assert found.inputs.dtype == np.float32 and found.labels.dtype == np.int32
    assert found.inputs.min() == 0 and found.inputs.max() == 1
    assert (np.bincount(found.labels) == 16).all()
    assert (found.inputs.sum(axis=(1, 2)) > 2).all(), "none is blank"
    assert {"A", "z", "Ω", "Ж"} <= set(found.names)
    # Look like the Latin A, o and e; with an accent.
    assert not {"Α", "ο", "е", "é"} & set(found.names)
    pictures = found.inputs.reshape(n_letters, 16, -1)
    upright = pictures[:, 0]
    assert len(np.unique(upright, axis=0)) == n_letters
    assert np.abs(pictures[:, 0] - pictures[:, 2]).mean() > 0.02, "bold is bolder"


def test_what_is_missing_is_one_line(monkeypatch):
    with pytest.raises(ValueError, match=r"size=4: must lie in \[8, 256\]"):
        load_glyphs(size=4)
    with monkeypatch.context() as patch:
        patch.setattr(glyphs, "FACES", ("NoFace",))
        with pytest.raises(DataError, match=r"NoFace\.ttf: is missing; reinstall"):
            load_glyphs()
    monkeypatch.setattr(glyphs.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(DataError, match="matplotlib's fonts: pip install matplotlib"):
        load_glyphs()


def test_a_damaged_font_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "bad.ttf").write_bytes(b"\0\1\0\0" + bytes(20))
    monkeypatch.setattr(glyphs, "_find_fonts", lambda: [tmp_path / "bad.ttf"])
    with pytest.raises(DataError, match="a font cannot be read"):
        load_glyphs()
