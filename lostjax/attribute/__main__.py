"""Show what a run's model rests on: `python -m lostjax.attribute RUN --text "..."`.

The model continues the text, or reads `--continuation`. Each token of the continuation
is attributed to the tokens of the text by ReAGent and seven other methods, side by
side, as heat maps in RUN/attribute.html. A program that was stopped continues from
RUN/attribute.partial.jsonl. The checkpoint may have been saved on any mesh, and is
restored onto one device.
"""

from lostjax.extras import require_train

if __name__ == "__main__":
    require_train("python -m lostjax.attribute")

import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from lostjax.analysis import ngram_sampler, uniform_sampler, unigram_sampler
from lostjax.analysis.attribution.samplers import Sampler
from lostjax.attribute.explain import (
    Explained,
    Explainer,
    explained_values,
    read_explained,
)
from lostjax.attribute.methods import METHODS, Settings
from lostjax.attribute.page import (
    attribution_values,
    quote_token,
    render_attribution,
    tabulate_methods,
)
from lostjax.disk.files import replace_file
from lostjax.disk.partial import PartialResults
from lostjax.disk.paths import read_path
from lostjax.disk.seal import digest
from lostjax.errors import ConfigError, DataError, nearest_hint
from lostjax.nn import sample_tokens
from lostjax.train.config.checks import check_seed
from lostjax.train.flags import Positional, parse_flags
from lostjax.train.interface.finished import Run, load
from lostjax.train.interface.texts import read_heldout_tokens
from lostjax.train.log.output import run_printing_program
from lostjax.view.numbers import format_count, format_seconds
from lostjax.view.page import Table

PROGRAM = "python -m lostjax.attribute"
PAGE = "attribute.html"
PARTIAL = ".partial.jsonl"
"""End of the name of the file that is beside the page until it is written."""
MOST_TOKENS = 1024
"""Tokens of the text, and of the continuation: the scores of each are a table."""


@dataclasses.dataclass(frozen=True)
class Flags:
    """Show which tokens of a text a trained model's next tokens rest on."""

    run: Positional[str]
    """Directory of the run, or latest."""
    text: str = "Fellow citizens of the Senate and House of"
    """The text that the model continues, of two tokens or more."""
    continuation: str | None = None
    """Explain this continuation; default what the model finds most likely."""
    tokens: int = 8
    """Number of tokens to generate and explain."""
    methods: str = "all"
    """Names of methods with commas between them: reagent, occlusion, lime,
    gradient_norm, gradient_times_input, integrated_gradients, attention, rollout."""
    sampler: Literal["ngram", "unigram", "uniform"] = "ngram"
    """How ReAGent draws replacements: to fit both neighbours, by frequency (both in
    the run's held-out text), or all tokens alike."""
    n_probes: int = 16
    """Independent probes of ReAGent; more make its scores vary less."""
    max_steps: int = 50
    """Steps after which ReAGent stops."""
    seed: int = 0
    """Seed of the methods that draw."""
    step: int | None = None
    """Step of the checkpoint; default the newest."""
    average: bool = False
    """Use the moving average of the parameters, which runs with
    --objective.trajectory=mesa keep."""
    out: str | None = None
    """File of the page; default RUN/attribute.html."""
    json: bool = False
    """Print JSON instead of a table."""


def attribute(flags: Flags) -> None:
    """Explain a continuation, print a table, and write the page.

    Raises:
      ConfigError: if there is no such run or checkpoint, or a value is wrong.
      DataError: if the run's tokenizer or held-out text cannot be read.
    """
    methods = _check(flags)
    run = load(flags.run, step=flags.step, average=flags.average)
    out = (
        run.directory / PAGE
        if flags.out is None
        else read_path(flags.out, flag="--out")
    )
    _check_out(out)
    prompt = _encode(run, "--text", flags.text)
    if len(prompt) < 2:
        raise ConfigError(f"--text={flags.text!r}: needs 2 tokens or more")
    # Before the model is read.
    sampler, text = _make_sampler(flags.sampler, run, prompt)
    continuation = _continue(run, flags, prompt)
    explainer = Explainer(
        run.model,
        run.variables,
        row_N=jnp.asarray([run.tokenizer.eos_id, *prompt, *continuation], jnp.int32),
        n_prompt=len(prompt),
        methods=methods,
        settings=Settings(
            sampler, flags.n_probes, flags.max_steps, replacement=run.tokenizer.eos_id
        ),
    )
    identity = run.identity | {
        "--text": prompt,
        "continuation": continuation,
        "--methods": methods,
        "--sampler": flags.sampler,
        "text of the sampler": text,
        "--n-probes": flags.n_probes,
        "--max-steps": flags.max_steps,
        "--seed": flags.seed,
    }
    name = f"{run.directory}, step {run.step}"

    def decode(token: int) -> str:
        return _decode(run, token)

    place = out.with_name(out.stem + PARTIAL)
    with PartialResults(place, identity=identity) as partial_results:
        _report_cost(run, explainer, done=len(partial_results))
        explained = _explain_all(
            run, explainer, seed=flags.seed, partial_results=partial_results
        )
        page = render_attribution(
            explained, run=name, prompt=flags.text, prompt_tokens=prompt, decode=decode
        )
        try:
            replace_file(out, page.encode())
        except OSError as error:
            raise ConfigError(f"--out={out}: {error.strerror}") from None
    if flags.json:
        facts = {"run": str(run.directory), "step": run.step, "page": str(out)}
        found = attribution_values(explained, prompt_tokens=prompt, decode=decode)
        print(json.dumps(facts | found))
        return
    print(f"{format_table(tabulate_methods(explained))}\n\n{out}")


