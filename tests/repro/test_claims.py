"""Differences judged by their interval, and a claim in JSON, words and pictures."""

import json
import math
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from scipy import stats

from lostjax.errors import ConfigError
from lostjax.repro.claims import Claim, Cost, read_tally, save_claim
from lostjax.repro.findings import PAIRED, UNPAIRED, Comparison, compare_rows, judge
from lostjax.repro.rows import Row
from lostjax.repro.tables import (
    draw_claim,
    list_claims,
    state_verdict,
    write_overview,
    write_page,
)
from lostjax.sweep.cells import BITS


def make_row(name, values):
    swept = {1e-3: values[0] + 0.1, 2e-3: values[0], 4e-3: math.nan}
    return Row(name, {"parameters": 12_345}, 2e-3, swept, {BITS: tuple(values)})


def make_claim(*others):
    lost = make_row("LOST", (1.0, 1.01, 0.99))
    rows = tuple(make_row(f"other {n}", values) for n, values in enumerate(others))
    return Claim(
        name="lost-toy",
        paper="A paper",
        setting="Every run: a toy.",
        rows=(lost, *rows),
        findings=tuple(
            compare_rows(lost, row, statement=f"better than {row.method}")
            for row in rows
        ),
        cost=Cost(12, 48_000, 7_500, ("a machine, jax 1",)),
        swept=BITS,
        interval="t",
    )


CLAIM = make_claim(
    (1.2, 1.21, 1.19), (0.8, 0.81, 0.79), (1.0, 1.02, 0.99), (1.0, math.nan, 1.0)
)


def test_each_difference_has_its_verdict():
    verdicts = [finding.verdict for finding in CLAIM.findings]
    assert verdicts == ["holds", "does not hold", "within noise", "not measured"]


@pytest.mark.parametrize("counts", [(3, 3), (2, 5)])
def test_the_margin_is_that_of_welchs_t(counts):
    generator = np.random.default_rng(0)
    first, second = (
        tuple(generator.normal(scale=scale, size=count))
        for scale, count in zip((1.0, 0.2), counts, strict=True)
    )
    finding = compare_rows(
        make_row("a", first), make_row("b", second), statement="a is better"
    )
    theirs = stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    low, high = finding.difference - finding.margin, finding.difference + finding.margin
    np.testing.assert_allclose((low, high), theirs, rtol=1e-9)


def test_a_paired_margin_is_that_of_the_differences():
    generator = np.random.default_rng(0)
    splits = generator.normal(scale=10, size=4)  # shared: they cancel
    first, second = (
        tuple(splits + generator.normal(loc=loc, size=4)) for loc in (0.0, 3.0)
    )
    rows = make_row("a", first), make_row("b", second)
    finding = compare_rows(*rows, statement="a is better", interval=PAIRED)
    theirs = stats.ttest_rel(first, second).confidence_interval(0.95)
    low, high = finding.difference - finding.margin, finding.difference + finding.margin
    np.testing.assert_allclose((low, high), theirs, rtol=1e-9)
    unpaired = compare_rows(*rows, statement="a is better")
    assert finding.verdict == "holds" and unpaired.verdict == "within noise"
    (judged,) = judge(rows, [Comparison("a", "b", "a is better")], interval=PAIRED)
    assert judged == finding


def test_a_paired_margin_to_a_number_is_that_of_the_row():
    row = make_row("a", (1.0, 1.3, 0.8))
    first, second = (
        compare_rows(row, 2.0, statement="a is below 2", interval=interval)
        for interval in (PAIRED, UNPAIRED)
    )
    assert first == second


def test_seeds_that_were_not_all_run_cannot_be_paired():
    with pytest.raises(ValueError, match="3 seeds cannot be paired with 2"):
        compare_rows(
            make_row("a", (1.0, 1.3, 0.8)),
            make_row("b", (1.0, 1.3)),
            statement="a is better",
            interval=PAIRED,
        )


def test_equal_seeds_have_no_margin():
    finding = compare_rows(
        make_row("a", (1.0, 1.0)), make_row("b", (2.0, 2.0)), statement="a is better"
    )
    assert finding.margin == 0 and finding.verdict == "holds"


