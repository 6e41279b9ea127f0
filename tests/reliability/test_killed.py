"""Kill -9 at any moment: the finished run is the one that nothing happened to.

A supervisor starts the real command line, waits for a phase and a random while more,
freezes the process (SIGSTOP), looks at what it was doing, and kills it.
"""

import random
import shutil
import signal

import pytest
from campaign.supervisor import PHASES, Started, freeze_in

STEPS = Started.steps


def freeze(phase, run, rng):
    """Freeze a process in a phase; an end that nobody caused must be a good one."""
    phases = freeze_in(phase, run, rng)
    assert phases is not None or run.finish() == 0, run.said()
    return phases


def kill(run):
    run.send(signal.SIGKILL)
    assert run.finish() == -signal.SIGKILL


def test_a_crash_is_not_taken_for_an_end(start, tmp_path):
    run = start(f"--run-dir={tmp_path / 'run'}", "--steps=0")
    with pytest.raises(AssertionError, match="--steps=0: must be at least 1"):
        freeze("step", run, random.Random(0))


def test_four_kills_leave_the_run_that_nothing_happened_to(
    uninterrupted, outcome, flags, start, train_here, tmp_path
):
    rng = random.Random(4)
    words = [f"--run-dir={tmp_path / 'run'}", "--mesh=data:1", *flags]
    for phase in ("step", "save", "evaluation", "final save"):
        ends = 0
        run = start(*words)
        while phase not in (hit := freeze(phase, run, rng) or ()):
            if hit:
                run.send(signal.SIGCONT)
                continue
            ends += 1
            assert ends < 8, f"in none of {ends} whole runs was {phase} hit"
            shutil.rmtree(run.directory)
            run = start(*words)
        kill(run)
        print(f"killed in {hit}; {ends} runs came to their end before")
    code, said = train_here(*words)
    assert code == 0, said
    assert outcome(tmp_path / "run") == outcome(uninterrupted)


@pytest.mark.torture
@pytest.mark.parametrize("seed", [1])
def test_kills_in_every_phase_leave_the_run_that_nothing_happened_to(
    uninterrupted, outcome, flags, start, tmp_path, seed
):
    rng = random.Random(seed)
    counts = dict.fromkeys(PHASES, 0)
    wanted = outcome(uninterrupted)
    kills = runs = 0
    while min(counts.values()) < 3:
        runs += 1
        directory = tmp_path / f"run-{runs}"
        words = [word for word in flags if "cache-dir" not in word]
        words += [f"--run-dir={directory}", "--mesh=data:1"]
        words += [f"--data.cache-dir={tmp_path / f'cache-{runs}'}"]
        for _ in range(rng.randint(1, 6)):
            phase = rng.choice(
                [name for name in PHASES if counts[name] < 3] or ["step"]
            )
            run = start(*words)
            hit = freeze(phase, run, rng)
            print(f"seed {seed}, run {runs}: aimed at {phase}, hit {hit}")
            if hit is None:
                break
            kill(run)
            kills += 1
            for name in hit & set(counts):
                counts[name] += 1
        last = start(*words)
        assert last.finish() == 0, last.said()
        assert outcome(directory) == wanted
        assert kills < 200 and runs < 100, counts
    print(f"{kills} kills in {runs} runs: {counts}")


@pytest.mark.parametrize("step, lines", [(24, 7), (18, 5)])
def test_a_run_that_died_between_its_checkpoint_and_what_follows_makes_up_for_it(
    uninterrupted, outcome, flags, train_here, tmp_path, step, lines
):
    directory = shutil.copytree(uninterrupted, tmp_path / "run")
    (directory / "report.html").unlink()
    if step < STEPS:
        shutil.rmtree(directory / "checkpoints" / str(STEPS))
    evaluations = directory / "evaluations.jsonl"
    written = evaluations.read_text().splitlines(keepends=True)
    evaluations.write_text("".join(written[:lines]))
    code, said = train_here(f"--run-dir={directory}", "--mesh=data:1", *flags)
    assert code == 0, said
    assert f"resuming at step {step}" in said
    assert "held-out bits per byte" in (directory / "report.html").read_text()
    assert outcome(directory) == outcome(uninterrupted)
    assert (f"finished, all {STEPS} steps are done;" in said) == (step == STEPS)
