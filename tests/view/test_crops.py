"""A board of crops: its labels, its images, and rows that do not fit."""

import re

import numpy as np
import pytest

from lostjax.view.crops import CropRow, draw_crops


def test_a_board_has_its_labels_and_an_image_for_each_crop_and_heat():
    image = np.eye(4)
    rows = [
        CropRow("first <b>", [image, image], [None, image]),
        CropRow("second", [image, image], [None, np.zeros((4, 4))]),
    ]
    svg = draw_crops(rows, name="board", heads=["crops", ""])
    assert "first &lt;b&gt;" in svg and "second" in svg and "crops" in svg
    # An image and its heat are one picture; a heat of zeros is not drawn.
    pictures = re.findall(r'href="(data:image/png[^"]+)"', svg)
    assert len(pictures) == 4
    assert pictures[0] == pictures[2] == pictures[3] != pictures[1]


def test_a_row_of_another_length_is_named():
    rows = [CropRow("short", [np.eye(2)], [None])]
    with pytest.raises(ValueError, match="'short' has 1 images"):
        draw_crops(rows, name="board", heads=["", ""])
