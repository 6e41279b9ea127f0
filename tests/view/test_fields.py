"""Settings as tables."""

from lostjax.view.fields import tabulate_fields


def test_groups_are_tables_and_what_lies_deeper_has_dots():
    fields = {
        "steps": 3,
        "model": {"norm": {"eps": {"low": 1e-6}}, "rank": None},
        "seed": 0,
        "empty": {},
    }
    first, second = tabulate_fields(fields, rest="run")
    assert first.caption == "run" and first.rows == [("steps", "3"), ("seed", "0")]
    assert second.rows == [("norm.eps.low", "1e-06"), ("rank", "\N{EN DASH}")]


def test_values_are_json_except_text():
    values = {"a": "x", "b": "", "c": True, "d": [1, "é"], "e": 1e-8}
    (table,) = tabulate_fields(values, rest="run")
    assert [row[1] for row in table.rows] == ["x", '""', "true", '[1, "é"]', "1e-08"]
