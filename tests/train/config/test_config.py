"""Configurations: their checks, their JSON, and what makes two runs the same."""

import dataclasses
import json
import os

import pytest

from lostjax.errors import ConfigError
from lostjax.train.config.checks import check_config
from lostjax.train.config.fields import (
    RENAMED_FIELDS,
    diff_configs,
    flat_fields,
    get_field,
    replace_in,
)
from lostjax.train.config.presets import PRESETS, get_preset
from lostjax.train.config.schema import (
    FrugalConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimConfig,
    ReweightConfig,
    TrainConfig,
    TrajectoryConfig,
)
from lostjax.train.config.stored import (
    VERSION,
    check_resumable,
    load_config,
    save_config,
)


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
    ("preset", "a" * 300, "at most 60"),
    ("optim.learning_rate", 0.0, "--optim.learning-rate"),
    ("optim.learning_rate", float("inf"), "--optim.learning-rate"),
    ("optim.warmup", 1.0, "--optim.warmup"),
    ("optim.clip", -1.0, "--optim.clip"),
    ("optim.eps", 0.0, "--optim.eps=0.0: must be positive"),
    ("objective.reweight.temperature", 0.0, "--objective.reweight.temperature=0.0"),
    ("objective.reweight.temperature", float("nan"), "reweight.temperature=nan"),
    ("objective.reweight.warmup", 1.5, "--objective.reweight.warmup=1.5"),
    ("objective.label_smoothing", 1.0, r"--objective.label-smoothing=1.0: must lie in"),
    ("objective.sam_radius", -0.1, "--objective.sam-radius=-0.1"),
    ("stability.every", -1, "--stability.every=-1"),
    ("optim.frugal.density", 1.5, r"--optim.frugal.density=1.5: must lie in \[0, 1\]"),
    ("optim.frugal.update_gap", 0, "--optim.frugal.update-gap=0: must be at least 1"),
    ("optim.frugal.stagger", 0, "--optim.frugal.stagger=0"),
    ("optim.frugal.free_scale", -1.0, "--optim.frugal.free-scale"),
    ("optim.keep_zeros", True, "--optim.keep-zeros: needs --init-from=RUN"),
    ("optim.full_state", "(", r"--optim.full-state=\(: not a regular"),
    ("objective.trajectory.temperature", 0.0, "--objective.trajectory.temperature=0"),
    ("objective.trajectory.weight", -1.0, "--objective.trajectory.weight=-1"),
    ("objective.trajectory.decay", 1.0, r"must lie in \[0, 1\)"),
    ("objective.trajectory.lag_epochs", 0, "--objective.trajectory.lag-epochs=0"),
    ("objective.trajectory.lag_steps", 0, "--objective.trajectory.lag-steps=0"),
    ("objective.trajectory.top_k", 0, "--objective.trajectory.top-k=0"),
    ("objective.trajectory.start", -1.0, "--objective.trajectory.start=-1"),
    ("objective.trajectory.end", 0.0, "--objective.trajectory.end=0.0: must be above"),
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
    (
        "optim.frugal.update_gap",
        2**31,
        "--optim.frugal.update-gap=2147483648: must be at most",
    ),
    (
        "optim.frugal.stagger",
        2_000,
        "--optim.frugal.stagger=2000: must be at most 1024",
    ),
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


UPPER, SAF = ReweightConfig(name="upper"), TrajectoryConfig(name="saf")


@pytest.mark.parametrize(
    "objective, flag",
    [
        (
            {"label_smoothing": 0.1, "reweight": ReweightConfig(name="upper")},
            "label-smoothing=0.1: not with",
        ),
        (
            {"sam_radius": 0.05, "reweight": ReweightConfig(name="upper")},
            "sam-radius=0.05: not with",
        ),
        (
            {"sam_radius": 0.05, "trajectory": TrajectoryConfig(name="saf")},
            "sam-radius=0.05: not with",
        ),
    ],
)
def test_parts_of_the_objective_that_contradict_each_other(objective, flag):
    with pytest.raises(ConfigError, match=flag):
        check_config(TrainConfig(objective=ObjectiveConfig(**objective)))


