"""Runs that start from the parameters of another run."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

import lostjax
from lostjax.data import save_tokenizer
from lostjax.errors import ConfigError
from lostjax.train.__main__ import parse_command
from lostjax.train.build.initial import start_state
from lostjax.train.build.job import prepare_job
from lostjax.train.config.presets import get_preset
from lostjax.train.keep.checkpoints import open_checkpoints
from lostjax.train.keep.directory import hold_run_dir


def make_run(directory, text_file, cache_dir, *, tokenizer, steps):
    """Write a run with checkpoints that nobody trained."""
    config = lostjax.train.preset(
        "smoke",
        steps=4,
        run_dir=directory,
        **{
            "mesh": "data:1",
            "model.n_layers": 1,
            "data.source": text_file,
            "data.cache_dir": cache_dir,
            "data.seq_len": 32,
            "data.tokenizer": tokenizer,
        },
    )
    job = prepare_job(config)
    with (
        hold_run_dir(directory, config, identity=job.data.identity, needed=0),
        open_checkpoints(directory / "checkpoints", keep=2) as checkpoints,
    ):
        save_tokenizer(job.data.tokenizer, directory)
        for step in steps:
            config = dataclasses.replace(config, seed=step)
            state = start_state(dataclasses.replace(job, config=config))
            checkpoints.save(state._replace(step=state.step + step), step=step)
            checkpoints.wait()
    return lostjax.train.load(directory)


@pytest.fixture(scope="module")
def base(text_file, cache_dir, tmp_path_factory):
    """A run with checkpoints of steps 2 and 4, and a tokenizer of its own text."""
    directory = tmp_path_factory.mktemp("base") / "run"
    return make_run(directory, text_file, cache_dir, tokenizer="bpe:300", steps=(2, 4))


@pytest.fixture
def other(tmp_path):
    path = tmp_path / "other.txt"
    path.write_text("the quick brown fox jumps over the lazy dog\n" * 400)
    return path


def words_of(base, *words):
    return [f"--init-from={base.directory}", *words]


def test_values_are_the_runs_and_the_tokenizer_its_file(base):
    config = parse_command(words_of(base, "--steps=9", "--optim=adamw")).config
    assert config.model == base.config.model and config.data.seq_len == 32
    assert config.data.tokenizer == str(base.directory / "tokenizer.json")
    assert (config.steps, config.run_dir) == (9, None)
    config = parse_command(words_of(base, "--preset=tiny")).config
    tiny = get_preset("tiny")
    assert config.model == base.config.model and config.optim == tiny.optim
    assert config.data.seq_len == tiny.data.seq_len
    assert config.data.tokenizer == str(base.directory / "tokenizer.json")


def test_a_run_starts_from_the_parameters_and_a_fresh_optimiser(base, other):
    flags = ["--optim=adamw", "--data.seq-len=16", f"--data.source={other}"]
    config = parse_command(words_of(base, *flags, "--mesh=data:2,fsdp:2")).config
    job = prepare_job(config)
    assert job.config.init_step == 4
    state = start_state(job)
    jax.tree.map(np.testing.assert_array_equal, state.params, base.params)
    jax.tree.map(
        np.testing.assert_array_equal, state.channels, base.variables["channels"]
    )
    moments = jax.tree.leaves(state.opt_state)
    assert all(float(np.abs(leaf).max()) == 0 for leaf in moments if leaf.size)
    earlier = prepare_job(dataclasses.replace(config, init_step=2))
    before = lostjax.train.load(base.directory, step=2).params
    jax.tree.map(np.testing.assert_array_equal, start_state(earlier).params, before)


def test_the_run_says_where_it_started_and_resumes_without_it(
    base, other, tmp_path, plain_report, capsys
):
    there = tmp_path / "there"
    shutil.copytree(base.directory, there)
    words = [f"--init-from={there}", f"--data.source={other}", "--optim=adamw"]
    words += ["--steps=2", f"--run-dir={tmp_path / 'tuned'}", "--optim.warmup=0"]
    config = parse_command(words).config
    tuned = lostjax.train.run(config)
    said = capsys.readouterr().out
    assert f"from step 4 of {there}, " in said
    assert f"from step 4 of {there}" in (tuned.directory / "report.html").read_text()
    assert tuned.config.init_step == 4
    shutil.rmtree(there)
    for again in (config, tuned.config):
        lostjax.train.run(again)
        assert "finished, all 2 steps are done" in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["--data.tokenizer=bytes"], ["FILE"]])
def test_a_run_of_bytes_is_a_start(
    words, text_file, cache_dir, other, tmp_path_factory
):
    there = tmp_path_factory.getbasetemp() / "bytes"
    if not there.exists():  # made once for all of these
        make_run(there, text_file, cache_dir, tokenizer="bytes", steps=(4,))
    if words == ["FILE"]:
        words = [f"--data.tokenizer={there / 'tokenizer.json'}"]
    flags = [f"--init-from={there}", f"--data.source={other}", *words]
    job = prepare_job(parse_command(flags).config)
    assert job.config.init_step == 4 and job.data.vocab_size == 257
    again = lostjax.train.preset(
        "smoke", init_from=there, **{"data.source": other, "mesh": "data:1"}
    )
    assert prepare_job(again).config.init_step == 4


@pytest.mark.parametrize(
    "words, message",
    [
        ("--model.rank=4", r"--model.rank=4: it is 8 in .*the same shape"),
        ("--model.gamma=0.5", r"--model.gamma=0.5: it is 0.7 in "),
        ("--init-step=3", r"--init-step=3: .* has checkpoints of steps 2, 4"),
        ("--data.tokenizer=bytes", r"is not the tokenizer .*\(257 tokens here, 300"),
        ("--data.tokenizer=bytes", r"the right one is --data.tokenizer=/.*\.json$"),
        ("--resume=x", "--init-from and --resume both say"),
        ("--preset=tini", "did you mean tiny"),
    ],
)
def test_what_does_not_fit_the_other_run_is_refused(base, words, message):
    with pytest.raises(ConfigError, match=message):
        prepare_job(parse_command(words_of(base, *words.split())).config)


def test_a_run_that_is_none_is_refused(base, tmp_path):
    for name, message in {
        str(tmp_path): "not a run's directory",
        str(tmp_path / "no"): "not a run's directory",
    }.items():
        with pytest.raises(ConfigError, match=message):
            parse_command([f"--init-from={name}"])
    shutil.copytree(base.directory, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    config = parse_command([f"--init-from={tmp_path / 'run'}"]).config
    with pytest.raises(ConfigError, match="has no checkpoint yet"):
        prepare_job(config)
    with pytest.raises(ConfigError, match="--init-step=3: needs --init-from=RUN"):
        prepare_job(dataclasses.replace(get_preset("smoke"), init_step=3))
