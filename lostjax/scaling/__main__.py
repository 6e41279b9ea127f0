"""`python -m lostjax.scaling RUNS...`: fit scaling laws to runs, and forecast.

    python -m lostjax.scaling runs/a runs/b runs/c --params=1e8,1e9 --tokens=2e10
    python -m lostjax.scaling runs/sweep/cells.jsonl
    python -m lostjax.scaling curves.csv.gz --family=OPT

Two laws: loss by parameters and tokens, and loss by parameters, steps and batch. What
the runs cannot determine is refused with the reason. OUT/scaling.html shows curves,
laws and forecasts with intervals; OUT/scaling.json holds the numbers.
"""

from lostjax.extras import require_train

if __name__ == "__main__":
    require_train("python -m lostjax.scaling")

import dataclasses
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from lostjax.disk.files import replace_file
from lostjax.disk.paths import read_path
from lostjax.errors import ConfigError, DataError
from lostjax.scaling.page import render_scaling, tabulate_forecasts, tabulate_runs
from lostjax.scaling.reading import LossKind, read_curves
from lostjax.scaling.results import Result, fit_curves, result_values
from lostjax.sweep.table import format_markdown
from lostjax.train.flags import parse_flags
from lostjax.train.log.output import run_program

PROGRAM = "python -m lostjax.scaling"
PAGE, VALUES = "scaling.html", "scaling.json"


@dataclasses.dataclass(frozen=True)
class Flags:
    """Fit scaling laws to runs and forecast: `python -m lostjax.scaling RUNS...`.

    RUNS are run directories, cells.jsonl of a sweep, or tables (.csv, .csv.gz) with the
    columns n_params, tokens and loss, and run, family, steps or batch_tokens.
    """

    params: str = ""
    """Numbers of parameters to forecast for, with commas between them; default: 1, 2, 4
    and 8 times the largest."""
    tokens: str = ""
    """Numbers of tokens to forecast for; default: 1, 2, 4 and 8 times the most."""
    loss: LossKind = "held-out"
    """Loss of a run directory: of its evaluations, or of its training steps."""
    family: str | None = None
    """Family of a table that has several."""
    skip: float = 0.1
    """Share of each run at its beginning that is left out, in [0, 1)."""
    huber: bool = False
    """Let outliers count little: the Huber loss of log loss instead of squares."""
    draws: int = 100
    """Draws of the intervals, at least 20."""
    out: str = "runs/scaling"
    """Directory of scaling.html and scaling.json."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        names = _take_names(words)
        flags = parse_flags(Flags, words, program=PROGRAM)
        out = read_path(flags.out, flag="--out")
        result = scale(names, flags)
        print(_summarise(result))
        _write(out, result)
    except (ConfigError, DataError, OSError) as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError | DataError) else 1
    print(f"page     {out / PAGE}\nnumbers  {out / VALUES}")
    return 0


def scale(names: Sequence[str], flags: Flags) -> Result:
    """Read runs and fit laws to them.

    Raises:
      ConfigError: naming what is wrong and what would be right.
    """
    if not names:
        raise ConfigError("RUNS are missing, such as latest; see --help")
    if not 0 <= flags.skip < 1:
        raise ConfigError(f"--skip={flags.skip}: must lie in [0, 1)")
    if flags.draws < 20:
        raise ConfigError(f"--draws={flags.draws}: must be at least 20")
    sizes = _numbers("--params", flags.params)
    tokens = _numbers("--tokens", flags.tokens)
    curves = read_curves(names, loss=flags.loss, family=flags.family, skip=flags.skip)
    return fit_curves(
        curves, sizes=sizes, tokens=tokens, draws=flags.draws, huber=flags.huber
    )


def _summarise(result: Result) -> str:
    """Write the result as text."""
    tables = [tabulate_runs(result)]
    lines = []
    if (forecasts := tabulate_forecasts(result)) is not None:
        tables.append(forecasts)
    for name, reason, fit in (
        (
            "loss by parameters and tokens",
            result.no_loss_law,
            result.forecast.fit if result.forecast else None,
        ),
        ("loss by parameters, steps and batch", result.no_step_law, result.step),
    ):
        if reason:
            lines.append(f"{name}: not fitted: {reason}")
        elif fit is not None:
            warnings = "".join(f"; do not extrapolate: {it}" for it in fit.warnings)
            lines.append(f"{name}: fitted{warnings}")
    return "\n".join([format_markdown(tables), *lines])


def _write(out: Path, result: Result) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out={out}: {error.strerror}") from None
    text = json.dumps(result_values(result), indent=1, allow_nan=False) + "\n"
    replace_file(out / VALUES, text.encode())
    replace_file(out / PAGE, render_scaling(result).encode())


def _take_names(words: list[str]) -> list[str]:
    """Take the runs' names out of the words: those that belong to no flag."""
    names = []
    rest = []
    for place, word in enumerate(words):
        before = words[place - 1] if place else ""
        takes_value = before.startswith("--") and "=" not in before
        switch = before in ("--help", "--help-all", "--huber", "--no-huber")
        if not word.startswith("-") and (not takes_value or switch):
            names.append(word)
        else:
            rest.append(word)
    words[:] = rest
    return names


def _numbers(flag: str, text: str) -> list[float]:
    """Read positive numbers between commas."""
    numbers = []
    for word in filter(None, text.replace(" ", "").split(",")):
        try:
            number = float(word)
        except ValueError:
            number = math.nan
        if not 0 < number < math.inf:
            raise ConfigError(
                f"{flag}={text}: {word!r} must be a positive number; write numbers "
                "with commas between them"
            )
        numbers.append(number)
    return numbers


if __name__ == "__main__":
    sys.exit(run_program(main))
