"""The table of attacks, and what a draw is."""

import random
from collections.abc import Callable
from typing import NamedTuple

from campaign import attacks, damage
from campaign.supervisor import PHASES


class Attack(NamedTuple):
    """One attack."""

    act: Callable
    promise: str
    """A heading of RELIABILITY.md."""
    codes: frozenset = frozenset()
    """Exit codes other than 0 that the attacked processes may have."""
    phases: tuple[str, ...] = tuple(PHASES)
    """Phases in which there is something to attack."""
    processes: tuple[int, ...] = (1,)
    """Numbers of processes, one of which is drawn."""
    may_refuse: bool = False
    """Whether the run may refuse to resume, in one line."""
    may_lose_lines: bool = False
    """Whether lines of metrics or evaluations may be lost, if their file is named."""
    starts_again: bool = False
    """Whether the run is started again even after a good end."""
    needs_mounts: bool = False


KILLED, FAILED, REFUSED = -9, 1, 2
HAS_DIRECTORY = tuple(PHASES)[1:]
HAS_CHECKPOINT = ("evaluation", "final save", "report")
AT_ANY_MOMENT = (
    "A run that is killed at any moment and restarted ends as if nothing had happened"
)
SIGNALS = (
    "SIGTERM, Ctrl-C, SIGQUIT and a closed terminal save first, on one process or on "
    "many"
)
BROKEN_OUTPUT = "Output that breaks does not stop a run"
DISK = "A save that fails during a run does not stop the run"
OPEN_FILES = (
    "A save that hangs or runs out of open files does not hold up the run or its end"
)
DIRECTORY = "A run whose directory is deleted or renamed makes it again"

ATTACKS = {
    "kill": Attack(
        attacks.kill, AT_ANY_MOMENT, frozenset({KILLED}), processes=(1, 1, 2)
    ),
    "stop": Attack(attacks.stop, AT_ANY_MOMENT, processes=(1, 2)),
    "process": Attack(
        attacks.kill_one,
        "If one of several processes dies, the others end with a message",
        frozenset({KILLED, FAILED, REFUSED}),  # refused: it never joined
        processes=(2,),
    ),
    "flags": Attack(
        attacks.start_differently,
        "Processes that were started differently refuse to start",
        frozenset({REFUSED}),
        processes=(2,),
    ),
    "signal": Attack(attacks.send_signal, SIGNALS, processes=(1, 1, 2)),
    "two signals": Attack(
        attacks.send_two_signals,
        "A second signal ends the program at once, even during a save",
        frozenset({143, -15}),
    ),
    "pipe": Attack(attacks.break_pipe, BROKEN_OUTPUT, processes=(1, 1, 2)),
    "full output": Attack(attacks.fill_output, BROKEN_OUTPUT),
    "disk": Attack(
        attacks.fill_disk, DISK, frozenset({FAILED, REFUSED}), needs_mounts=True
    ),
    "open files": Attack(
        attacks.allow_few_files, OPEN_FILES, frozenset({FAILED, REFUSED})
    ),
    "checkpoint": Attack(
        damage.damage_checkpoint,
        "A damaged checkpoint costs only the steps since the one before it",
        frozenset({KILLED}),
        HAS_CHECKPOINT,
        may_refuse=True,  # if no other one is whole
        starts_again=True,
    ),
    "file": Attack(
        damage.damage_run_file,
        "Every file that a run reads again is vouched for by a hash",
        frozenset({KILLED}),
        HAS_DIRECTORY,
        may_refuse=True,
        may_lose_lines=True,
        starts_again=True,
    ),
    "cache": Attack(
        damage.damage_cache,
        "Damage in the cache is repaired, never used",
        frozenset({KILLED}),
        starts_again=True,
    ),
    "link": Attack(
        damage.link,
        "Nothing in a run's directory leads out of it",
        frozenset({KILLED}),
        HAS_DIRECTORY,
        may_refuse=True,
        starts_again=True,
    ),
    "clock": Attack(
        attacks.set_clock,
        "Setting the clock back or forward changes nothing",
        frozenset({KILLED}),
    ),
    "rename": Attack(
        attacks.rename_directory, DIRECTORY, frozenset({FAILED, REFUSED}), HAS_DIRECTORY
    ),
    "delete": Attack(
        attacks.delete_directory,
        DIRECTORY,
        frozenset({FAILED, REFUSED}),
        HAS_DIRECTORY,
        may_refuse=True,  # what a save under way made anew is no run
    ),
    "second run": Attack(
        attacks.start_second_run,
        "Two runs never write to one directory",
        phases=HAS_DIRECTORY,
        processes=(1, 2),
    ),
}
"""By the names that draws have."""


class Draw(NamedTuple):
    """What happens in one draw."""

    number: int
    name: str
    attack: Attack
    processes: int
    phase: str
    rng: random.Random


def make_draw(number: int) -> Draw:
    """Draw an attack: a pure function of the number.

    As many draws in a row as there are attacks have each of them once.
    """
    names = sorted(ATTACKS)
    block, place = divmod(number, len(names))
    random.Random(f"block {block}").shuffle(names)
    attack, rng = ATTACKS[names[place]], random.Random(f"draw {number}")
    processes, phase = rng.choice(attack.processes), rng.choice(attack.phases)
    return Draw(number, names[place], attack, processes, phase, rng)
