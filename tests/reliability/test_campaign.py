"""The campaign of attacks: its rule, its table, and some of its draws."""

import itertools
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import xxhash
from campaign import world
from campaign.draws import compare, find_lost_lines, format_table, read_file
from campaign.supervisor import ROOT
from campaign.table import ATTACKS, make_draw
from campaign.world import Violation, World

ALL = 300


def run_draws(out, numbers):
    """Run draws by the command line; its exit code, and what it printed."""
    campaign = ROOT / "tests" / "reliability" / "campaign"
    words = [sys.executable, str(campaign), f"--draws={numbers}", f"--out={out}"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    return done.returncode, done.stdout + done.stderr


def find_draws(*names):
    """Find the first draw of each attack on a run of one process."""
    draws = [make_draw(number) for number in range(ALL)]
    return [
        next(d.number for d in draws if d.name == name and d.processes == 1)
        for name in names
    ]


def test_a_draw_is_a_pure_function_of_its_number():
    for number in range(50):
        one, other = make_draw(number), make_draw(number)
        assert one[:-1] == other[:-1] and one.rng.random() == other.rng.random()
        assert one.phase in one.attack.phases


def test_every_promise_stands_in_the_document_and_is_drawn_ten_times():
    drawn = Counter(make_draw(number).attack.promise for number in range(ALL))
    text = (ROOT / "RELIABILITY.md").read_text()
    headings = set(re.findall(r"^### (.+)$", text, flags=re.MULTILINE))
    assert {attack.promise for attack in ATTACKS.values()} <= headings
    assert set(drawn) == {attack.promise for attack in ATTACKS.values()}
    assert min(drawn.values()) >= 10


GOOD = {
    "metrics": [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}],
    "evaluations": [{"step": 2, "eval_loss": 1.0}],
    "files": {"config.json", "checkpoints/2"},
    "arrays": {"model": b"12"},
}


@pytest.mark.parametrize(
    "change, what",
    [
        ({"metrics": GOOD["metrics"][:1]}, "metrics: 1 lines, not 2"),
        ({"metrics": GOOD["metrics"][::-1]}, "metrics: {'step': 2"),
        ({"evaluations": []}, "evaluations: 0 lines, not 1"),
        ({"arrays": {"model": b"13"}}, "arrays: model"),
        ({"files": {"config.json"}}, r"missing \['checkpoints/2'\]"),
        ({"files": GOOD["files"] | {"lock"}}, r"left \['lock'\]"),
        ({"files": GOOD["files"] | {"checkpoints/3.saving"}}, "left .*3.saving"),
    ],
)
def test_any_difference_from_the_undisturbed_run_is_a_violation(change, what):
    compare(GOOD | {"files": GOOD["files"] | {"checkpoints/1.damaged"}}, GOOD)
    with pytest.raises(Violation, match=what) as caught:
        compare(GOOD | change, GOOD)
    assert caught.value.args[0] in ("different", "files")


@pytest.mark.parametrize(
    "metrics, lost",
    [
        (GOOD["metrics"], []),
        (GOOD["metrics"][1:], ["metrics"]),
        ([], ["metrics"]),
        ([{"step": 1, "loss": 2.5}], []),
    ],
)
def test_lines_are_lost_only_if_none_is_wrong(metrics, lost):
    assert find_lost_lines(GOOD | {"metrics": metrics}, GOOD) == lost


@pytest.mark.parametrize(
    "code, violation",
    [
        ("1 / 0", "traceback"),
        ("raise SystemExit(3)", "exit code"),
        ("raise SystemExit(2)", "silent"),
        ("import time; time.sleep(60)", "hang"),
        ("while True: pass", "hang"),
    ],
)
def test_no_process_may_end_without_a_word_or_not_at_all(
    monkeypatch, tmp_path, code, violation
):
    monkeypatch.setattr(world, "IDLE_SECONDS", 0.5)
    monkeypatch.setattr(world, "LONGEST_SECONDS", 1.0)
    place = tmp_path / "place"
    place.mkdir()
    attacked = World(place, shared=tmp_path, codes={2})
    with pytest.raises(Violation) as caught:
        attacked.end(attacked.start(program=("-c", code)))
    assert caught.value.args[0] == violation
    attacked.close()


def test_a_process_may_wait_as_long_as_it_says():
    said = "text\nwaiting for process 1 of 2 at host:1 ({} s; gives up after 45 s)\n"
    assert not world.waits_too_long(said.format(47))
    assert world.waits_too_long(said.format(2) + said.format(77))
    assert not world.waits_too_long("waiting for all (500 s)\n")


def test_lines_are_read_again_and_counted_by_promise(tmp_path):
    file = tmp_path / "lines"
    assert read_file(file) == {}
    promise = ATTACKS["kill"].promise
    lines = [
        {"seed": seed, "promise": promise, "survived": survived}
        for seed, survived in enumerate([True, False, None, True])
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"seed": 9')
    assert list(read_file(file)) == [0, 1, 2, 3]
    table = format_table(list(read_file(file).values()))
    assert f"| {promise} | 3 | 2 |" in table and "| all | 3 | 2 |" in table


def test_three_draws_are_survived(tmp_path):
    numbers = find_draws("kill", "signal", "checkpoint")
    code, said = run_draws(tmp_path / "lines", ",".join(map(str, numbers)))
    assert code == 0, said
    assert list(read_file(tmp_path / "lines")) == numbers
    assert "| all | 3 | 3 |" in said


@pytest.mark.slow
def test_twenty_draws_are_survived(tmp_path):
    code, said = run_draws(tmp_path / "lines", "0:20")
    assert code == 0, said


@pytest.mark.torture
def test_three_hundred_draws_are_survived(capsys):
    """Go on where an earlier call ended, if the code is the same."""
    code = xxhash.xxh3_64()
    for path in sorted(itertools.chain(*map(Path.rglob, PLACES, ["*.py"] * 2))):
        code.update(path.read_bytes())
    out = ROOT / "build" / f"campaign-{code.hexdigest()}.jsonl"
    out.parent.mkdir(exist_ok=True)
    code, said = run_draws(out, f"0:{ALL}")
    with capsys.disabled():
        print(f"\n{said}{out}")
    assert code == 0, said


PLACES = (ROOT / "lostjax", ROOT / "tests" / "reliability")
