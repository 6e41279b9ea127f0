"""Numerals: ASCII digits of a number in a range, or nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lostjax.numerals import read_whole


@given(st.integers(0, 300), st.integers(0, 3), st.integers(0, 200), st.integers(0, 250))
def test_a_number_in_the_range_is_read(number, zeros, least, most):
    expected = number if least <= number <= most else None
    text = "0" * zeros + str(number)
    assert read_whole(text, least=least, most=most) == expected


@pytest.mark.parametrize(
    "text",
    ["", "²", "٣", "1²", "-1", "+1", " 1", "1\n", "1_0", "1.0", "0x1", "9" * 5000],
)
def test_what_is_no_numeral_is_none(text):
    assert read_whole(text) is None


def test_zeros_may_lead_however_many():
    assert read_whole("0" * 5000 + "7") == 7
    assert read_whole("0" * 5000) == 0
