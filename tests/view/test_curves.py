"""Curves and heat maps: values are where they belong, in the colours of the page."""

import re

import numpy as np
import pytest

from lostjax.view.axes import Axis
from lostjax.view.curves import BINS, Curve, draw_curves
from lostjax.view.heat_maps import draw_heat_map

STEP = Axis("step", from_zero=True, whole=True)
LOSS = Axis("loss")
MIX = r"color-mix\(in oklab, var\(--series-1\) (\d+)%"


def draw(*curves, x=STEP, y=LOSS, size=(472, 330), name="it", **options):
    return draw_curves(
        curves, name=name, description="what it is", x=x, y=y, size=size, **options
    )


def points_of(drawing, colour="--series-1"):
    """Corners of the unbroken lines that are drawn in a colour, in pixels."""
    paths = re.findall(rf'<path d="([^"]*)"[^>]*stroke: var\({colour}\)', drawing)
    assert all(path.count("M") == 1 for path in paths)
    return [np.array(re.findall(r"[-\d.]+", path), float) for path in paths]


def test_points_are_where_their_values_are(read_page):
    drawing = draw(Curve("", np.array([1, 2, 4]), np.array([5.0, 4.0, 3.0])))
    read_page(drawing)
    (path,) = points_of(drawing)
    across, down = np.diff(path.reshape(3, 2), axis=0).T
    assert across[1] == pytest.approx(2 * across[0], rel=1e-4)  # step 3 is absent
    assert down[1] == pytest.approx(down[0], rel=1e-4) and down[0] > 0


def test_decades_are_equally_wide_on_a_logarithmic_axis():
    """Without a gap, though the last decade is ten times as wide as the one before."""
    x = np.array([1e-4, 1e-3, 1e-2, 1e-1, 1.0])
    drawing = draw(Curve("", x, np.arange(5.0)), x=Axis("rate", log=True))
    (path,) = points_of(drawing)
    across = np.diff(path.reshape(5, 2), axis=0).T[0]
    assert across == pytest.approx(across.mean(), rel=1e-3)
    assert all(f">{tick}<" in drawing for tick in ("0.0001", "0.001", "0.01", "0.1"))


def test_each_value_that_is_not_finite_has_a_mark():
    y = np.ones(10)
    y[[2, 3]], y[7] = np.nan, np.inf
    drawing = draw(Curve("", np.arange(10), y))
    marks = re.findall(r'<use [^>]*x="([\d.]+)"[^>]*--alarm', drawing)
    assert len(marks) == 3
    longer = draw(Curve("", np.arange(10_000), np.full(10_000, np.nan)))
    assert 300 < len(re.findall("<use [^>]*--alarm", longer)) <= BINS + 1


def test_many_curves_are_drawn_in_shades_of_the_page(read_page):
    curves = [Curve(str(n), np.arange(3), np.full(3, float(n))) for n in range(5)]
    drawing = draw(*curves)
    read_page(drawing)
    mixes = re.findall(
        r"stroke: color-mix\(in oklab, var\(--series-1\) (\d+)%", drawing
    )
    assert mixes == ["100", "75", "50", "25", "0"]
    assert set(re.findall("#[0-9a-f]{6}", drawing)) <= {"#000000", "#ffffff"}


def test_words_beside_levels_stay_inside_the_drawing():
    name = "a method, given a text of training"
    curve = Curve("", np.array([1, 2]), np.array([3.0, 2.0]))
    for width in (472, 380):
        drawing = draw(curve, size=(width, 330), levels={name: 2.0, "xz -9": 2.01})
        lines = re.findall(r"translate\(([\d.]+) [\d.]+\)\">([^<]+)</text>", drawing)
        assert " ".join(line for _, line in lines) == name
        lines += re.findall(r' x="([\d.]+)"[^>]*>(xz -9)</text>', drawing)
        assert len(lines) > 2
        assert all(float(x) + 6.8 * len(line) <= width for x, line in lines)


ATTACK = "</svg><script>alert(1)</script>\"'&$x_1$\0\x1b[31m\udcff #010203"


def test_words_from_outside_stay_words(read_page):
    curves = [Curve(ATTACK, np.arange(3), np.arange(3.0)) for _ in range(2)]
    drawing = draw(*curves, y=Axis(ATTACK), levels={"a < b": 1.0}, name=ATTACK)
    page = read_page(drawing)
    assert page.text.count("<script>alert(1)</script>") == 3 and "a < b" in page.text
    assert page.text.count("#010203") == 3, "a colour of ours in a text is no colour"
    assert "\0" not in drawing and "\x1b" not in drawing and "\udcff" not in drawing
    described = draw_curves(
        curves[:1], name="b", description=ATTACK, x=STEP, y=STEP, size=(99, 99)
    )
    (label,) = read_page(described).labels
    assert label.startswith("</svg><script>alert(1)") and label.endswith("#010203")


def test_drawings_of_a_page_share_no_id_and_no_rule(read_page):
    curve = Curve("", np.arange(5), np.arange(5.0), sparse=True)
    drawings = [draw(curve, name=name) for name in ("a", "b")]
    page = read_page(f"<main>{''.join(drawings)}</main>")
    assert len(page.ids) > 2 and page.count("style") == page.count("metadata") == 0
    assert all("xmlns" not in attributes for _, attributes in page.tags)


def test_drawing_depends_on_its_arguments_alone():
    import matplotlib

    before = dict(matplotlib.rcParams)
    curve = Curve("", np.arange(5), np.arange(5.0))
    assert draw(curve) == draw(curve) != draw(curve, name="other")
    assert dict(matplotlib.rcParams) == before


def draw_map(values_YX, **options):
    return draw_heat_map(
        values_YX,
        name="map",
        description="a map",
        x_label="rate",
        y_label="width",
        x_ticks=["0.1", "1"],
        y_ticks=["32", "64"],
        form="{:.2f}".format,
        size=(400, 300),
    )


def test_a_heat_map_has_every_value_and_the_lowest_is_strongest(read_page):
    drawing = draw_map(np.array([[3.0, 1.0], [np.nan, 2.0]]))
    text = read_page(drawing).text
    assert all(word in text for word in ("3.00 1.00 nan 2.00", "0.1", "64", "rate"))
    mixes = re.findall(f"fill: {MIX}", drawing)
    assert mixes == ["0", "60", "30"], "no colour for what is not finite"
    assert drawing.count("var(--paper)") == 3


def test_a_heat_map_of_other_names_is_refused():
    with pytest.raises(ValueError, match=r"shape \(1, 2\): must have 2 rows"):
        draw_map(np.ones((1, 2)))
