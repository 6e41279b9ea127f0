"""The README's example runs as it stands, and its names exist."""

import re
import shlex
from pathlib import Path

import jax
import pytest
from flax import nnx

import lostjax.analysis
import lostjax.losses
import lostjax.nn
import lostjax.optim
from lostjax.train.__main__ import parse_command

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_library_example_runs():
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(list(filter(None, code.splitlines()))) == 12
    scope = {}
    exec(code, scope)
    shapes = jax.tree.map(jax.numpy.shape, scope["params"])
    assert jax.tree.map(jax.numpy.shape, scope["updates"]) == shapes


def test_a_layer_is_wrapped_for_nnx_as_it_says():
    (code,) = re.findall(r"`flax\.nnx\.bridge\.(ToNNX\(.*?)` wraps", README)
    scope = {"ToNNX": nnx.bridge.ToNNX, "nn": lostjax.nn, "nnx": nnx}
    layer = nnx.bridge.lazy_init(eval(code, scope), jax.numpy.ones((1, 32)))
    assert layer(jax.numpy.ones((3, 32))).shape == (3, 64)


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
