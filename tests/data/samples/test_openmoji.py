"""OpenMoji's pictograms: what is loaded, which are variants, and what is refused."""

import json
import sys

import numpy as np
import pytest

from lostjax.data import DataError, load_openmoji
from lostjax.data.samples import openmoji
from lostjax.data.samples.openmoji import PLACES, find_family

SQUARE = '<svg viewBox="0 0 72 72" xmlns="http://www.w3.org/2000/svg">{}</svg>'
LEFT = '<rect width="36" height="72" fill="#FF0000"/>'


def entry(code, annotation, **more):
    fields = {"tags": "", "openmoji_tags": "", "group": "objects", "subgroups": "sign"}
    return {"hexcode": code, "annotation": annotation, **fields, **more}


@pytest.fixture
def package(tmp_path):
    """A package of three pictograms, as npm lays it out."""
    (tmp_path / "color" / "svg").mkdir(parents=True)
    (tmp_path / "data").mkdir()
    entries = [
        entry("1F7E5", "red half", tags="red, half", openmoji_tags="red, square"),
        entry("E001", "nurse woman", group="extras-openmoji"),
        entry("E002", "nurse man", group="extras-openmoji"),
    ]
    (tmp_path / "data" / "openmoji.json").write_text(json.dumps(entries))
    for each in entries:
        path = tmp_path / "color" / "svg" / f"{each['hexcode']}.svg"
        path.write_text(SQUARE.format(LEFT))
    return tmp_path


def needs_resvg():
    pytest.importorskip("resvg_py", reason="lostjax[pictograms] is not installed")


def test_pictograms_are_drawn_on_white(package):
    needs_resvg()
    found = load_openmoji(package, size=8)
    assert found.images.shape == (3, 8, 8, 3) and found.images.dtype == np.float32
    np.testing.assert_array_equal(found.images[0, :, :3], [[[1, 0, 0]] * 3] * 8)
    np.testing.assert_array_equal(found.images[0, :, 5:], 1)
    assert found.tags == (("half", "red", "square"), (), ())
    assert found.annotations[0] == "red half"
    assert found.families == ("1F7E5", "nurse", "nurse")


@pytest.mark.parametrize(
    ("code", "family"),
    [
        ("1F44B-1F3FD", "1F44B"),  # waving hand: medium skin tone
        ("1F469-1F3FD-200D-1F373", "1F9D1-1F373"),  # woman cook
        ("1F9D1-200D-1F373", "1F9D1-1F373"),  # cook
        ("1F6B6-200D-2640-FE0F-200D-27A1-FE0F", "1F6B6"),  # woman walking to the right
        ("1F468-200D-2764-FE0F-200D-1F468", "1F9D1-2764-1F9D1"),
        ("2640", "2640"),  # the sign itself
        ("1F431", "1F431"),
    ],
)
def test_variants_have_one_family(code, family):
    assert find_family(code) == family


def test_package_of_npm():
    needs_resvg()
    if not any((place.expanduser() / "data").is_dir() for place in PLACES):
        pytest.skip("the npm package openmoji is not installed")
    found = load_openmoji(size=8)
    assert len(found.images) == len(found.codes) > 4000
    assert found.images.min() < 0.1 and found.images.max() == 1
    assert all(image.min() < 0.9 for image in found.images)  # none is blank
    family = dict(zip(found.annotations, found.families, strict=True))
    assert family["woman cook: dark skin tone"] == family["cook"]
    assert family["cat face"] != family["dog face"]
    assert len(set(found.families)) < 2300


def damaged(package, what):
    entries = package / "data" / "openmoji.json"
    first = package / "color" / "svg" / "1F7E5.svg"
    if what == "text":
        entries.write_text("[")
    elif what == "empty":
        entries.write_text("[]")
    elif what == "field":
        entries.write_text('[{"hexcode": "1F7E5"}]')
    elif what == "path":
        entries.write_text(json.dumps([entry("../../x", "outside")]))
    elif what == "gone":
        first.unlink()
    elif what == "svg":
        first.write_text("<svg")
    elif what == "bytes":
        first.write_bytes(b"\xff\xfe\x00")


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("text", "is not JSON"),
        ("empty", "must be a list"),
        ("field", "lacks one of"),
        ("path", "is no code"),
        ("gone", "No such file"),
        ("svg", "cannot be drawn"),
        ("bytes", "cannot be drawn"),
    ],
)
def test_damage_is_one_line(package, what, words):
    needs_resvg()
    damaged(package, what)
    with pytest.raises(DataError, match=words) as caught:
        load_openmoji(package, size=8)
    assert "\n" not in str(caught.value)


def test_absence_tells_what_to_install(package, monkeypatch):
    monkeypatch.setattr(openmoji, "PLACES", (package / "nowhere",))
    with pytest.raises(DataError, match="npm install openmoji"):
        load_openmoji()
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(DataError, match=r"pip install 'lostjax\[pictograms\]'"):
        load_openmoji(package)
    with pytest.raises(ValueError, match="size=3"):
        load_openmoji(package, size=3)
