"""The list of programs: complete, and each entry starts."""

import importlib.util
from pathlib import Path

import pytest

from lostjax.__main__ import PROGRAMS, main

ROOT = Path(__file__).parents[1]


def test_every_program_is_listed(capsys):
    assert main([]) == 0
    listed = capsys.readouterr().out
    found = {
        path.parent.name if path.name == "__main__.py" else path.stem
        for path in (ROOT / "lostjax").rglob("*.py")
        if 'if __name__ == "__main__"' in path.read_text()
    } - {"lostjax"}
    assert found == set(PROGRAMS)
    for name in PROGRAMS:
        assert f"python -m lostjax.{name} " in listed
        assert importlib.util.find_spec(f"lostjax.{name}")


@pytest.mark.parametrize(
    "word, hint",
    [
        ("train", "use python -m lostjax.train"),
        ("nothing", "there are train, generate"),
    ],
)
def test_a_word_is_refused_with_the_right_command(word, hint, capsys):
    assert main([word]) == 2
    assert hint in capsys.readouterr().err
