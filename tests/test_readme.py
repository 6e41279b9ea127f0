"""The README's example runs as it stands, and its names exist."""

import re
import shlex
from pathlib import Path

import jax
import pytest

import lostjax.analysis
import lostjax.losses
import lostjax.nn
import lostjax.optim
from lostjax.train.__main__ import parse_command

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_library_example_runs():
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    scope = {}
    exec(code, scope)
    shapes = jax.tree.map(jax.numpy.shape, scope["params"])
    assert jax.tree.map(jax.numpy.shape, scope["updates"]) == shapes


@pytest.mark.parametrize("room", ["nn", "losses", "optim", "analysis"])
def test_names_in_the_index_exist(room):
    names = set(re.findall(rf"`{room}\.(\w+)", README))
    missing = [n for n in names if not hasattr(getattr(lostjax, room), n)]
    assert not missing


def test_commands_in_the_readme_are_understood(monkeypatch):
    lines = re.findall(r"python -m lostjax\.train ([^#`\n]*)", README)
    assert lines
    for line in lines:
        if "--help" not in line and "--resume" not in line:
            parse_command(shlex.split(line))
