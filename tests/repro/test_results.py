"""What is committed in results/ is what its cells come to."""

import dataclasses
import json
from pathlib import Path

import pytest

from lostjax.repro.__main__ import read_tallies
from lostjax.repro.claims import claim_values
from lostjax.repro.experiment import measure_claim
from lostjax.repro.papers import list_papers, load_paper
from lostjax.repro.tables import write_overview, write_page
from lostjax.repro.tune import TUNE_BY_MEAN, TUNE_ON_FIRST_SEED
from lostjax.sweep import cells

RESULTS = Path(__file__).parents[2] / "results"


@pytest.fixture(scope="module", params=list_papers())
def claim(request):
    """A claim of the small scale, from the committed cells alone."""
    experiment = load_paper(request.param)
    path = RESULTS / "cells" / f"{request.param}-small.jsonl"
    if experiment.train is not None:
        experiment = dataclasses.replace(experiment, train=refuse)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cells, "run_trial", refuse)
        return measure_claim(
            request.param,
            experiment,
            scale="small",
            seeds=experiment.seeds,
            cells=path,
        )


def refuse(*_, **__):
    pytest.fail("it would train")


def test_the_committed_claim_follows_from_the_committed_cells(claim):
    stem = RESULTS / claim.name
    assert claim_values(claim) == json.loads(stem.with_suffix(".json").read_text())
    assert stem.with_suffix(".md").read_text() == write_page(claim)
    lines = (RESULTS / "cells" / f"{claim.name}.jsonl").read_text().splitlines()
    assert len(lines) == claim.cost.runs, "no cell that the table does not use"


def test_the_committed_claim_is_whole(claim):
    experiment = load_paper(claim.name.removesuffix("-small"))
    methods = experiment.methods(experiment.scales["small"])
    assert [row.method for row in claim.rows] == list(methods)
    assert len(claim.findings) == len(experiment.comparisons)
    for row in claim.rows:
        assert all(len(found) == experiment.seeds for found in row.measures.values())
        if experiment.tuning in (TUNE_ON_FIRST_SEED, TUNE_BY_MEAN):
            assert min(row.swept) < row.learning_rate < max(row.swept)
    figure = (RESULTS / f"{claim.name}.svg").read_text()
    assert all(f">{row.method}<" in figure for row in claim.rows)


def test_the_overview_lists_the_committed_claims():
    tallies = read_tallies(RESULTS)
    assert list(tallies) == list_papers()
    named = {f"{name}-small": tally for name, tally in tallies.items()}
    assert (RESULTS / "README.md").read_text() == write_overview(named)


def test_no_cells_without_a_paper():
    found = {path.name for path in (RESULTS / "cells").iterdir()}
    found = {name for name in found if not name.endswith("-smoke.jsonl")}
    assert found == {f"{name}-small.jsonl" for name in list_papers()}
