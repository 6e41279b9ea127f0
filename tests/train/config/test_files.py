"""Configuration files of a person: YAML and JSON, whole or in part, safe to read."""

import dataclasses
import json

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lostjax.errors import ConfigError
from lostjax.train.__main__ import parse_command
from lostjax.train.config.fields import flat_fields
from lostjax.train.config.files import read_config_file
from lostjax.train.config.presets import get_preset
from lostjax.train.config.schema import HostsConfig, TrainConfig

SMALL = """
preset: small        # the rest is its values
steps: 3000
optim: frugal
optim.learning-rate: 1e-3
optim.frugal: {density: 0.5, update-gap: 10}
model:
  rank: 16
  learn_gamma: true
  remat: none
data:
  source: '0.7*sotu,0.3*books/*.txt'
  cache_dir: null
objective.reweight: upper
objective.reweight.temperature: .inf
stability:
"""


@pytest.fixture
def read(tmp_path):
    def write_and_read(text, name="a.yaml", **options):
        (tmp_path / name).write_text(text)
        return read_config_file(tmp_path / name, **options)

    return write_and_read


def test_a_file_stands_over_its_preset_and_flags_over_the_file(read, tmp_path):
    config = read(SMALL)
    small = get_preset("small")
    assert config.model == dataclasses.replace(
        small.model, rank=16, learn_gamma=True, remat="none"
    )
    assert (config.steps, config.batch_size) == (3000, small.batch_size)
    assert config.optim.name == "frugal" and config.optim.learning_rate == 1e-3
    assert config.optim.frugal.density == 0.5 and config.optim.frugal.update_gap == 10
    assert config.data.source == "0.7*sotu,0.3*books/*.txt"
    assert config.objective.reweight.name == "upper"
    assert config.objective.reweight.temperature == float("inf")
    command = parse_command([f"--config={tmp_path / 'a.yaml'}", "--model.rank=8"])
    assert command.config.model.rank == 8 and command.config.steps == 3000
    over = read("steps: 5", preset="smoke")
    assert over == dataclasses.replace(get_preset("smoke"), steps=5)
    assert read("") == TrainConfig()


@pytest.mark.parametrize("write", [yaml.safe_dump, json.dumps])
def test_the_same_values_are_read_from_yaml_and_json(read, write):
    whole = dataclasses.asdict(get_preset("lost_60m"))
    name = "a.json" if write is json.dumps else "a.yml"
    assert read(write(whole), name) == get_preset("lost_60m")
    flat = flat_fields(get_preset("lost_60m"))
    assert read(write(flat), name) == get_preset("lost_60m")
    assert read(write({"steps": 4, "model.rank": 2}), name).model.rank == 2


@pytest.mark.parametrize(
    "text, message",
    [
        ("steps: 3\nsteps: 4", "a.yaml:2: not YAML: steps is given twice"),
        (
            "optim.name: muon\noptim:\n  name: adamw",
            "a.yaml: optim.name is given twice",
        ),
        ("optim: muon\noptim.name: adamw", "a.yaml: optim.name is given twice"),
        ("model.rnak: 3", "no field is called model.rnak; did you mean model.rank?"),
        ("steps: 3.5", "steps=3.5: must be of type int"),
        ("steps: many", "steps='many': must be of type int"),
        ("steps: 1_0", "steps='1_0': must be of type int"),
        ("steps: 0x10", "steps='0x10': must be of type int"),
        ("model: 3", "model.* must be a JSON object"),
        ("preset: tini", "preset=tini: no such preset.*did you mean tiny"),
        ("preset: 3", "preset=3: must be of type str"),
        ("- steps", "must hold names and values"),
        ("steps", "must hold names and values"),
        ("1: 2", "1: names must be text"),
        ("a: &x {b: 1}\nc: *x", "a.yaml:1: not YAML: anchors and aliases"),
        (
            "run_dir: !!python/object/apply:os.getcwd []",
            "a.yaml:1: not YAML: could not",
        ),
        ("steps: [", "a.yaml:1: not YAML: "),
        ("steps: 3\n---\nsteps: 4", "a.yaml:2: not YAML: but found another document"),
        ("steps: " + "9" * 5000, "a.yaml: not YAML: Exceeds the limit"),
        ("steps: " + "[" * 9000, "a.yaml: not YAML: maximum recursion depth"),
        ("#" * 70_000, "it is larger than 65,536 bytes"),
        ("a: \x00", "a.yaml: not YAML: unacceptable character"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(read, text, message):
    with pytest.raises(ConfigError, match=message) as error:
        read(text)
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


def test_a_file_that_is_none_or_names_another_preset_is_refused(read, tmp_path):
    with pytest.raises(ConfigError, match="b.yaml: no such configuration file"):
        read_config_file(tmp_path / "b.yaml")
    with pytest.raises(ConfigError, match="it is not a regular file"):
        read_config_file(tmp_path)
    (tmp_path / "c.yaml").mkdir()
    with pytest.raises(ConfigError, match="it is not a regular file"):
        read_config_file(tmp_path / "c.yaml")
    with pytest.raises(ConfigError, match="names another one, 'small'"):
        read("preset: small", preset="tiny")
    assert read("hosts.index: 1").hosts == HostsConfig()


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(alphabet="ab:-{}[]&*!|>'\"\n #.0123e,?%@`", max_size=60))
def test_any_text_is_a_configuration_or_one_line(read, text):
    try:
        assert isinstance(read(text), TrainConfig)
    except ConfigError as error:
        assert "\n" not in str(error)
