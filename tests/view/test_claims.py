"""The figure of methods side by side."""

import re

import numpy as np

from lostjax.view.claims import Method, draw_methods, find_top


def test_a_few_far_larger_values_do_not_set_the_scale():
    near = list(np.linspace(100.0, 165.0, 20))
    assert find_top(near) == 165.0
    assert find_top([*near, 590.0, 2312.0]) == 165.0
    assert find_top([*near, 2300.0, 2312.0]) == 165.0
    many = [*near, *np.linspace(2000.0, 2500.0, 20)]
    assert find_top(many) == 2500.0, "a half of the values is no exception"
    assert find_top([1.0]) == find_top([1.0, 1.0]) == 1.0
    assert find_top([1.0, 2.0]) == 2.0


def test_what_lies_above_the_scale_is_marked_at_its_top():
    swept = {2.0**-k: 1.0 + 0.1 * k for k in range(8)}
    calm = Method("calm", (1.0, 1.1), swept, 0.5)
    wild = Method("wild", (1.0, 1.2), swept | {2.0: 500.0}, 0.5)
    draw = {"name": "x", "own": "calm", "measure": "loss", "swept": "loss"}
    assert "each row 1.00 to 1.70<" in draw_methods([calm], **draw)
    figure = draw_methods([calm, wild], **draw)
    assert re.search(r"each row 1\.00 to 1\.70, \S above<", figure)
