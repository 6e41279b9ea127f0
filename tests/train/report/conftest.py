"""A report that has everything, and its page."""

import math

import pytest

from lostjax.train.report.contents import LedgerRow, Report, Sample, Timings
from lostjax.train.report.page import write_report


@pytest.fixture
def make_report():
    """Make the report of a run of `n` steps; changed fields by name."""

    def make(n=40, **changes):
        steps = range(1, n + 1)
        values = {
            "title": "tiny",
            "command": "python -m lostjax.train",
            "configuration": {"steps": n, "model": {"rank": 64, "norm": {"eps": 1e-6}}},
            "metrics": [
                {
                    "step": s,
                    "loss": 8 / s + 3,
                    "learning_rate": 1e-3 / s,
                    "gradient_norm": 1 + 1 / s,
                    "tokens_per_second": 2400.0,
                }
                for s in steps
            ],
            "evaluations": [
                {
                    "step": s,
                    "eval_loss": 3 + 5 / s,
                    "eval_perplexity": math.exp(3 + 5 / s),
                    "eval_bits_per_byte": 1.9 + 1 / s,
                }
                for s in (1, n)
            ],
            "parameters": 5_412_352,
            "tokens_seen": 163_840,
            "ledger": [
                LedgerRow("optimiser bytes", 43_298_816, 67_371_008),
                LedgerRow("parameters", 5_412_352, None, "count"),
            ],
            "baselines": {"xz -9": 2.32, "trigram": 1.84},
            "sample": Sample("The state", " of the Union"),
            "environment": {"jax": "0.10.2"},
            "timings": Timings(21.4, 9.8, 272.0),
        }
        return Report(**(values | changes))

    return make


@pytest.fixture
def render(tmp_path, read_page):
    """Write a report and read its page back: the text, and the page."""

    def write_and_read(report):
        path = tmp_path / "report.html"
        write_report(path, report)
        text = path.read_text(encoding="utf-8")
        return text, read_page(text)

    return write_and_read
