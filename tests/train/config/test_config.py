"""Configurations: their checks, their JSON, and what makes two runs the same."""

import dataclasses
import json

import pytest

from lostjax.errors import ConfigError
from lostjax.train.config.checks import check_config
from lostjax.train.config.presets import PRESETS, get_preset
from lostjax.train.config.schema import (
    ModelConfig,
    ObjectiveConfig,
    TrainConfig,
    diff_configs,
    flat_fields,
)
from lostjax.train.config.stored import load_config, save_config


def replaced(config, name, value):
    """Replace a dotted field."""
    first, _, rest = name.partition(".")
    if rest:
        value = replaced(getattr(config, first), rest, value)
    return dataclasses.replace(config, **{first: value})


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid_and_named_as_they_are_found(name):
    check_config(PRESETS[name])
    assert PRESETS[name].preset == name


def test_tiny_matrices_keep_at_least_eight_channels():
    model = PRESETS["tiny"].model
    assert int(model.delta * min(model.d_model, model.d_hidden)) >= 8


BAD = [
    ("steps", 0, "--steps=0"),
    ("batch_size", -1, "--batch-size=-1"),
    ("accumulate", 3, "--accumulate=3"),
    ("model.rank", 0, "--model.rank=0"),
    ("model.rank", 10_000, r"\[1, \d+\]"),
    ("model.delta", 1.5, r"--model.delta=1.5: must lie in \[0, 1\]"),
    ("model.delta", float("nan"), "--model.delta=nan"),
    ("model.gamma", -0.1, "--model.gamma"),
    ("model.n_heads", 3, "--model.n-heads=3"),
    ("preset", "../../../rv/escaped", "'../../../rv/escaped': must be a plain name"),
    ("preset", "/tmp/x", "--preset='/tmp/x'"),
    ("preset", "..", "--preset='..'"),
    ("preset", "", "--preset=''"),
    ("preset", "a\n", r"--preset='a\\n'"),
    ("preset", "a" * 300, "60 at most"),
    ("optim.learning_rate", 0.0, "--optim.learning-rate"),
    ("optim.learning_rate", float("inf"), "--optim.learning-rate"),
    ("optim.warmup", 1.0, "--optim.warmup"),
    ("optim.clip", -1.0, "--optim.clip"),
    ("optim.eps", 0.0, "--optim.eps=0.0: must be positive"),
    ("objective.reweight_temperature", 0.0, "--objective.reweight-temperature=0.0"),
    ("objective.reweight_temperature", float("nan"), "reweight-temperature=nan"),
    ("objective.reweight_warmup", 1.5, "--objective.reweight-warmup=1.5"),
    ("objective.label_smoothing", 1.0, r"--objective.label-smoothing=1.0: must lie in"),
    ("objective.sam_radius", -0.1, "--objective.sam-radius=-0.1"),
    ("stability.every", -1, "--stability.every=-1"),
    ("optim.density", 1.5, r"--optim.density=1.5: must lie in \[0, 1\]"),
    ("optim.update_gap", 0, "--optim.update-gap=0: must be at least 1"),
    ("optim.stagger", 0, "--optim.stagger=0"),
    ("optim.free_scale", -1.0, "--optim.free-scale"),
    ("optim.full_state", "(", r"--optim.full-state=\(: no pattern"),
    ("objective.trajectory_temperature", 0.0, "--objective.trajectory-temperature=0"),
    ("objective.trajectory_weight", -1.0, "--objective.trajectory-weight=-1"),
    ("objective.trajectory_decay", 1.0, r"must lie in \[0, 1\)"),
    ("objective.trajectory_lag_epochs", 0, "--objective.trajectory-lag-epochs=0"),
    ("objective.trajectory_lag_steps", 0, "--objective.trajectory-lag-steps=0"),
    ("objective.trajectory_top_k", 0, "--objective.trajectory-top-k=0"),
    ("objective.trajectory_start", -1.0, "--objective.trajectory-start=-1"),
    ("objective.trajectory_end", 0.0, "--objective.trajectory-end=0.0: must be above"),
    ("data.seq_len", 1, "--data.seq-len=1"),
    ("seed", -1, r"--seed=-1: must lie in \[0, 2\^32\)"),
    ("seed", 2**32, "--seed=4294967296"),
    ("profile", "3", "START:STOP"),
    ("profile", "3:3", "START < STOP"),
    ("profile", "²:3", "START:STOP"),
    ("profile", "1:" + "9" * 5000, "START:STOP"),
    ("steps", 3_000_000_000, "--steps=3000000000: must be at most 2147483647"),
    ("batch_size", 2**31, "--batch-size=2147483648: must be at most"),
    ("accumulate", 2**31, "--accumulate=2147483648: must be at most"),
    ("model.d_model", 10**30, "--model.d-model=10+: must be at most"),
    ("guard.patience", 2**31, "--guard.patience=2147483648: must be at most"),
    ("guard.window", 2**31, "--guard.window=2147483648: must be at most"),
    ("optim.update_gap", 2**31, "--optim.update-gap=2147483648: must be at most"),
    ("optim.stagger", 2_000, "--optim.stagger=2000: must be at most 1024"),
    ("batch_size", 2**24, "--batch-size=16777216: with --data.seq-len=128 a step has"),
]


