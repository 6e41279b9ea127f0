"""The commands of a run: one a start, in order, whatever happened in between."""

from lostjax.train.keep.commands import read_commands, record_command
from lostjax.train.keep.layout import COMMANDS_FILE


def test_every_start_is_a_line_and_damage_is_left_out(tmp_path):
    assert read_commands(tmp_path) == []
    record_command(tmp_path, "python -m lostjax.train --preset=smoke", step=0)
    with (tmp_path / COMMANDS_FILE).open("a") as file:
        file.write('[1]\n{"step": 1}\n{"command": "python -m torn')
    record_command(tmp_path, "python -m lostjax.train --resume=latest", step=7)
    assert read_commands(tmp_path) == [
        "python -m lostjax.train --preset=smoke",
        "python -m lostjax.train --resume=latest  # from step 7",
    ]
