"""Numbers as text."""

import math

import pytest

from lostjax.view.numbers import (
    format_bytes,
    format_count,
    format_flops,
    format_number,
    format_perplexity,
    format_seconds,
)


@pytest.mark.parametrize(
    ("form", "value", "text"),
    [
        (format_count, 4096, "4,096"),
        (format_count, 14_912_345, "14.9 M"),
        (format_count, 999_960, "1.00 M"),
        (format_count, 7e9, "7.00 G"),
        (format_bytes, 512, "512 B"),
        (format_bytes, 59_649_380, "59.6 MB"),
        (format_bytes, 999_960, "1.00 MB"),
        (format_flops, 1.2e9, "1.20 GFLOP"),
        (format_seconds, 4.25, "4.2 s"),
        (format_seconds, 59.7, "1 min 0 s"),
        (format_seconds, 272, "4 min 32 s"),
        (format_seconds, 7500, "2 h 5 min"),
        (format_seconds, 3599.9, "1 h 0 min"),
        (format_seconds, 2e5, "2 d 8 h"),
        (format_number, 0.00099, "0.00099"),
        (format_number, 0.003, "0.003"),
        (format_number, 2e-5, "2.000e-05"),
        (format_number, 1234.567, "1,235"),
        (format_number, math.nan, "not a number"),
        (format_number, 0.0, "0"),
        (format_perplexity, 53.4982, "53.50"),
        (format_perplexity, 51_230, "51.2 k"),
        (format_perplexity, math.inf, "infinite"),
    ],
)
def test_numbers_read_well(form, value, text):
    assert form(value) == text
