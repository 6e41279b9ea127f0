"""Coloured text: strength by the largest score, signs for what cannot be seen."""

import numpy as np
import pytest

from lostjax.view.token_maps import map_tokens, show_token


def test_the_largest_score_is_the_strongest():
    scores_T = np.array([0.5, -2.0, np.nan, 0.0])
    drawn = map_tokens("name", ["a", "b", "c", "\n"], scores_T=scores_T)
    assert drawn.label == "name"
    assert [token.strength for token in drawn.tokens] == [15, 60, 0, 0]
    assert [token.is_negative for token in drawn.tokens] == [False, True, False, False]
    assert [token.score for token in drawn.tokens] == ["0.5", "-2", "nan", "0"]


def test_scores_of_nothing_have_no_colour():
    drawn = map_tokens("name", ["a"], scores_T=np.zeros(1))
    assert drawn.tokens[0].strength == 0


def test_line_breaks_and_tabs_are_signs():
    assert show_token(" a\n\tb\x1b") == " a⏎⇥b\ufffd"


def test_as_many_scores_as_tokens_are_needed():
    with pytest.raises(ValueError, match="scores_T"):
        map_tokens("name", ["a"], scores_T=np.zeros(2))
