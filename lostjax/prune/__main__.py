"""Prune a run at once and see what it costs: `python -m lostjax.prune RUN`.

    python -m lostjax.prune latest
    python -m lostjax.prune RUN --nm=2:4 --out=runs/pruned

The smallest weights of all matrices are removed, at ten sparsities, and the held-out
bits per byte are computed without any training; weights removed at random stand beside
them. The essential sparsity is the end of the plateau (`lostjax.analysis`). The page
and its numbers are written to RUN/prune.html and RUN/prune.json. A program that was
stopped continues from RUN/prune.partial.jsonl. With `--out` a run with the pruned
parameters is written, which other programs read as any other run.
"""

from lostjax.extras import require_train

if __name__ == "__main__":
    require_train("python -m lostjax.prune")

import dataclasses
import json
import math
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax

from lostjax.analysis import apply_mask
from lostjax.data import EvalPlan
from lostjax.disk.files import replace_file
from lostjax.disk.partial import PartialResults
from lostjax.disk.paths import read_path
from lostjax.errors import ConfigError, DataError
from lostjax.prune import curve
from lostjax.prune.curve import Scored, Setting
from lostjax.prune.page import (
    Pruning,
    describe_plateau,
    list_values,
    render_pruning,
)
from lostjax.steps.score import make_passage_step
from lostjax.train.flags import Positional, parse_flags
from lostjax.train.interface.derived import check_place, write_derived
from lostjax.train.interface.finished import Run, load
from lostjax.train.interface.texts import plan_text
from lostjax.train.log.output import run_program
from lostjax.typing import PyTree
from lostjax.view.numbers import format_count, format_loss, format_seconds

PROGRAM = "python -m lostjax.prune"
PARTIAL = "prune.partial.jsonl"


@dataclasses.dataclass(frozen=True)
class Flags:
    """Remove weights of a trained model without training, and measure what it costs.

    The smallest weights of all matrices together are removed; the same number at random
    are removed beside them. The results are written to RUN/prune.html and prune.json.
    """

    run: Positional[str]
    """Directory of the run, or latest."""
    sparsities: str = "0.05,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9"
    """Shares of the weights to remove, with commas between them; two or more."""
    nm: str | None = None
    """Also test a pattern N:M, such as 2:4: the largest N of each M consecutive weights
    along the inputs are kept."""
    tolerance: float = 0.01
    """Share by which the bits per byte may rise on the plateau."""
    tokens: int = 32768
    """Held-out tokens to score each mask on, spread over the text."""
    seed: int = 0
    """Seed of the random masks."""
    step: int | None = None
    """Step of the checkpoint; default the newest."""
    out: str | None = None
    """New directory for a run with the pruned parameters: with --nm of the pattern,
    otherwise of --sparsity."""
    sparsity: float | None = None
    """Share of the weights removed in --out; default the largest tested share on the
    plateau."""
    page: str | None = None
    """Directory of prune.html and prune.json; default RUN."""


class Asked:
    """The flags, checked."""

    def __init__(self, flags: Flags) -> None:
        self.sparsities = _read_sparsities(flags.sparsities)
        self.pattern = None if flags.nm is None else _read_pattern(flags.nm)
        if not 0 < flags.tolerance < 1:
            raise ConfigError(f"--tolerance={flags.tolerance}: must lie in (0, 1)")
        if flags.tokens < 1:
            raise ConfigError(f"--tokens={flags.tokens}: must be at least 1")
        if not 0 <= flags.seed < 2**32:
            raise ConfigError(f"--seed={flags.seed}: must lie in [0, 2^32)")
        if flags.sparsity is not None:
            _check_sparsity(flags)


