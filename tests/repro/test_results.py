"""What is committed in results/ and in the README is what its cells come to."""

import json
from pathlib import Path

import pytest

from lostjax.repro.__main__ import PAPERS
from lostjax.repro.claims import claim_values
from lostjax.repro.papers.lost import STATEMENTS
from lostjax.repro.tables import replace_block, write_block, write_page
from lostjax.sweep import cells

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"
ONE_GRID = ("stability",)
"""Claims of a fixed grid of learning rates; all others are tuned."""

KEPT = sorted(set(PAPERS) - {"reweighting_toy", "saf_digits"})
"""Claims whose runs are kept as cells; the others are run anew in seconds."""


@pytest.fixture(scope="module", params=KEPT)
def claim(request):
    """A claim of the small scale, from the committed cells alone."""
    name = request.param
    stored = json.loads((RESULTS / f"{name}-small.json").read_text())
    measures = stored["rows"][0]["measures"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cells, "run_trial", lambda config: pytest.fail("it would train"))
        return PAPERS[name].run(
            PAPERS[name].SCALES["small"],
            seeds=len(next(iter(measures.values()))),
            directory=RESULTS / "cells" / f"{name}-small",
        )


def test_the_committed_claim_follows_from_the_committed_cells(claim):
    stem = RESULTS / claim.name
    assert claim_values(claim) == json.loads(stem.with_suffix(".json").read_text())
    assert stem.with_suffix(".md").read_text() == write_page(claim)
    stored = list((RESULTS / "cells" / claim.name).iterdir())
    assert len(stored) == claim.cost.runs, "no cell that the table does not use"


def test_the_committed_claim_is_whole(claim):
    paper = PAPERS[claim.name.removesuffix("-small")]
    assert [row.method for row in claim.rows] == list(paper.METHODS)
    for row in claim.rows:
        assert all(len(values) >= 3 for values in row.measures.values())
        if claim.name.removesuffix("-small") not in ONE_GRID:
            assert min(row.swept) < row.learning_rate < max(row.swept)
    figure = (RESULTS / f"{claim.name}.svg").read_text()
    assert all(f">{row.method}<" in figure for row in claim.rows)


def test_every_comparison_was_made(claim):
    paper = PAPERS[claim.name.removesuffix("-small")]
    made = getattr(paper, "COMPARISONS", STATEMENTS)
    assert len(claim.findings) == len(made)


def test_the_readme_says_what_the_committed_claim_says(claim):
    readme = (ROOT / "README.md").read_text()
    block = write_block(claim, folder="results")
    assert replace_block(readme, claim.name, block) == readme, (
        "made by `python -m lostjax.repro NAME --readme=README.md`, not by hand"
    )
