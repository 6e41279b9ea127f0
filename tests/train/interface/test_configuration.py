"""Configurations from Python: those of the command line, with its errors."""

import dataclasses
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

import lostjax
from lostjax.errors import ConfigError
from lostjax.train.__main__ import parse_command
from lostjax.train.config.presets import get_preset
from lostjax.train.interface.configuration import format_command

preset = lostjax.train.preset


def test_values_override_the_preset():
    config = preset(
        "smoke",
        steps=np.int64(50),
        run_dir=Path("runs/a b"),
        **{"optim.name": "frugal", "model.qk_norm": True, "optim.learning_rate": 1e-5},
    )
    smoke = get_preset("smoke")
    assert config == dataclasses.replace(
        smoke,
        steps=50,
        run_dir="runs/a b",
        optim=dataclasses.replace(smoke.optim, name="frugal", learning_rate=1e-5),
        model=dataclasses.replace(smoke.model, qk_norm=True),
    )
    assert preset() == get_preset("tiny")
    assert preset("smoke", optim="frugal").optim.name == "frugal"
    assert not preset(
        "smoke", **{"model.keep_swiglu_silu": False}
    ).model.keep_swiglu_silu


@pytest.mark.parametrize(
    "name, values, message",
    [
        ("smok", {}, "--preset=smok: no such preset; .* did you mean smoke?"),
        ("smoke", {"optim.nme": "adamw"}, "--optim.nme: no such flag; did you mean"),
        ("smoke", {"optim": "frugl"}, "--optim=frugl: must be one of .* mean frugal"),
        ("smoke", {"optim": {"name": "frugal"}}, r'\*\*{"optim.name": ...}'),
        ("smoke", {"steps": 2.5}, "--steps=2.5: must be an integer"),
        ("smoke", {"steps": True}, "--steps=True: must be an integer"),
        ("smoke", {"steps": 0}, "--steps=0: must be at least 1"),
        ("smoke", {"model.qk_norm": 1}, "--model.qk-norm=1: must be True or False"),
        ("smoke", {"preset": "tiny"}, "--preset is given twice"),
        ("smoke", {"help": 1}, "--help: no such field"),
        ("smoke", {"version": 1}, "--version: no such field"),
        ("smoke", {"resume": "latest"}, "--resume: no such flag"),
    ],
)
def test_a_wrong_value_is_one_line(name, values, message):
    with pytest.raises(ConfigError) as raised:
        preset(name, **values)
    said = str(raised.value)
    assert re.search(message.replace("mean smoke?", r"mean smoke\?"), said), said
    assert "\n" not in said


def test_the_command_of_a_configuration_trains_the_same():
    for config in (
        preset("smoke"),
        preset(
            "small",
            mesh="data:2",
            run_dir="it's here",
            **{
                "model.keep_swiglu_silu": False,
                "objective.trajectory.end": 2.5,
                "guard.fault": "nan@3",
                "optim.learning_rate": 1e-05,
            },
        ),
        dataclasses.replace(preset("smoke"), seed=3),
    ):
        words = shlex.split(format_command(config))
        assert words[:3] == ["python", "-m", "lostjax.train"]
        assert parse_command(words[3:]).config == config


def test_a_mistake_is_shown_without_the_frames_inside():
    with pytest.raises(ConfigError, match="did you mean smoke") as found:
        lostjax.train.preset("smoek")
    assert [frame.name for frame in found.traceback] == [
        "test_a_mistake_is_shown_without_the_frames_inside",
        "call",
    ]
    assert found.value.__suppress_context__