def test_sam_may_be_averaged():
    objective = ObjectiveConfig(
        sam_radius=0.05, trajectory=TrajectoryConfig(name="mesa", weight=0.0)
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
        ('{"steps": 3, "steps": 4}', "has 'steps' twice"),
        (" " * 2**20 + "{}", "larger than 1,048,576 bytes"),
    ],
)
def test_bad_json_is_named(tmp_path, text, message):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_pipe_is_no_configuration(tmp_path):
    path = tmp_path / "config.json"
    os.mkfifo(path)  # reading it would wait for ever
    with pytest.raises(ConfigError, match="it is not a regular file"):
        load_config(path)


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
        free = free or name.startswith(("guard.", "hosts."))
        assert bool(changed) is not free, name
    assert not diff_configs(config, dataclasses.replace(config, mesh="data:2"))
    assert diff_configs(config, replaced(config, "model.rank", 8)) == [
        f"--model.rank: {config.model.rank} there, 8 now"
    ]


def test_a_stored_configuration_has_a_version(tmp_path):
    save_config(tmp_path / "config.json", TrainConfig())
    assert json.loads((tmp_path / "config.json").read_text())["version"] == VERSION


def flat(config):
    """Write a configuration as version 0 did: methods' fields beside the others."""
    values = dataclasses.asdict(config)
    for old, new in RENAMED_FIELDS.items():
        part, _, name = old.partition(".")
        values[part] = dict(values[part])
        values[part][f"new {name}"] = get_field(config, new)
    for part in ("optim", "objective"):
        for group in ("frugal", "reweight", "trajectory"):
            values[part].pop(group, None)
        values[part] = {k.removeprefix("new "): v for k, v in values[part].items()}
    return values


def test_a_configuration_without_a_version_is_read_as_version_0(tmp_path):
    config = TrainConfig(
        optim=OptimConfig(name="frugal", frugal=FrugalConfig(density=0.5, stagger=3)),
        objective=ObjectiveConfig(
            reweight=ReweightConfig(name="upper", temperature=0.3),
            trajectory=TrajectoryConfig(name="mesa", end=4.0, decay=0.9),
        ),
    )
    values = flat(config)
    assert values["optim"]["density"] == 0.5
    assert values["objective"]["trajectory"] == "mesa"
    (tmp_path / "old.json").write_text(json.dumps(values))
    assert load_config(tmp_path / "old.json") == config


def test_nested_values_need_no_version(tmp_path):
    text = '{"objective": {"trajectory": {"name": "saf"}}, "optim": {"density": 0.5}}'
    (tmp_path / "mine.json").write_text(text)
    config = load_config(tmp_path / "mine.json")
    assert config.objective.trajectory.name == "saf"
    assert config.optim.frugal.density == 0.5


@pytest.mark.parametrize("version", ["4", "-1", "null", '"1"', "true", "[]"])
def test_an_unknown_version_is_one_clear_line(tmp_path, version):
    (tmp_path / "new.json").write_text(f'{{"version": {version}}}')
    with pytest.raises(ConfigError, match="is not known; this lostjax reads 0 to 3"):
        load_config(tmp_path / "new.json")


@pytest.mark.parametrize("name", ["frugal", "galore", "adamw"])
@pytest.mark.parametrize("version", [0, 1, 2, 3])
def test_states_of_an_earlier_frugal_are_refused(tmp_path, name, version):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"version": version, "optim": {"name": name}}))
    if name == "adamw" or version >= 2:
        check_resumable(path)
        return
    with pytest.raises(ConfigError, match=f"the {name} of an earlier.*new run"):
        check_resumable(path)


def test_renamed_fields_exist():
    for new in RENAMED_FIELDS.values():
        get_field(TrainConfig(), new)


def test_held_out_loss_is_measured_on_the_way_by_default():
    config = TrainConfig(steps=600)
    assert [s for s in range(1, 601) if s % config.eval_interval == 0] == [
        *(120, 240, 360, 480, 600)
    ]
    assert TrainConfig(steps=3).eval_interval == 1
    assert TrainConfig(steps=600, eval_every=7).eval_interval == 7
    assert TrainConfig(eval_every=0).eval_interval == 0
    check_config(TrainConfig(eval_every=None))


def test_a_nested_field_is_replaced():
    config = replace_in(TrainConfig(), "optim.frugal", density=0.5)
    assert config.optim.frugal.density == 0.5
    assert config == dataclasses.replace(
        TrainConfig(), optim=OptimConfig(frugal=FrugalConfig(density=0.5))
    )
