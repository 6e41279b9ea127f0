"""Find the checkpoint to resume from: the newest one that is whole.

If files of a newer checkpoint are damaged, cut or missing, that checkpoint is set aside
with a message, and an older one is used. If no checkpoint is whole, nothing is changed.
"""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from lostjax.errors import ConfigError
from lostjax.train.devices.hosts import on_first_host
from lostjax.train.keep.step_directories import (
    find_step_damage,
    list_bare_steps,
    list_steps,
    set_aside,
    step_dir,
)

UNREADABLE = (
    *(ValueError, KeyError, OSError, TypeError, AttributeError, IndexError),
    RecursionError,
)
"""What orbax raises for files that fit their manifest and yet are no checkpoint."""

_JSON_FILES = ("_METADATA", "array_metadatas/*")


def find_whole_step(directory: Path, *, first: int | None = None) -> int | None:
    """Find the newest whole step, and set aside the damaged ones that are newer.

    A message is printed for each step that is set aside. With several processes the
    first one does the work for all.

    Args:
      directory: the directory of checkpoints.
      first: a step that is tried before all others, if it exists.

    Returns:
      The step; None if there is no checkpoint.

    Raises:
      ConfigError: if there are checkpoints and none is whole, with a list of them;
        nothing is set aside then.
    """
    return on_first_host(lambda: _find(directory, first)) or None


def summarise_damage(damage: Sequence[str]) -> str:
    """Format the result of `find_step_damage` as one clause of bounded length."""
    more = len(damage) - 2
    return ", ".join(damage[:2]) + (f" and {more} files more" if more > 0 else "")


def check_metadata(path: Path, items: Iterable[str]) -> None:
    """Refuse metadata that orbax would not expect, although its hash fits.

    Args:
      path: directory of a committed step.
      items: names of the items that are read.

    Raises:
      ConfigError: if a file of metadata is not a JSON object, or is nested too deeply.
    """
    for item in items:
        for pattern in _JSON_FILES:
            for file in sorted((path / item).glob(pattern)):
                try:
                    is_object = isinstance(json.loads(file.read_bytes()), dict)
                except (OSError, ValueError, RecursionError):
                    is_object = False
                if not is_object:
                    raise ConfigError(f"{file}: is not the metadata of a checkpoint")


def explain_bare_steps(directory: Path) -> str:
    """Format, in one line, why steps without a manifest do not count, and a remedy."""
    there = ", ".join(map(str, list_bare_steps(directory)))
    return (
        f"{directory}: its checkpoints (steps {there}) have no manifest, like those of "
        f"earlier versions; python -m lostjax.verify {directory.parent} --adopt "
        "accepts them as they are"
    )


def _find(directory: Path, first: int | None) -> int | None:
    damaged: dict[int, str] = {}
    steps = list_steps(directory) + list_bare_steps(directory)
    for step in sorted(steps, key=lambda step: (step != first, -step)):
        damage = find_step_damage(step_dir(directory, step))
        if not damage:
            _set_aside(directory, damaged, whole=step)
            return step
        damaged[step] = summarise_damage(damage)
    if damaged:
        raise ConfigError(_describe_loss(directory, damaged))
    return None


def _set_aside(directory: Path, damaged: Mapping[int, str], *, whole: int) -> None:
    for step, what in damaged.items():
        try:
            place = set_aside(directory, step)
        except OSError as error:
            raise ConfigError(
                f"{directory}: step {step} is damaged ({what}) and cannot be set "
                f"aside: {error.strerror}"
            ) from None
        print(
            f"checkpoint {step} is damaged ({what}): set aside as {place}; falling "
            f"back to step {whole}",
            file=sys.stderr,
        )


def _describe_loss(directory: Path, damaged: Mapping[int, str]) -> str:
    if not list_steps(directory):
        return explain_bare_steps(directory)
    each = "; ".join(f"step {step}: {what}" for step, what in damaged.items())
    return (
        f"{directory}: no checkpoint is whole ({each}); restore one from a backup, or "
        "start a new run in another directory"
    )
