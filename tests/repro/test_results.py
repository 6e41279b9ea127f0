"""What is committed in results/ and in the README is what its cells come to."""

import json
from pathlib import Path

import pytest

from lostjax.repro import lost
from lostjax.repro.claims import BITS, claim_values
from lostjax.repro.lost import METHODS, SCALES, STATEMENTS
from lostjax.repro.markdown import replace_block, write_block, write_page
from lostjax.train import cells

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "results" / "lost-small.json"


@pytest.fixture(scope="module")
def claim(tmp_path_factory):
    """The claim of the small scale, from the committed cells alone."""
    stored = json.loads(COMMITTED.read_text())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cells, "run_trial", lambda config: pytest.fail("it would train"))
        return lost.run(
            SCALES["small"],
            seeds=len(stored["rows"][0]["measures"][BITS]),
            directory=ROOT / "results" / "cells" / "lost-small",
        )


def test_the_committed_claim_follows_from_the_committed_cells(claim):
    assert claim_values(claim) == json.loads(COMMITTED.read_text())
    assert COMMITTED.with_suffix(".md").read_text() == write_page(claim)
    stored = {path.name for path in (ROOT / "results/cells/lost-small").iterdir()}
    assert len(stored) == claim.cost.runs, "no cell that the table does not use"


def test_the_committed_claim_is_whole(claim):
    assert [row.method for row in claim.rows] == list(METHODS)
    assert {finding.second for finding in claim.findings} == set(STATEMENTS)
    for row in claim.rows:
        assert min(row.swept) < row.learning_rate < max(row.swept)
        assert len(row.measures[BITS]) >= 3
    figure = COMMITTED.with_suffix(".svg").read_text()
    assert all(f">{row.method}<" in figure for row in claim.rows)


def test_the_readme_says_what_the_committed_claim_says(claim):
    readme = (ROOT / "README.md").read_text()
    block = write_block(claim, folder="results")
    assert replace_block(readme, "lost-small", block) == readme, (
        "made by `python -m lostjax.repro lost --readme=README.md`, not by hand"
    )