def test_json_holds_rows_findings_and_what_follows(tmp_path):
    save_claim(tmp_path / "x.json", CLAIM)
    text = (tmp_path / "x.json").read_text()
    assert "NaN" not in text
    found = json.loads(text)
    assert found["rows"][0]["mean"][BITS] == pytest.approx(1.0)
    assert found["rows"][0]["swept"] == {"0.001": 1.1, "0.002": 1.0, "0.004": None}
    assert found["findings"][1]["verdict"] == "does not hold"
    assert found["findings"][3]["difference"] is None
    assert found["cost"]["seconds"] == 7_500


def test_the_verdict_is_in_words():
    said = state_verdict(CLAIM.findings)
    assert said.startswith("**Holds (1 of 4)**: better than other 0 (0.2000 ± 0.0")
    assert "**Does not hold (1 of 4)**: better than other 1 (0.2000 ± 0.0" in said
    assert "refuted (1 of 4)**: better than other 2 (0.0033 ± " in said
    assert said.endswith("a seed diverged (1 of 4)**: better than other 3.")
    alone = state_verdict(CLAIM.findings[:1])
    assert "**Does not hold (0 of 1)**: nothing." in alone and "measured" not in alone


def test_a_page_has_a_line_for_each_row_and_finding_the_best_first():
    page = write_page(CLAIM)
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    names = [line.split(" | ")[0].strip("| ") for line in lines]
    assert names[2:7] == ["other 1", "LOST", "other 2", "other 0", "other 3"]
    assert names[9:] == [f"better than other {n}" for n in range(4)]
    assert "| LOST | 12,345 | 0.002 | 1.0000 ± 0.0100 |" in page
    assert (
        "All 12 runs, on 48.0 k tokens, took 2 h 5 min on one core each, added up"
        in " ".join(page.split())
    )
    prose = [line for line in page.splitlines() if line[:1] not in ("|", "!")]
    assert max(map(len, prose)) <= 88


def test_a_number_in_the_second_rows_place_has_no_spread():
    values = (1.0, 1.3, 0.8)
    finding = compare_rows(make_row("a", values), 2.0, statement="a is below 2")
    theirs = stats.ttest_1samp(values, 2.0).confidence_interval(0.95)
    low, high = finding.difference - finding.margin, finding.difference + finding.margin
    np.testing.assert_allclose((low + 2, high + 2), theirs, rtol=1e-9)
    assert finding.verdict == "holds" and finding.second == 2.0


def test_only_measured_rows_are_judged():
    rows = [make_row("a", (2.0, 2.0)), make_row("b", (3.0, 3.0))]
    found = judge(
        rows,
        [
            Comparison("a", "b", "a is better than b"),
            Comparison("a", "c", "a is better than c"),
            Comparison("c", 1.0, "c is below 1"),
            Comparison("b", 4.0, "b is below 4"),
        ],
    )
    assert [one.statement for one in found] == ["a is better than b", "b is below 4"]


def test_claims_are_listed_by_their_verdicts(tmp_path):
    save_claim(tmp_path / "x.json", CLAIM)
    tally = read_tally(tmp_path / "x.json")
    assert tally.paper == "A paper" and tally.counts.total() == 4
    assert "| [A paper](x.md) | 4 | 1 | 1 | 1 | 1 |" in write_overview({"x": tally})
    head, known, unknown = list_claims(["x", "yy"], {"x": tally}).splitlines()
    assert head.split()[:3] == ["paper", "statements", "holds"]
    assert known.split() == ["x", "4", "1", "1", "1", "1", "A", "paper"]
    assert unknown.split() == ["yy", "-", "-", "-", "-", "-", "not", "measured", "yet"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"paper": "x", "findings": [1]}'])
def test_a_file_that_is_no_claim_is_named(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ConfigError, match="x.json: not a claim"):
        read_tally(tmp_path / "x.json")


def test_a_figure_names_every_method_and_is_the_same_each_time():
    drawn = draw_claim(CLAIM)
    assert drawn == draw_claim(CLAIM)
    root = ElementTree.fromstring(drawn)
    said = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {row.method for row in CLAIM.rows} <= set(said)
    assert {"0.001", "0.002", "0.004", "0.800", "1.200"} <= set(said)
    assert "<date>" not in drawn and "dc:date" not in drawn
    assert not re.search(r"#0{6}\b|#f{6}\b", drawn), "black or white: one page hides it"
