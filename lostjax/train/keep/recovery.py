"""Which checkpoint a run goes on from: the newest that is whole.

A damaged, cut or missing piece of a newer one does not end the run: that step is set
aside, said, and an older one taken. Where none is whole nothing is touched.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from lostjax.disk.manifest import find_damage
from lostjax.errors import ConfigError
from lostjax.train.devices.hosts import on_first_host
from lostjax.train.keep.step_directories import (
    list_bare_steps,
    list_steps,
    set_aside,
    step_dir,
)


def find_whole_step(directory: Path, *, first: int | None = None) -> int | None:
    """Find the newest whole step and set damaged newer ones aside, saying so.

    Of several processes the first one does it, for all.

    Args:
      directory: of checkpoints.
      first: is tried before all others, where it is there.

    Returns:
      The step, or None where there is no checkpoint at all.

    Raises:
      ConfigError: where there are checkpoints but none is whole; it lists them, and
        nothing is set aside.
    """
    return on_first_host(lambda: _find(directory, first)) or None


def summarise_damage(damage: Sequence[str]) -> str:
    """Put what `find_damage` found into a clause, however much it is."""
    more = len(damage) - 2
    return ", ".join(damage[:2]) + (f" and {more} files more" if more > 0 else "")


def explain_bare_steps(directory: Path) -> str:
    """Say in a line why steps without a manifest do not count, and the way out."""
    there = ", ".join(map(str, list_bare_steps(directory)))
    return (
        f"{directory}: its checkpoints (steps {there}) have no manifest, as those of "
        f"earlier versions; python -m lostjax.verify {directory.parent} --adopt takes "
        "them as they are"
    )


def _find(directory: Path, first: int | None) -> int | None:
    damaged: dict[int, str] = {}
    steps = list_steps(directory) + list_bare_steps(directory)
    for step in sorted(steps, key=lambda step: (step != first, -step)):
        damage = find_damage(step_dir(directory, step))
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
            f"checkpoint {step} is damaged ({what}): set aside as {place}; going on "
            f"from step {whole}",
            file=sys.stderr,
        )


def _describe_loss(directory: Path, damaged: Mapping[int, str]) -> str:
    if not list_steps(directory):
        return explain_bare_steps(directory)
    each = "; ".join(f"step {step}: {what}" for step, what in damaged.items())
    return (
        f"{directory}: no checkpoint is whole ({each}); put one back from a copy, or "
        "start anew in another directory"
    )