def format_table(table: Table) -> str:
    """Format a table as columns of text, numbers to the right."""
    lines = [table.head, *table.rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def _check(flags: Flags) -> tuple[str, ...]:
    """Refuse values that are out of their range; return the methods."""
    check_seed(flags.seed)
    for name, value in (
        ("tokens", flags.tokens),
        ("n-probes", flags.n_probes),
        ("max-steps", flags.max_steps),
    ):
        if not 1 <= value <= MOST_TOKENS:
            raise ConfigError(f"--{name}={value}: must be 1 to {MOST_TOKENS}")
    if flags.methods == "all":
        return tuple(METHODS)
    names = tuple(dict.fromkeys(name.strip() for name in flags.methods.split(",")))
    for name in names:
        if name not in METHODS:
            raise ConfigError(
                f"--methods={flags.methods}: {name!r} is none of "
                f"{', '.join(METHODS)}{nearest_hint(name, METHODS)}"
            )
    return names


def _check_out(out: Path) -> None:
    """Refuse a page that cannot be written, before minutes of work."""
    if out.is_dir():
        raise ConfigError(f"--out={out}: is a directory; name a file, as {out / PAGE}")
    if not out.parent.is_dir():
        raise ConfigError(f"--out={out}: there is no directory {out.parent}")
    if not os.access(out.parent, os.W_OK):
        raise ConfigError(f"--out={out}: {out.parent} cannot be written; name another")


def _encode(run: Run, flag: str, text: str) -> list[int]:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{flag}: is not valid Unicode") from None
    tokens = [int(token) for token in run.tokenizer.encode_batch([text])[0]]
    if len(tokens) > MOST_TOKENS:
        raise ConfigError(f"{flag}: has {len(tokens)} tokens, may have {MOST_TOKENS}")
    return tokens


def _make_sampler(name: str, run: Run, prompt: Sequence[int]) -> tuple[Sampler, str]:
    """Make a sampler; returns it and the hash of the text that it is of."""
    vocab_size = run.tokenizer.vocab_size
    if name == "uniform":
        return uniform_sampler(vocab_size), ""
    try:
        tokens_N = read_heldout_tokens(run.config, tokenizer=run.tokenizer)
    except DataError as error:
        raise DataError(f"{error}; --sampler=uniform needs no text") from None
    text = digest(tokens_N.tobytes())
    if name == "unigram":
        return unigram_sampler(tokens_N, vocab_size=vocab_size), text
    return ngram_sampler(tokens_N, np.asarray(prompt), vocab_size=vocab_size), text


def _continue(run: Run, flags: Flags, prompt: Sequence[int]) -> list[int]:
    """Return the tokens to explain, up to the end of the text if it is generated."""
    eos = run.tokenizer.eos_id
    if flags.continuation is not None:
        tokens = _encode(run, "--continuation", flags.continuation)
        if not tokens:
            raise ConfigError("--continuation: has no token")
        return tokens
    drawn_BT = sample_tokens(
        run.model,
        run.variables,
        prompt_BT=jnp.asarray([[eos, *prompt]], jnp.int32),
        n_tokens=flags.tokens,
        key=jax.random.key(flags.seed),
        temperature=0.0,
    )
    tokens = [int(token) for token in drawn_BT[0, 1 + len(prompt) :]]
    return tokens[: tokens.index(eos) + 1] if eos in tokens else tokens


def _decode(run: Run, token: int) -> str:
    if token == run.tokenizer.eos_id:
        return "[end of text]"
    return run.tokenizer.decode([token])


def _report_cost(run: Run, explainer: Explainer, *, done: int) -> None:
    left = explainer.n_tokens - done
    if not left:
        return
    seconds, compiling = explainer.time_pass()
    # Gradients and loops compile longer than the pass that was timed.
    compiling *= 2 * explainer.n_programs
    passes = explainer.most_passes * left // explainer.n_tokens
    _say(
        f"{run.directory}, step {run.step}, tokens to explain: {left}; at most "
        f"{format_count(passes)} forward passes in about "
        f"{format_seconds(passes * seconds)}, after about "
        f"{format_seconds(compiling)} of compiling; Ctrl-C stops it"
    )


def _explain_all(
    run: Run, explainer: Explainer, *, seed: int, partial_results: PartialResults
) -> list[Explained]:
    def tell(name: str) -> None:
        _say(f"compiling {METHODS[name].title if name in METHODS else name}")

    explained: list[Explained] = []
    say: Callable[[str], None] = tell
    for index in range(explainer.n_tokens):
        if found := partial_results.find(str(index)):
            explained.append(read_explained(found))
            continue
        started = time.perf_counter()
        one = explainer.explain(index, seed=seed, tell=say)
        say = _ignore
        explained.append(one)
        partial_results.keep(str(index), explained_values(one))
        seconds = format_seconds(time.perf_counter() - started)
        token = quote_token(_decode(run, one.token))
        _say(
            f"{index + 1}/{explainer.n_tokens}  {token}, probability "
            f"{one.probability:.3g}, {seconds}"
        )
    return explained


def _ignore(name: str) -> None:
    """Say nothing of a method that is compiled."""


def _say(line: str) -> None:
    """Print progress beside the output, which another program may read."""
    print(line, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        attribute(parse_flags(Flags, words, program=PROGRAM))
    except (ConfigError, DataError) as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(run_printing_program(main))