def prune(flags: Flags, *, command: str) -> None:
    """Compute the curve, and write the page and the pruned run.

    Raises:
      ConfigError, DataError: if a flag is wrong, or the run or its text cannot be read.
    """
    asked = Asked(flags)
    run = load(flags.run, step=flags.step)
    title = f"{run.directory}, step {run.step}"  # raises if there is no such step
    place = (
        run.directory if flags.page is None else read_path(flags.page, flag="--page")
    )
    _open_folder(place)
    config = None if flags.out is None else check_place(run, flags.out)
    plan = plan_text(None, run.config, tokenizer=run.tokenizer)
    identity = run.identity | {
        "text": [rows.content_hash for rows in plan.sources],
        "--tokens": flags.tokens,
        "--seed": flags.seed,
    }
    with PartialResults(place / PARTIAL, identity=identity) as partial_results:
        pruning = _measure(
            run,
            flags,
            asked,
            plan=plan,
            partial_results=partial_results,
            title=title,
        )
        _write(place, pruning)
    print(describe_plateau(pruning.plateau, tolerance=flags.tolerance))
    print(f"page     {place / 'prune.html'}\nnumbers  {place / 'prune.json'}")
    if config is not None:
        setting = _choose(flags, asked, tested=pruning.plateau.tested)
        mask = setting.make(run.params)
        write_derived(
            run,
            lambda params: apply_mask(params, mask),
            config=config,
            command=command,
        )
        print(
            f"run      {flags.out}: without {_name(setting)}; python -m lostjax.train "
            f"--init-from={flags.out} --optim.keep-zeros trains the others"
        )


def _measure(
    run: Run,
    flags: Flags,
    asked: Asked,
    *,
    plan: EvalPlan,
    partial_results: PartialResults,
    title: str,
) -> Pruning:
    """Score all masks, with a line for each."""
    params = run.params
    unfit = _list_unfit(params, asked)
    passages = curve.choose_passages(plan, tokens=flags.tokens)
    settings = curve.list_settings(
        asked.sparsities, pattern=asked.pattern, seed=flags.seed
    )
    step = jax.jit(make_passage_step(run.model))
    print(
        f"{title}: {len(settings)} masks on "
        f"{format_count(passages.n_tokens)} held-out tokens each; compiling",
        flush=True,
    )
    jax.block_until_ready(step(run.variables, plan.batch_at(passages.batches[0])))
    began = time.monotonic()
    _, tokens_R = curve.score_passages(step, run.variables, passages)
    left = max(0, len(settings) - len(partial_results))
    seconds = (time.monotonic() - began) * left
    print(f"about {format_seconds(seconds)}; Ctrl-C stops it", flush=True)
    scored: list[Scored] = []
    for each in curve.score_settings(
        settings,
        run.variables,
        step=step,
        passages=passages,
        partial_results=partial_results,
    ):
        scored.append(each)
        bits = curve.bits_per_byte(each.nats_R, tokens_R, passages)
        whole = curve.bits_per_byte(scored[0].nats_R, tokens_R, passages)
        print(_describe(each, bits, whole), flush=True)
        if not math.isfinite(whole):
            partial_results.discard()
            raise ConfigError(
                f"{title}: its loss is not a number; --step= names another"
            )
    plateau = curve.find_plateau(
        [
            each
            for each in scored
            if each.setting.kind in (curve.WHOLE, curve.MAGNITUDE)
        ],
        tokens_R,
        tolerance=flags.tolerance,
    )
    # If nothing can be removed, the page shows what the smallest share would be.
    shown = max(plateau.tested, asked.sparsities[0])
    [by_size] = curve.list_settings([shown], pattern=None, seed=0)[1:2]
    return Pruning(
        title=title,
        scored=scored,
        tokens_R=tokens_R,
        passages=passages,
        plateau=plateau,
        tolerance=flags.tolerance,
        unfit=unfit,
        removed=curve.count_by_matrix(by_size.make(params)),
        removed_by=_name(by_size),
    )


