"""The commands of a run: one a start, in order, whatever happened in between."""

import json

import pytest

from lostjax.train.keep.commands import (
    find_damage,
    mend_commands,
    read_commands,
    record_command,
)
from lostjax.train.keep.layout import COMMANDS_FILE

STARTED, RESUMED = "python -m lostjax.train", "python -m lostjax.train --resume=latest"


@pytest.fixture
def path(tmp_path):
    """The file of a run that was started and resumed."""
    assert read_commands(tmp_path) == []
    record_command(tmp_path, STARTED, step=0)
    record_command(tmp_path, RESUMED, step=7)
    return tmp_path / COMMANDS_FILE


def test_every_start_is_a_line_and_a_torn_one_none(path, capsys):
    with path.open("a") as file:
        file.write('{"step": 8, "command": "python -m torn')
    record_command(path.parent, RESUMED, step=9)
    assert read_commands(path.parent) == [
        STARTED, f"{RESUMED}  # from step 7", f"{RESUMED}  # from step 9",
    ]  # fmt: skip
    assert not capsys.readouterr().err


def test_damaged_commands_are_named_and_kept_aside(path, capsys):
    whole = path.read_bytes()
    for number in range(0, 8 * len(whole), 8 * len(whole) // 40 + 1):
        flipped = bytearray(whole)
        flipped[number // 8] ^= 1 << number % 8
        path.write_bytes(flipped)
        found = read_commands(path.parent)
        assert len(found) < 2 and set(found) <= {STARTED, f"{RESUMED}  # from step 7"}
    damaged = whole.replace(b"latest", b"lasest")
    path.write_bytes(damaged)
    assert mend_commands(path.parent)
    record_command(path.parent, RESUMED, step=9)
    assert path.with_name(f"{COMMANDS_FILE}.damaged").read_bytes() == damaged
    assert f"{path}: line 2 is damaged" in capsys.readouterr().err
    assert read_commands(path.parent) == [STARTED, f"{RESUMED}  # from step 9"]


@pytest.mark.parametrize("left", [1, 0])
def test_commands_that_are_missing_at_the_end_are_named(path, capsys, left):
    whole = path.read_bytes()
    path.write_bytes(b"".join(whole.splitlines(keepends=True)[:left]))
    assert find_damage(path.parent) == "its last lines are missing"
    assert mend_commands(path.parent) is bool(left)
    assert f"{path}: its last lines are missing; the" in capsys.readouterr().err
    record_command(path.parent, RESUMED, step=9)
    assert len(read_commands(path.parent)) == left + 1
    assert not find_damage(path.parent)


def test_missing_commands_are_named(path, capsys):
    path.unlink()
    assert not mend_commands(path.parent)
    record_command(path.parent, RESUMED, step=9)
    said = capsys.readouterr().err
    assert said == f"{path}: is missing: earlier commands are lost\n"


def test_commands_of_an_earlier_version_are_read_and_vouched_for_from_now_on(path):
    path.write_text(json.dumps({"step": 0, "command": STARTED}) + "\n")
    record_command(path.parent, RESUMED, step=7)
    assert len(read_commands(path.parent)) == 2
    path.write_bytes(path.read_bytes().replace(b"python", b"Python", 1))
    assert STARTED not in read_commands(path.parent)
