"""Find what a run's residual stream is made of: `python -m lostjax.concepts RUN`.

    python -m lostjax.concepts latest
    python -m lostjax.concepts RUN --concepts=32

The final states of held-out text are factorised into concepts (CRAFT), each of which is
named by the tokens that it raises and the passages that have most of it. How much each
counts for the next token's loss is measured by Sobol indices and by taking it out. The
page and its numbers are written to RUN/concepts.html and RUN/concepts.json. The
checkpoint may have been saved on any mesh, and is restored onto one device.
"""

from lostjax.extras import require_train

if __name__ == "__main__":
    require_train("python -m lostjax.concepts")

import dataclasses
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from lostjax.concepts.page import (
    Board,
    board_values,
    describe_concepts,
    describe_fidelity,
    name_concept,
    render_board,
)
from lostjax.concepts.stream import (
    Judge,
    Stream,
    choose_batches,
    find_concepts,
    read_stream,
)
from lostjax.disk.files import replace_file
from lostjax.disk.paths import read_path
from lostjax.errors import ConfigError, DataError
from lostjax.train.config.checks import check_seed
from lostjax.train.flags import Positional, parse_flags
from lostjax.train.interface.finished import Run, load
from lostjax.train.interface.texts import plan_text
from lostjax.train.log.output import run_program
from lostjax.view.numbers import format_count, format_seconds

PROGRAM = "python -m lostjax.concepts"
FACTORISED = 4096
"""Positions that are factorised, at most; all are explained by the concepts."""


@dataclasses.dataclass(frozen=True)
class Flags:
    """Find the concepts of a trained model's residual stream, and what they count for.

    The results are written to RUN/concepts.html and RUN/concepts.json.
    """

    run: Positional[str]
    """Directory of the run, or latest."""
    concepts: int = 16
    """Number of concepts."""
    tokens: int = 16384
    """Held-out tokens to find concepts and passages in, spread over the text."""
    positions: int = 256
    """Positions to measure importance on."""
    n_designs: int = 64
    """Sobol points for each position, a power of 2."""
    passages: int = 5
    """Passages to show of each concept."""
    seed: int = 0
    """Seed of the positions that are drawn."""
    step: int | None = None
    """Step of the checkpoint; default the newest."""
    average: bool = False
    """Use the moving average of the parameters, which runs with
    --objective.trajectory=mesa keep."""
    page: str | None = None
    """Directory of concepts.html and concepts.json; default RUN."""


def show_concepts(flags: Flags) -> None:
    """Find concepts, print their names, and write the page.

    Raises:
      ConfigError: if there is no such run or checkpoint, or a value is wrong.
      DataError: if the run's tokenizer or held-out text cannot be read.
    """
    _check(flags)
    run = load(flags.run, step=flags.step, average=flags.average)
    title = f"{run.directory}, step {run.step}"  # raises if there is no such step
    place = (
        run.directory if flags.page is None else read_path(flags.page, flag="--page")
    )
    _open_folder(place)
    stream = _read(run, flags, title=title)
    board = _judge(run, flags, stream, title=title)
    for number, each in enumerate(board.concepts, start=1):
        print(
            f"{number:>3}  {each.importance:.3f}  {each.without:+.3f}  "
            f"{name_concept(each)}"
        )
    print(describe_fidelity(board))
    _write(place, board)
    print(f"page     {place / 'concepts.html'}\nnumbers  {place / 'concepts.json'}")


def _read(run: Run, flags: Flags, *, title: str) -> Stream:
    """Read the stream, and refuse one that has no concepts."""
    plan = plan_text(None, run.config, tokenizer=run.tokenizer)
    batches = choose_batches(plan, tokens=flags.tokens)
    tokens = len(batches) * plan.batch_size * plan.sources[0].seq_len
    print(f"{title}: reading {format_count(tokens)} held-out tokens", flush=True)
    stream = read_stream(run.model, run.variables, plan=plan, batches=batches)
    if not np.all(np.isfinite(stream.states_ND)):
        raise ConfigError(
            f"{title}: its states are not numbers; --step= names another checkpoint"
        )
    most = min(len(stream.targets_N), FACTORISED, 2 * stream.states_ND.shape[1])
    if flags.concepts > most:
        raise ConfigError(
            f"--concepts={flags.concepts}: must be at most {most}, the positions that "
            "are factorised and twice the width"
        )
    return stream


