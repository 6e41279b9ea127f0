"""Show the progress of a run on the terminal.

On a terminal the last line is redrawn, and evaluations and messages are printed above
it. Elsewhere (a file, a pipe, the log of a batch system) plain lines are printed, one
per interval, without colours or cursor movements.

    412/2000 ━━━━━╸━━━━━━━━━━━━━  loss 4.812  left 3 min 20 s  2,412 tokens/s

The speed is that of the last steps together, an interval of them: single steps vary.
"""

import time
from collections import deque
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


def open_console() -> Console:
    """Open standard output for a run's lines.

    Not by rich's way into notebooks, which displays each line as HTML: it passes by
    standard output, and so by the log of the run.
    """
    return Console(force_jupyter=False)


class Progress:
    """A sink (see `lostjax.train.log.sink`) that shows a run's progress.

    Use it as a context manager: its exit restores the terminal, also after an error.
    The time left is estimated from the mean time of the steps so far, including
    evaluations and excluding the first step, which warms up; the speed excludes both.

    Args:
      first_step: number of steps finished before this process began; 0 for a new run.
      last_step: the last step of the run.
      interval: seconds between plain lines, and of the steps in the speed.
      console: the console to write to; standard output by default.
      clock: returns seconds; only differences are used.

    Example:
      with Progress(first_step=0, last_step=2000) as progress:
          progress.write(1, {"loss": 8.3, "tokens": 4800, "step_seconds": 2.0})
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
        self._console = console or open_console()
        self._last_step = last_step
        self._interval = interval
        self._clock = clock
        self._step = first_step
        self._values: dict[str, float] = {}
        self._began: tuple[int, float] | None = None
        self._speed = _Speed(interval)
        self._printed = -float("inf")
        self._live: Live | None = None

    def __enter__(self) -> "Progress":
        # rich alone is not enough: FORCE_COLOR makes it take a file for a terminal.
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
        """Show the values of one training step or of one evaluation."""
        numbers = {name: float(value) for name, value in values.items()}
        if is_evaluation(values):
            self.note(_evaluation_line(step, numbers))
            return
        now = self._clock()
        if self._began is None:
            self._began = (step, now)
        elif "step_seconds" in numbers:
            self._speed.add(numbers["tokens"], numbers["step_seconds"])
        self._step, self._values = step, numbers
        due = now - self._printed >= self._interval or step >= self._last_step
        if self._live is None and due:
            self._printed = now
            self._print(f"step {step}/{self._last_step}  " + "  ".join(self._facts()))

    def go_back(self, step: int) -> None:
        """Show that the run continues from an earlier step."""
        self._step, self._began = step, None

    def note(self, text: str) -> None:
        """Print a line, above the line that is redrawn."""
        self._print(text)

    def close(self) -> None:
        """Stop redrawing, and move the cursor to a new line."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _print(self, text: str) -> None:
        # soft_wrap, because rich would break lines at 80 columns in files too;
        # markup=False, because rich would drop a '[' in a path.
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _facts(self) -> list[str]:
        """List the parts of the line, the most important first."""
        values = self._values
        facts = [f"loss {format_loss(values['loss'])}"] if "loss" in values else []
        if values.get("skipped_total"):
            facts.append(f"skipped {values['skipped_total']:.0f}")
        if values.get("passed_over"):
            facts.append(f"passed over {values['passed_over']:.0f}")
        if (left := self._seconds_left()) is not None:
            facts.append(f"left {format_seconds(left)}")
        if (rate := self._speed.tokens_per_second()) is not None:
            facts.append(f"{format_count(rate)} tokens/s")
            if "mfu" in values:
                mfu = values["mfu"] * rate / values["tokens_per_second"]
                facts.append(f"MFU {100 * mfu:.1f} %")
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
        """Draw one line: as many facts as fit, and a bar in the remaining space."""
        width = options.max_width - 1  # some terminals wrap after the last column
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


class _Speed:
    """Tokens a second over the latest steps, at least `span` seconds of them."""

    def __init__(self, span: float) -> None:
        self._span = span
        self._steps: deque[tuple[float, float]] = deque()
        self._tokens = self._seconds = 0.0

    def add(self, tokens: float, seconds: float) -> None:
        """Add a step, and drop the oldest that the span does not need."""
        self._steps.append((tokens, seconds))
        self._tokens, self._seconds = self._tokens + tokens, self._seconds + seconds
        while self._seconds - self._steps[0][1] >= self._span and len(self._steps) > 1:
            tokens, seconds = self._steps.popleft()
            self._tokens, self._seconds = self._tokens - tokens, self._seconds - seconds

    def tokens_per_second(self) -> float | None:
        """Return the speed; None before a step with a length."""
        return self._tokens / self._seconds if self._seconds > 0 else None


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
