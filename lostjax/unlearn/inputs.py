"""What the program is given: flags completed, files read, runs opened.

Everything here is refused before a model is read.
"""

import dataclasses
import hashlib
from functools import partial
from pathlib import Path
from typing import NamedTuple

from lostjax.disk.paths import read_path
from lostjax.errors import ConfigError
from lostjax.train.config.schema import TrainConfig
from lostjax.train.interface.finished import Run, load
from lostjax.unlearn.examples import Example, read_examples, refuse_common
from lostjax.unlearn.flags import Flags
from lostjax.unlearn.measure import Measures

_NEAR = 5  # every fifth retained example is a neighbour


class Examples(NamedTuple):
    """What the files hold."""

    forget: list[Example]
    retain: list[Example] | None
    near: list[Example] | None


def complete_flags(flags: Flags, run: Run) -> Flags:
    """Replace defaults that depend on the run or on other flags."""
    tenth = run.config.optim.learning_rate / 10
    return dataclasses.replace(
        flags,
        learning_rate=flags.learning_rate or tenth,
        relearn_rate=flags.relearn_rate or tenth,
        check_every=flags.check_every or max(1, flags.steps // 10),
    )


def settle_config(run: Run, flags: Flags) -> TrainConfig:
    """Return the run's configuration for the mesh and the batch of unlearning."""
    mesh = run.config.mesh if flags.mesh is None else flags.mesh
    return dataclasses.replace(
        run.config, mesh=mesh, batch_size=flags.batch_size, accumulate=1
    )


def choose_out(run: Run, flags: Flags) -> Path:
    if flags.out is not None:
        return read_path(flags.out, flag="--out")
    place = run.directory.absolute()
    return place.with_name(f"{place.name}-unlearned")


def read_all(flags: Flags, run: Run) -> Examples:
    """Read the files; every fifth retained example is a neighbour if none is named."""
    read = partial(
        read_examples,
        tokenizer=run.tokenizer,
        seq_len=run.config.data.seq_len,
        template=flags.template,
    )
    assert flags.forget is not None
    forget = read(flags.forget, flag="--forget")
    retain = near = None
    if flags.retain is not None:
        retain = read(flags.retain, flag="--retain")
        refuse_common(forget, retain)
    if flags.neighbours is not None:
        near = read(flags.neighbours, flag="--neighbours")
        refuse_common(forget, near)
    elif retain is not None and len(retain) >= _NEAR:
        near = retain[::_NEAR]
        retain = [each for i, each in enumerate(retain) if i % _NEAR]
    return Examples(forget, retain, near)


def open_other(against: str, run: Run) -> Run:
    """Open the run that was trained without the forgotten examples."""
    other = load(against)
    if other.tokenizer.fingerprint != run.tokenizer.fingerprint:
        raise ConfigError(
            f"--against={against}: has another tokenizer ({other.tokenizer.vocab_size} "
            f"tokens, {run.tokenizer.vocab_size} in {run.directory})"
        )
    other.step  # noqa: B018  raises if there is no checkpoint
    return other


def list_settings(flags: Flags, run: Run) -> dict[str, object]:
    """List what unfinished work must agree in to be continued."""
    values: dict[str, object] = dataclasses.asdict(flags)
    for name in ("out", "against", "relearn_steps", "relearn_rate", "tokens"):
        values.pop(name)
    values.pop("mesh")  # any mesh may continue
    values |= {"run": str(run.directory.absolute()), "step": run.step}
    for name in ("forget", "retain", "neighbours"):
        path = getattr(flags, name)
        if path is not None:
            content = read_path(path, flag=f"--{name}").read_bytes()
            values[name] = hashlib.sha256(content).hexdigest()
    return values


def list_facts(flags: Flags) -> list[tuple[str, str]]:
    """List the flags that decide the numbers, as they are read."""
    names = [field.name for field in dataclasses.fields(flags)]
    hidden = {"run", "out", "step"}
    values = {name: getattr(flags, name) for name in names if name not in hidden}
    return [
        (name.replace("_", "-"), str(value))
        for name, value in values.items()
        if value is not None
    ]


def list_notes(flags: Flags, examples: Examples, before: Measures) -> list[str]:
    notes = [
        "The membership score tells the forgotten answers from pieces of held-out text "
        "of the same lengths. If these differ in kind, part of the score is that: "
        "compare it with the score of a model that never saw the answers.",
    ]
    if examples.near is not None and flags.neighbours is None:
        notes.append("Neighbours are every fifth of the retained examples, held back.")
    if before.probability < 0.1:
        notes.append(
            "The model hardly knew the answers before, so there was little to forget."
        )
    return notes
