"""The error messages in the questions and answers are those that the programs print."""

import dataclasses
import importlib
import re
import shlex
from pathlib import Path

import pytest

from lostjax.train.config.fields import RENAMED_FIELDS, flag_name
from lostjax.train.config.presets import get_preset
from lostjax.train.config.stored import save_config

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "faq.md").read_text()
PROGRAM = r"python -m (lostjax\.\w+)"
QUOTED = re.findall(rf"^\$ {PROGRAM} (.*)\n({PROGRAM}: error: .*)$", PAGE, re.MULTILINE)
ELSEWHERE = ("--mesh=data:", "--topology=v5e", "trajectory=saf")
"""Commands whose answers depend on the devices, on libtpu, or on tokens: not run."""

HERE = [
    (program, line, answer)
    for program, line, answer, _ in QUOTED
    if not any(word in line for word in ELSEWHERE)
]


def test_every_quoted_error_has_its_command():
    assert len(QUOTED) == len(re.findall(r"^python -m .*: error: ", PAGE, re.MULTILINE))
    assert len(HERE) >= 17


@pytest.mark.parametrize(
    "program, line, answer", HERE, ids=[f"{name} {line}" for name, line, _ in HERE]
)
def test_the_page_quotes_what_is_printed(
    program, line, answer, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    if "runs/a" in line:
        smoke = get_preset("smoke")
        model = dataclasses.replace(smoke.model, rank=8)
        run = dataclasses.replace(smoke, model=model, steps=20)
        (tmp_path / "runs" / "a").mkdir(parents=True)
        save_config(tmp_path / "runs" / "a" / "config.json", run)
    if "latin.txt" in line:
        (tmp_path / "latin.txt").write_bytes(
            "ab \N{LATIN SMALL LETTER E WITH ACUTE}".encode("latin-1")
        )
    before = sorted(tmp_path.rglob("*"))
    module = importlib.import_module(
        f"{program}.__main__" if _is_package(program) else program
    )
    assert module.main(shlex.split(line)) == 2
    said = capsys.readouterr().err.replace(str(tmp_path), "/home/me")
    assert said == answer + "\n"
    assert sorted(tmp_path.rglob("*")) == before, "something was left behind"


def _is_package(program: str) -> bool:
    return (ROOT / program.replace(".", "/")).is_dir()


def test_the_changelog_lists_every_renamed_flag():
    text = (ROOT / "CHANGELOG.md").read_text()
    rows = re.findall(r"^ *\| `(--[\w.-]+)(?:=NAME)?` \| (.*?) \|$", text, re.MULTILINE)
    listed = {old: re.findall(r"--[\w.-]+", new)[-1] for old, new in rows}
    renamed = {flag_name(old): flag_name(new) for old, new in RENAMED_FIELDS.items()}
    assert len(rows) == len(listed) and listed == renamed
