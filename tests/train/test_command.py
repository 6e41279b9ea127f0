"""The command line: what it reads, and what it says to a mistake."""

import dataclasses
import importlib
import importlib.util
import json

import pytest

import lostjax
from lostjax.__main__ import PROGRAMS
from lostjax.__main__ import main as programs
from lostjax.errors import ConfigError
from lostjax.train.__main__ import main, parse_command
from lostjax.train.config.fields import flag_name, flat_fields, get_field
from lostjax.train.config.presets import get_preset
from lostjax.train.config.schema import HostsConfig, TrainConfig
from lostjax.train.config.stored import save_config
from lostjax.train.flags import _flag_names
from lostjax.train.habits import HABITS, suggest_flag
from lostjax.train.usage import COMMON


def test_flags_override_the_preset():
    words = "--preset=smoke --mesh=data:8 --model.rank 4 --optim=adamw --run_dir=x"
    config, dry_run, extends = parse_command(words.split())
    assert not dry_run and not extends
    assert config.preset == "smoke" and config.mesh == "data:8"
    assert config.model == dataclasses.replace(get_preset("smoke").model, rank=4)
    assert config.run_dir == "x" and config.optim.name == "adamw"


def test_every_habit_leads_to_a_flag_of_some_program():
    known = set()
    for name in PROGRAMS:
        package = importlib.util.find_spec(f"lostjax.{name}").submodule_search_locations
        module = importlib.import_module(
            f"lostjax.{name}" + ".__main__" * bool(package)
        )
        known |= set(_flag_names(module.Flags))
    for habit, flag in HABITS.items():
        assert f"--{habit}" not in _flag_names(TrainConfig), "it is a flag itself"
        assert f"--{flag}" in known
        assert suggest_flag(f"--{habit}", known) == f"; did you mean --{flag}?"


@pytest.mark.parametrize("program", ["train", "verify"])
def test_the_version_is_printed(program, capsys):
    module = importlib.import_module("lostjax.train.__main__")
    module = (
        importlib.import_module("lostjax.verify") if program == "verify" else module
    )
    with pytest.raises(SystemExit) as end:
        module.main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"lostjax {lostjax.__version__}\n"
    assert programs(["--version"]) == 0
    assert capsys.readouterr().out == f"lostjax {lostjax.__version__}\n"


def test_a_configuration_file_is_where_values_start(tmp_path):
    stored = dataclasses.replace(get_preset("smoke"), steps=7, run_dir="elsewhere")
    save_config(tmp_path / "config.json", stored)
    config, *_ = parse_command([f"--config={tmp_path}/config.json", "--seed=3"])
    assert (config.steps, config.seed, config.run_dir) == (7, 3, None)
    config, *_ = parse_command([f"--resume={tmp_path}"])
    assert config == dataclasses.replace(stored, run_dir=str(tmp_path))


def test_hosts_are_never_taken_from_a_stored_configuration(tmp_path):
    hosts = HostsConfig(coordinator="192.0.2.1:1234", processes=2, index=1)
    path = tmp_path / "config.json"
    save_config(path, dataclasses.replace(get_preset("smoke"), hosts=hosts))
    assert "192.0.2.1" not in path.read_text()
    values = json.loads(path.read_text())
    del values["hash"]
    values |= {"version": 2, "hosts": dataclasses.asdict(hosts)}
    for text in (path.read_text(), json.dumps(values)):  # and as runs stored it before
        path.write_text(text)
        for word in (f"--config={path}", f"--resume={tmp_path}"):
            assert parse_command([word]).config.hosts == HostsConfig()
    config, *_ = parse_command([f"--resume={tmp_path}", "--hosts.index=0"])
    assert config.hosts == HostsConfig(index=0)