def _list_unfit(params: PyTree, asked: Asked) -> list[str]:
    """List the matrices that the pattern does not fit, if it fits others."""
    if asked.pattern is None:
        return []
    keep, of = asked.pattern
    unfit = curve.list_unfit(params, of=of)
    if len(unfit) == len(curve.list_matrices(params)):
        raise ConfigError(
            f"--nm={keep}:{of}: groups of {of} divide the inputs of no matrix"
        )
    return unfit


def _choose(flags: Flags, asked: Asked, *, tested: float) -> Setting:
    """Choose what is removed in the pruned run."""
    if flags.sparsity is None and asked.pattern is None and not tested:
        raise ConfigError(
            f"--out={flags.out}: not written, because no tested share is on the "
            "plateau; --sparsity= names one, and a larger --tolerance has more"
        )
    sparsity = tested if flags.sparsity is None else flags.sparsity
    settings = curve.list_settings([sparsity], pattern=asked.pattern, seed=0)
    return settings[1 if asked.pattern is None else 2]


def _name(setting: Setting) -> str:
    if setting.kind == curve.MAGNITUDE:
        return f"the smallest {100 * setting.sparsity:g} % of the weights"
    keep, _, of = setting.kind.partition(":")
    return f"all but the largest {keep} of each {of} weights"


def _describe(scored: Scored, bits: float, whole: float) -> str:
    names = {
        curve.WHOLE: "whole model",
        curve.MAGNITUDE: "smallest",
        "random": "random",
    }
    kind = scored.setting.kind
    name = names.get(kind, kind)
    if kind != curve.WHOLE:
        name += f" {100 * scored.sparsity:.3g} %"
    rise = "" if kind == curve.WHOLE else f"  {100 * (bits / whole - 1):+.1f} %"
    return f"{name:<16} {format_loss(bits)} bits per byte{rise}"


def _write(place: Path, pruning: Pruning) -> None:
    text = json.dumps(list_values(pruning), indent=1, allow_nan=False) + "\n"
    try:
        replace_file(place / "prune.json", text.encode())
        replace_file(place / "prune.html", render_pruning(pruning).encode())
    except OSError as error:
        raise ConfigError(f"{place}: cannot be written: {error.strerror}") from None


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


def _read_sparsities(text: str) -> list[float]:
    numbers = []
    for word in filter(None, text.replace(" ", "").split(",")):
        try:
            number = float(word)
        except ValueError:
            number = -1.0
        if not 0 < number < 1:
            raise ConfigError(
                f"--sparsities={text}: {word!r} must be a number in (0, 1)"
            )
        numbers.append(number)
    if len(set(numbers)) < max(2, len(numbers)):
        raise ConfigError(f"--sparsities={text}: needs two or more, each once")
    return sorted(numbers)


def _read_pattern(text: str) -> tuple[int, int]:
    keep, _, of = text.partition(":")
    if not (keep.isascii() and keep.isdigit() and of.isascii() and of.isdigit()):
        raise ConfigError(f"--nm={text}: must be N:M, such as 2:4")
    if not 1 <= int(keep) < int(of):
        raise ConfigError(
            f"--nm={text}: N of each M weights are kept, so 1 <= N < M, such as 2:4"
        )
    return int(keep), int(of)


def _check_sparsity(flags: Flags) -> None:
    assert flags.sparsity is not None
    if not 0 < flags.sparsity < 1:
        raise ConfigError(f"--sparsity={flags.sparsity}: must lie in (0, 1)")
    if flags.out is None:
        raise ConfigError(
            f"--sparsity={flags.sparsity}: is that of a pruned run, which needs --out; "
            "--sparsities are those of the curve"
        )
    if flags.nm is not None:
        raise ConfigError("--sparsity and --nm: use one of them, not both")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        flags = parse_flags(Flags, words, program=PROGRAM)
        prune(flags, command=f"{PROGRAM} {shlex.join(words)}")
    except (ConfigError, DataError) as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(run_program(main))
