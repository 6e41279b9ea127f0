"""Attacks on a run's processes, their output, their disk and their directory.

An attack starts the run of a `World`, does its harm, and returns the processes that it
started. Whoever called it waits for their ends, undoes the harm (`World.after`) and
starts the run again.
"""

import shutil
import signal
import time
from pathlib import Path

from campaign.world import Violation

MOVING_CLOCK = Path(__file__).parents[1] / "moving_clock.py"
REFUSALS = ("is writing this run", "is running already", "Address already in use")
OUTSIDE_OF_THE_RUN = {"start-up", "report"}
"""Phases in which a signal ends the process at once."""


def kill(world):
    """All processes at once, as by a loss of power."""
    group = world.start()
    world.freeze(group)
    for run in group:
        run.send(signal.SIGKILL)
    return group


def kill_one(world):
    group = world.start()
    world.freeze(group)
    victim = world.rng.choice(group)
    victim.send(signal.SIGKILL)
    world.thaw(*group)
    return group


def stop(world):
    """Freeze one process for a while."""
    group = world.start()
    world.freeze(group)
    victim = world.rng.choice(group)
    world.thaw(*(run for run in group if run is not victim))
    time.sleep(world.rng.uniform(0.2, 4))
    world.thaw(victim)
    return group


def send_signal(world):
    group = world.start()
    world.freeze(group)
    names = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT")
    number = getattr(signal, world.rng.choice(names))
    world.detail = number.name
    world.codes |= {128 + number}
    if not world.hit or world.hit & OUTSIDE_OF_THE_RUN:
        world.codes |= {-number, 1} if world.processes > 1 else {-number}
    world.rng.choice(group).send(number)
    world.thaw(*group)
    return group


def send_two_signals(world):
    group = world.start()
    world.freeze(group)
    group[0].send(signal.SIGTERM)
    world.thaw(*group)
    time.sleep(world.rng.uniform(0, 0.3))
    group[0].send(signal.SIGTERM)
    return group


def break_pipe(world):
    """Close the reader of standard output, error, or both."""
    group = world.start(piped=True)
    world.freeze(group)
    victim = world.rng.choice(group)
    chosen = world.rng.choice([(0,), (1,), (0, 1)])
    world.detail = f"descriptors {[number + 1 for number in chosen]}"
    for number in chosen:
        victim.pipes.cut(number)
    world.thaw(*group)
    return group


def fill_output(world):
    """Standard output, error, or both go to a full disk from the start."""
    with open("/dev/full", "w") as full, (world.place / "rest").open("w") as rest:
        out = world.rng.choice([(full, rest), (rest, full), (full, full)])
        return world.start(out=out)


def fill_disk(world):
    """No byte is free from some moment on, for a while or until the end."""
    disk = world.mount("24m")
    group = world.start()
    world.freeze(group)
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while file.write(b"x" * size) == size:
                    pass
            except OSError:
                pass
    world.thaw(*group)
    world.after = lambda: filler.unlink(missing_ok=True)
    if world.rng.random() < 0.5:
        time.sleep(world.rng.uniform(0, 1))
        world.after()
    return group


def allow_few_files(world):
    """Let the process open few files, as many as it needs for a start or fewer."""
    most = world.rng.randint(12, 120)
    world.detail = f"at most {most} open files"
    limit = ("sh", "-c", f'ulimit -n {most}; exec "$@"', "sh")
    return world.start(before=limit)


def set_clock(world):
    group = world.start(program=[str(MOVING_CLOCK)])
    world.freeze(group)
    group[0].send(signal.SIGKILL)
    return group


def rename_directory(world):
    """Give the run's directory another name while it runs, and back afterwards."""
    group = world.start()
    world.freeze(group)
    moved = world.place / "moved"
    if world.directory.exists():
        world.directory.rename(moved)

    def move_back():
        if moved.exists():
            if world.directory.exists():
                world.directory.rename(world.place / "made anew")
            moved.rename(world.directory)

    world.thaw(*group)
    world.after = move_back
    return group


def delete_directory(world):
    group = world.start()
    world.freeze(group)
    shutil.rmtree(world.directory, ignore_errors=True)
    world.thaw(*group)
    return group


def start_second_run(world):
    """Start the run, or one of its processes, once more while it stands still."""
    group = world.start()
    world.freeze(group)
    locked = (world.directory / "lock").exists()
    if world.processes == 1:
        second = world.start()
    else:
        second = [world.start_again(world.rng.choice(group))]
    if locked and world.hit:
        world.detail = "refused"
        world.codes = {2}
        if world.end(second) != [2] or not any(why in world.said for why in REFUSALS):
            raise Violation("two runs", world.said)
        world.thaw(*group)
        return group
    for run in second:  # they may both have a right to it
        run.send(signal.SIGKILL)
        run.process.wait()
    world.thaw(*group)
    return group


def start_differently(world):
    """Give one of the processes another flag than the others."""
    words = ("--seed=1", "--keep=5", "--guard.sigma=9", "--model.qk-norm")
    word = world.detail = world.rng.choice(words)
    group = world.start(odd=word)
    codes = world.end(group)
    name = word.partition("=")[0]
    if codes != [2, 2] or not all(f"{name}: " in run.said() for run in group):
        raise Violation("accepted", world.said)
    return group