@pytest.mark.parametrize("name, value, message", BAD)
def test_a_wrong_value_is_named(name, value, message):
    with pytest.raises(ConfigError, match=message):
        check_config(replaced(TrainConfig(), name, value))


def test_a_project_without_wandb_is_refused_before_anything(monkeypatch):
    config = TrainConfig(wandb="mine")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="--wandb=mine: wandb is not installed"):
        check_config(config)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    check_config(config)


@pytest.mark.parametrize(
    "objective, flag",
    [
        (
            {"label_smoothing": 0.1, "reweight": "upper"},
            "label-smoothing=0.1: not with",
        ),
        ({"sam_radius": 0.05, "reweight": "upper"}, "sam-radius=0.05: not with"),
        ({"sam_radius": 0.05, "trajectory": "saf"}, "sam-radius=0.05: not with"),
    ],
)
def test_parts_of_the_objective_that_contradict_each_other(objective, flag):
    with pytest.raises(ConfigError, match=flag):
        check_config(TrainConfig(objective=ObjectiveConfig(**objective)))


def test_sam_may_be_averaged():
    objective = ObjectiveConfig(
        sam_radius=0.05, trajectory="mesa", trajectory_weight=0.0
    )
    check_config(TrainConfig(objective=objective))


@pytest.mark.parametrize("linear", ["dense", "sltrain"])
def test_kernels_are_refused_where_nothing_is_narrow(linear):
    model = ModelConfig(linear=linear, product="mosaic_tpu")
    with pytest.raises(ConfigError, match=f"--model.product=mosaic_tpu.*{linear}"):
        check_config(TrainConfig(model=model))


def test_rank_is_not_checked_where_there_is_none():
    check_config(TrainConfig(model=ModelConfig(linear="dense", rank=10_000)))


def test_json_round_trip(tmp_path):
    config = dataclasses.replace(get_preset("lost_1b"), run_dir="x", profile="1:2")
    save_config(tmp_path / "config.json", config)
    assert load_config(tmp_path / "config.json") == config


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "not a configuration"),
        ("[]", "JSON object"),
        ('{"stepz": 3}', "no field is called stepz"),
        (r'{"step\nz": 3}', r"no field is called 'step\\nz'"),
        (f'{{"optim": {{"learning_rate": {10**400}}}}}', "learning_rate: must be a nu"),
        (f'{{"steps": {-(2**63)}}}', "steps: must be a number of at most 64 bits"),
        ('{"steps": "3"}', "steps='3': must be of type int"),
        ('{"steps": true}', "steps=True: must be of type int"),
        ('{"model": {"linear": "lots"}}', "model.linear='lots': must be one of dense"),
        ('{"model": 3}', "model. must be a JSON object"),
    ],
)
def test_bad_json_is_named(tmp_path, text, message):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_integers_are_floats_where_floats_belong(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"optim": {"clip": 1}}))
    assert load_config(path).optim.clip == 1.0


def test_what_decides_numbers_makes_another_run():
    config = TrainConfig()
    for name, value in flat_fields(config).items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        changed = diff_configs(config, replaced(config, name, value + 1))
        free = name in ("eval_every", "checkpoint_every", "keep", "stability.every")
        free = free or name.startswith("guard.")
        assert bool(changed) is not free, name
    assert not diff_configs(config, dataclasses.replace(config, mesh="data:2"))
    assert diff_configs(config, replaced(config, "model.rank", 8)) == [
        f"--model.rank: {config.model.rank} there, 8 now"
    ]
