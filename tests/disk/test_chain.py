"""Chained lines: every change of a byte is found, and costs no other line."""

import pytest

from lostjax.disk.chain import chain_line, chain_lines, describe_damage, read_chain
from lostjax.disk.lines import AppendingFile, LinesFile

ROWS = [{"step": step, "loss": 1 / step, "x": None} for step in range(1, 5)]


def values_of(data):
    return [line.values for line in read_chain(data)]


def test_what_was_written_is_read():
    data, link = chain_line(ROWS[0], "")
    assert values_of(data) == ROWS[:1] and read_chain(data)[0].link == link
    data = chain_lines(ROWS)
    assert values_of(data) == ROWS and describe_damage(read_chain(data)) == ""
    assert values_of(data[:-1]) == ROWS[:3], "a torn last line is none"
    assert values_of(b"") == []


def test_every_flipped_bit_of_every_line_is_found():
    data = chain_lines(ROWS)
    for number in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[number // 8] ^= 1 << number % 8
        found = values_of(bytes(flipped))
        lost = [row for row in ROWS if row not in found]
        assert found != ROWS and all(row in [None, *ROWS] for row in found)
        # The line alone; or with the next one, if a line break came or went.
        assert 1 <= len(lost) <= 2, (number, bytes(flipped))
        # A last line that lost its break looks torn.
        assert None in found or found == ROWS[:3]


def test_a_line_does_not_pass_for_that_of_another_file():
    other = chain_lines([{"step": 1, "loss": 7.0}])
    data = other + b"".join(chain_lines(ROWS).splitlines(keepends=True)[1:])
    assert values_of(data) == [{"step": 1, "loss": 7.0}, None, *ROWS[2:]]


@pytest.mark.parametrize("kill", range(1, 60, 7))
def test_a_kill_in_the_middle_of_a_line_costs_that_line(tmp_path, capsys, kill):
    path = tmp_path / "lines"
    data = chain_lines(ROWS)
    path.write_bytes(data + chain_line({"step": 5, "loss": 2.0}, "")[0][:kill])
    file = LinesFile(path, resume_step=4)
    file.append({"step": 5, "loss": 3.0})
    file.close()
    assert values_of(path.read_bytes()) == [*ROWS, {"step": 5, "loss": 3.0}]
    assert path.read_bytes().startswith(data) and not capsys.readouterr().err


def test_a_kill_while_damage_is_repaired_repeats_the_repair(tmp_path, monkeypatch):
    path = tmp_path / "lines"
    damaged = chain_lines(ROWS).replace(b"0.5", b"0.6")
    path.write_bytes(damaged)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("lostjax.disk.lines.replace_file", killed)
        with pytest.raises(KeyboardInterrupt):
            LinesFile(path, resume_step=4)
    assert path.read_bytes() == damaged
    LinesFile(path, resume_step=4).close()
    assert values_of(path.read_bytes()) == [ROWS[0], *ROWS[2:]]
    names = sorted(entry.name for entry in tmp_path.iterdir())
    assert names == ["lines", "lines.damaged"], "one copy of one damage"


def test_a_second_name_of_a_file_keeps_what_it_had(tmp_path):
    path, copy = tmp_path / "lines", tmp_path / "backup"
    path.write_bytes(chain_lines(ROWS))
    copy.hardlink_to(path)
    file = LinesFile(path, resume_step=4)
    file.append({"step": 5})
    file.close()
    assert values_of(copy.read_bytes()) == ROWS
    assert len(values_of(path.read_bytes())) == 5


def test_a_link_is_not_followed(tmp_path):
    for name in ("mine", "gone"):
        (tmp_path / f"to {name}").symlink_to(name)
    (tmp_path / "mine").write_text("precious\n")
    for name in ("mine", "gone"):
        with pytest.raises(OSError, match="symbolic links"):
            AppendingFile(tmp_path / f"to {name}")
    assert (tmp_path / "mine").read_text() == "precious\n"
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize("left", [0, 1, 3])
def test_lines_that_are_cut_while_they_are_written_are_named(tmp_path, capsys, left):
    path = tmp_path / "lines"
    file = LinesFile(path, resume_step=0)
    for row in ROWS[:3]:
        file.append(row)
    whole = path.read_bytes()
    with path.open("r+b") as other:
        other.truncate(len(b"".join(whole.splitlines(keepends=True)[:left])))
    file.append(ROWS[3])
    file.append({"step": 5})
    file.close()
    assert values_of(path.read_bytes()) == [*ROWS[:left], ROWS[3], {"step": 5}]
    said = capsys.readouterr().err
    assert (
        said == ""
        if left == 3
        else f"before step 4 is now that of step {left}\n" in said
    )


def test_what_somebody_writes_to_lines_meanwhile_is_named(tmp_path, capsys):
    path = tmp_path / "lines"
    file = LinesFile(path, resume_step=0)
    file.append(ROWS[0])
    with path.open("ab") as other:
        other.write(b"something else\n")
    file.append(ROWS[1])
    file.close()
    assert values_of(path.read_bytes()) == ROWS[:2]
    assert f"{path}: was changed while the run was" in capsys.readouterr().err