@pytest.mark.parametrize(
    "words, message",
    [
        ("--bogus=1", "--bogus: no such flag; see --help"),
        ("--modle.rank=3", "--modle.rank: no such flag; did you mean --model.rank?"),
        ("--steps=3 --steps=4", "--steps is given twice"),
        ("--lr=1e-3", "--lr: no such flag; did you mean --optim.learning-rate?"),
        ("--wd 0.1", "--wd: no such flag; did you mean --optim.weight-decay?"),
        ("--epochs=3", "--epochs: no such flag; did you mean --steps?"),
        ("--gpus=8", "--gpus: no such flag; did you mean --mesh?"),
        ("--dataset=x", "--dataset: no such flag; did you mean --data.source?"),
        ("--output_dir=x", "--output-dir: no such flag; did you mean --run-dir?"),
        ("--rank=3", "--rank: no such flag; did you mean --model.rank?"),
        ("--steps 3 --steps=4", "--steps is given twice"),
        ("--run-dir=a --run_dir=b", "--run-dir is given twice"),
        ("--dry-run --no-dry-run", "--dry-run and --no-dry-run contradict each other"),
        ("--resume=", "--resume=: has no value; write --resume=VALUE"),
        ("--config=", "--config=: has no value; write --config=VALUE"),
        ("--run-dir=", "--run-dir=: has no value; write --run-dir=VALUE"),
        ("--steps=٣", "--steps=٣: must be an integer"),
        ("--steps=1_0", "--steps=1_0: must be an integer"),
        ("--steps=+5", "must be an integer: the whole value, not what is added"),
        ("--optim.learning-rate=1_0.", "rate=1_0.: must be a number"),
        ("--config=/dev/zero", "/dev/zero: not a configuration: it is not a regular"),
        ("--optim=adamw --optim.name=adamw", "--optim.name is given twice"),
        ("--optim.density=1", "no such flag; it is called --optim.frugal.density now"),
        (
            "--objective.trajectory-lag_epochs=1",
            "it is called --objective.trajectory.lag-epochs now",
        ),
        (
            "--objective.reweight=hard",
            "--objective.reweight=hard: must be one of none, ",
        ),
        ("--steps=many", "--steps=many: must be an integer"),
        ("--steps many", "--steps=many: must be an integer"),
        ("--optim.b1=half", "--optim.b1=half: must be a number"),
        ("--model.linear=colla", "sltrain, lost; did you mean cola?"),
        ("--preset=tinny", "did you mean tiny"),
        ("--preset=tiny --resume=x", "both say where values start from"),
        ("--preset=tiny --config=x", "x: no such configuration file"),
        ("--config=/no/such.json", "/no/such.json: no such configuration file"),
        ("--resume=/no/such", "not a run's directory"),
        ("stray", "stray: not a flag; write flags as --NAME=VALUE"),
        ("other.txt", "--NAME=VALUE; did you mean --data.source=other.txt?"),
        ("/tmp", "; did you mean --data.source=/tmp?"),
        ("steps=3", "; did you mean --steps=3?"),
        ("-seed=3", "; did you mean --seed=3?"),
        ("latest", "; did you mean --resume=latest?"),
        ("smoke", "; did you mean --preset=smoke?"),
        ("mine.yaml", "; did you mean --config=mine.yaml?"),
        ("--steps", "--steps: has no value; write --steps=VALUE"),
        ("--steps --seed=1", "--steps: has no value; write --steps=VALUE"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(words, message, capsys):
    with pytest.raises(ConfigError) as caught:
        parse_command(words.split())
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert main(words.split()) == 2
    said = capsys.readouterr()
    assert not said.out and said.err.count("\n") == 1
    assert said.err.startswith("python -m lostjax.train: error: ")


def printed_help(words, capsys):
    with pytest.raises(SystemExit) as caught:
        parse_command(words.split())
    assert caught.value.code == 0
    return capsys.readouterr().out


def test_help_fits_a_screen_and_shows_the_chosen_presets_defaults(capsys):
    said = printed_help("--preset=lost_1b --help", capsys)
    lines = said.splitlines()
    assert len(lines) <= 60 and max(map(len, lines)) <= 88
    assert "[2048]" in said and "[lost_1b]" in said
    for flag in ("--optim=adamw|frugal", "--resume", "--data.source", "--help-all"):
        assert flag in said
    assert "--init-from" in said and said.count("(") == said.count(")")
    assert "(0: only at end; default: a fifth of the run)" in " ".join(said.split())


def test_help_all_has_every_flag(capsys):
    said = printed_help("--preset=lost_1b --help-all", capsys)
    assert "[2048]" in said and "[bpe:32000]" in said
    assert max(map(len, said.splitlines())) <= 88
    for name in flat_fields(TrainConfig()):
        assert f"  {flag_name(name).replace('.name', '')}" in said
    assert "[0.25]" in said, "density's"


def test_the_short_help_names_fields_that_exist():
    for name in (name for names in COMMON.values() for name in names):
        get_field(TrainConfig(), name)


def test_methods_have_short_flags():
    words = "--optim=galore --objective.trajectory=mesa --objective.reweight=upper"
    config, *_ = parse_command(words.split())
    assert config.optim.name == "galore"
    assert config.objective.trajectory.name == "mesa"
    assert config.objective.reweight.name == "upper"
