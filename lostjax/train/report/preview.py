"""What a run would cost (`--dry-run`) and what it came to, in the terminal."""

from rich.console import Console
from rich.table import Table

from lostjax.train.build.job import prepare_job
from lostjax.train.build.schedule import describe_schedule
from lostjax.train.config.fields import flat_fields
from lostjax.train.config.schema import TrainConfig
from lostjax.train.log.terminal import open_console
from lostjax.train.report.contents import Report
from lostjax.train.report.forecast import describe_forecast
from lostjax.train.report.ledger import build_ledger
from lostjax.view.characters import replace_controls
from lostjax.view.numbers import format_count


def print_preview(config: TrainConfig, *, extends: bool = False) -> None:
    """Print a run's configuration and budget without running it.

    Args:
      config: the run.
      extends: whether a run of another schedule in its directory is extended.

    Raises:
      ConfigError, DataError: as the run itself would.
    """
    job = prepare_job(config, extends=extends)
    config = job.config
    console = Console()
    for name, value in flat_fields(config).items():
        console.print(f"{name} = {value}", markup=False, highlight=False)
    table = Table("", "this model", "dense model", "ratio", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in build_ledger(job):
        table.add_row(*row.cells())
    console.print()
    console.print(table)
    tokens = job.data.train_tokens
    per_step = config.batch_size * config.data.seq_len
    console.print(
        f"\n{format_count(tokens)} training tokens; {config.steps} steps of "
        f"{per_step} are {config.steps * per_step / tokens:.2f} epochs",
        highlight=False,
    )
    console.print(describe_schedule(config.optim, steps=config.steps), highlight=False)
    if forecast := describe_forecast(job):
        console.print(forecast, highlight=False)


def print_summary(report: Report, *, path: str, console: Console | None = None) -> None:
    """Print a run's sample and its results: the same facts as the page's head.

    Args:
      report: of the finished run.
      path: of the report's page.
      console: to print on; standard output by default.
    """
    console = console or open_console()
    if report.sample is not None:
        text = replace_controls(report.sample.prompt + report.sample.continuation)
        console.print(f"\nsample\n{text}", markup=False, highlight=False)
    rows = [("", ""), *report.summary(), ("report", path)]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        line = f"{name:{width}}  {value}".rstrip()
        # Not a rich table, which would break a long path into pieces.
        console.print(line, markup=False, highlight=False, soft_wrap=True)