def _judge(run: Run, flags: Flags, stream: Stream, *, title: str) -> Board:
    judge = Judge(run.model, run.variables, n_designs=flags.n_designs)
    count = min(flags.positions, len(stream.targets_N))
    _report_cost(judge, stream, flags, count=count)
    concepts = find_concepts(
        stream, rank=flags.concepts, most=FACTORISED, seed=flags.seed
    )
    print(
        f"{flags.concepts} concepts explain {100 * (1 - concepts.unexplained):.0f} % "
        "of the stream's square",
        flush=True,
    )
    shown = -1

    def tell(done: int) -> None:
        nonlocal shown
        if (tenth := 10 * done // count) > shown:
            shown = tenth
            print(f"{done}/{count} positions", flush=True)

    drawn = np.random.default_rng(flags.seed).permutation(len(stream.targets_N))
    judged = judge.judge(stream, concepts, rows_K=drawn[:count], tell=tell)
    found = describe_concepts(
        stream,
        concepts,
        judged,
        logits_RV=judge.direction_logits(concepts.w_RM),
        decode=lambda token: _decode(run, token),
        n_passages=flags.passages,
    )
    return Board(
        title, found, judged, count, len(stream.targets_N), concepts.unexplained
    )


def _report_cost(judge: Judge, stream: Stream, flags: Flags, *, count: int) -> None:
    """Time one call of the head and print what all will take."""
    rows = min(judge.chunk, count) * flags.n_designs
    states_ND = jnp.tile(jnp.asarray(stream.states_ND[:1]), (rows, 1))
    targets_N = jnp.tile(jnp.asarray(stream.targets_N[:1]), rows)
    for _ in range(2):  # the first call compiles
        began = time.monotonic()
        judge.losses(states_ND, targets_N).block_until_ready()
        seconds = time.monotonic() - began
    calls = -(-count // judge.chunk) * (flags.concepts + 2)
    print(
        f"{format_count(calls * rows)} evaluations of the head in about "
        f"{format_seconds(calls * seconds)}, after the factorisation; Ctrl-C ends it",
        flush=True,
    )


def _decode(run: Run, token: int) -> str:
    if token == run.tokenizer.eos_id:
        return "[end of text]"
    return run.tokenizer.decode([token])


def _check(flags: Flags) -> None:
    """Refuse values that are out of their range."""
    check_seed(flags.seed)
    for name, value, least, most in (
        ("concepts", flags.concepts, 1, 256),
        ("tokens", flags.tokens, 1, 1 << 20),
        ("positions", flags.positions, 1, 1 << 16),
        ("n-designs", flags.n_designs, 2, 4096),
        ("passages", flags.passages, 1, 100),
    ):
        if not least <= value <= most:
            raise ConfigError(f"--{name}={value}: must be {least} to {most}")
    if flags.n_designs & (flags.n_designs - 1):
        raise ConfigError(f"--n-designs={flags.n_designs}: must be a power of 2")


def _open_folder(place: Path) -> None:
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        is_file = isinstance(error, FileExistsError | NotADirectoryError)
        reason = "is a file, not a directory" if is_file else error.strerror
        raise ConfigError(f"--page={place}: {reason}") from None
    if not os.access(place, os.W_OK | os.X_OK):
        raise ConfigError(
            f"{place}: no permission to write in it; --page=DIR names another place"
        )


def _write(place: Path, board: Board) -> None:
    text = json.dumps(board_values(board), indent=1, ensure_ascii=False) + "\n"
    files = {"concepts.json": text, "concepts.html": render_board(board)}
    try:
        for name, content in files.items():
            replace_file(place / name, content.encode(errors="replace"))
    except OSError as error:
        raise ConfigError(f"{place}: cannot be written: {error.strerror}") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        show_concepts(parse_flags(Flags, words, program=PROGRAM))
    except (ConfigError, DataError) as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(run_program(main))
