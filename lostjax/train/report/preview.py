"""`--dry-run`: the resolved configuration and what the run would cost, in a table."""

from rich.console import Console
from rich.table import Table

from lostjax.train.build.job import prepare_job
from lostjax.train.config.fields import flat_fields
from lostjax.train.config.schema import TrainConfig
from lostjax.train.report.contents import Report
from lostjax.train.report.ledger import build_ledger
from lostjax.view.numbers import (
    MISSING,
    format_bytes,
    format_count,
    format_flops,
)

_FORMATS = {"count": format_count, "bytes": format_bytes, "flops": format_flops}


def print_preview(config: TrainConfig) -> None:
    """Print a run's configuration and budget without running it.

    Raises:
      ConfigError, DataError: as the run itself would.
    """
    run = prepare_job(config)
    console = Console()
    for name, value in flat_fields(config).items():
        console.print(f"{name} = {value}", markup=False, highlight=False)
    table = Table("", "this model", "dense model", "ratio", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in build_ledger(run):
        form = _FORMATS[row.unit]
        dense, ratio = MISSING, MISSING
        if row.dense:
            dense, ratio = form(row.dense), f"{row.model / row.dense:.3f}"
        table.add_row(row.name, form(row.model), dense, ratio)
    console.print()
    console.print(table)
    tokens = run.data.train_tokens
    per_step = config.batch_size * config.data.seq_len
    console.print(
        f"\n{format_count(tokens)} training tokens; {config.steps} steps of "
        f"{per_step} are {config.steps * per_step / tokens:.2f} epochs",
        highlight=False,
    )


def print_summary(report: Report, *, path: str, console: Console | None = None) -> None:
    """Print what a run came to: some ten lines, the same facts as the report's head.

    Args:
        report: The finished run.
        path: Where its report was written.
        console: Where to print; standard output by default.
    """
    console = console or Console()
    rows = [("", ""), *report.summary(), ("report", path)]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        line = f"{name:{width}}  {value}".rstrip()
        # Not a rich table, which would break a long path into pieces.
        console.print(line, markup=False, highlight=False, soft_wrap=True)
