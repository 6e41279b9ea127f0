"""What the terminal shows while a run goes on, and the few lines at its end.

On a terminal one line stays at the bottom and is redrawn; evaluations and messages are
printed above it. Elsewhere (a file, a pipe, a log of a batch system) plain lines are
printed, one an interval, without colours or cursor movements.

    412/2000 ━━━━━╸━━━━━━━━━━━━━  loss 4.812  left 3 min 20 s  2,412 tokens/s
"""

import time
from collections.abc import Callable, Iterator
from types import TracebackType

from rich.console import Console, ConsoleOptions
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lostjax.train.log.sink import Values, is_evaluation
from lostjax.view.numbers import (
    format_count,
    format_loss,
    format_perplexity,
    format_seconds,
)

_SHORTEST_BAR = 8


class Progress:
    """A sink (see `lostjax.train.log.json_lines`) that shows how far a run is.

    Use it as a context manager: leaving restores the terminal, also after an error.
    The time left is the mean time of the steps so far, evaluations included and the
    first step, which compiles, excluded.

    Args:
        first_step: Steps finished before this process began: 0, or where it resumes.
        last_step: The step at which the run is finished.
        interval: Seconds between plain lines.
        console: Where to write; standard output by default.
        clock: Gives seconds; only differences matter.

    Example:
        with Progress(first_step=0, last_step=2000) as progress:
            progress.write(1, {"loss": 8.3, "tokens_per_second": 2400.0})
    """

    def __init__(
        self,
        *,
        first_step: int,
        last_step: int,
        interval: float | int = 10.0,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console or Console()
        self._last_step = last_step
        self._interval = interval
        self._clock = clock
        self._step = first_step
        self._values: dict[str, float] = {}
        self._began: tuple[int, float] | None = None
        self._printed = -float("inf")
        self._live: Live | None = None

    def __enter__(self) -> "Progress":
        # FORCE_COLOR makes rich take a file for a terminal; isatty knows better.
        if self._console.is_interactive and self._console.file.isatty():
            self._live = Live(
                self, console=self._console, refresh_per_second=4, transient=False
            )
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def write(self, step: int, values: Values) -> None:
        """Take the values of one training step or of one evaluation."""
        numbers = {name: float(value) for name, value in values.items()}
        if is_evaluation(values):
            self.note(_evaluation_line(step, numbers))
            return
        now = self._clock()
        self._began = self._began or (step, now)
        self._step, self._values = step, numbers
        due = now - self._printed >= self._interval or step >= self._last_step
        if self._live is None and due:
            self._printed = now
            self._print(f"step {step}/{self._last_step}  " + "  ".join(self._facts()))

    def go_back(self, step: int) -> None:
        """Show a run that goes on from an earlier step."""
        self._step, self._began = step, None

    def note(self, text: str) -> None:
        """Print a line of its own, above the line that is redrawn."""
        self._print(text)

    def close(self) -> None:
        """Stop redrawing and leave the cursor on a fresh line."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _print(self, text: str) -> None:
        # Without soft_wrap rich breaks lines at 80 columns in files, too; without
        # markup=False a '[' in a path would vanish.
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _facts(self) -> list[str]:
        """The parts of the line, most important first."""
        values = self._values
        facts = [f"loss {format_loss(values['loss'])}"] if "loss" in values else []
        if values.get("skipped_total"):
            facts.append(f"skipped {values['skipped_total']:.0f}")
        if values.get("passed_over"):
            facts.append(f"passed over {values['passed_over']:.0f}")
        if (left := self._seconds_left()) is not None:
            facts.append(f"left {format_seconds(left)}")
        if "tokens_per_second" in values:
            facts.append(f"{format_count(values['tokens_per_second'])} tokens/s")
        if "mfu" in values:
            facts.append(f"MFU {100 * values['mfu']:.1f} %")
        return facts

    def _seconds_left(self) -> float | None:
        if self._began is None or self._step <= self._began[0]:
            return None
        if self._step >= self._last_step:
            return None
        step, start = self._began
        pace = (self._clock() - start) / (self._step - step)
        return pace * (self._last_step - self._step)

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[Text | Table]:
        """Draw one line: as many facts as fit, and a bar in the space that is left."""
        width = options.max_width - 1  # a full last column makes some terminals wrap
        line = f"{self._step}/{self._last_step}"
        facts = ""
        for fact in self._facts() or ["compiling the first step"]:
            if len(line) + len(facts) + 2 + len(fact) <= width:
                facts += f"  {fact}"
        bar = min(40, width - len(line) - len(facts) - 1)
        if bar < _SHORTEST_BAR:
            yield Text((line + facts)[:width], no_wrap=True)
            return
        grid = Table.grid()
        grid.add_row(
            Text(line + " "),
            ProgressBar(total=self._last_step, completed=self._step, width=bar),
            Text(facts),
        )
        yield grid


def _evaluation_line(step: int, values: dict[str, float]) -> str:
    known = {
        "eval_loss": ("held-out loss", format_loss),
        "eval_perplexity": ("perplexity", format_perplexity),
        "eval_bits_per_byte": ("bits per byte", format_loss),
    }
    facts = [
        f"{words} {form(values[name])}"
        for name, (words, form) in known.items()
        if name in values
    ]
    return f"step {step}  " + "  ".join(facts)
