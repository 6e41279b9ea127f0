"""The list of programs: complete, and each entry starts."""

import importlib.util
import re
from pathlib import Path

import pytest

from lostjax.__main__ import PROGRAMS, main

ROOT = Path(__file__).parents[1]


def start_of(program):
    """Import a program's `main`."""
    name = f"lostjax.{program}"
    if importlib.util.find_spec(name).submodule_search_locations:
        name += ".__main__"
    return importlib.import_module(name).main


def test_every_program_is_listed(capsys):
    assert main([]) == 0
    listed = capsys.readouterr().out
    found = {
        path.parent.name if path.name == "__main__.py" else path.stem
        # Others, such as a child of several processes, are nobody's command.
        for pattern in ("*.py", "*/__main__.py")
        for path in (ROOT / "lostjax").glob(pattern)
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


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_prints_its_help(program, capsys):
    for word in ("--help", "--help-all", "-h"):
        with pytest.raises(SystemExit) as ended:
            start_of(program)([word])
        said = capsys.readouterr()
        assert not ended.value.code and not said.err
        assert said.out.startswith(f"usage: python -m lostjax.{program} ")
        assert max(map(len, said.out.splitlines())) <= 88
        flags = re.findall(r"^  (--[a-z][a-z0-9.-]+)", said.out, re.MULTILINE)
        assert flags and len(flags) == len(set(flags))
        if program == "evaluate":
            assert "--data.source" in flags


DIRECTORIES = {
    "verify": "{}",
    "generate": "{}",
    "evaluate": "{}",
    "prune": "{}",
    "attribute": "{}",
    "unlearn": "{}",
    "train": "--run-dir={}",
    "train --resume": "--resume={}",
    "train --config": "--config={}",
    "train --data.cache-dir": "--data.cache-dir={}",
    "plan": "--out={}",
    "sweep": "--out={}",
    "scaling": "--out={}",
    "repro": "--results={}",
}


@pytest.mark.parametrize("program, flag", DIRECTORIES.items())
def test_a_path_that_cannot_hold_files_is_refused_by_every_program(
    program, flag, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    program, *_ = program.split()
    start = start_of(program)
    for path in ("a\0b", "x\udcff", "~no-such-user/x", "d/" * 2000):
        if "cache" in flag and path.startswith("~"):
            continue  # it may have any name
        words = [flag.format(path)]
        if program in ("train", "sweep"):
            words.append("--mesh=data:1")
        assert start(words) == 2
        said = capsys.readouterr()
        assert said.err.count("\n") == 1 and not said.out
        assert list(tmp_path.iterdir()) == []
