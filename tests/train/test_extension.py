"""Runs that are extended: the same runs as longer ones, by their configurations."""

import dataclasses

import jax
import numpy as np
import pytest

import lostjax
from lostjax.disk.manifest import write_manifest
from lostjax.errors import ConfigError
from lostjax.optim import warmup_cosine_schedule
from lostjax.train.build.schedule import build_schedule, describe_schedule
from lostjax.train.config.checks import check_config
from lostjax.train.config.fields import replace_in
from lostjax.train.config.presets import get_preset
from lostjax.train.config.schema import OptimConfig
from lostjax.train.config.stored import load_run_config, save_config
from lostjax.train.config.stretches import extend_config, first_steps
from lostjax.train.keep.directory import choose_run_dir, hold_run_dir
from lostjax.train.keep.extension import adopt_stored, extend_run

PEAK = 6e-3


def rates(steps, earlier="", **values):
    config = OptimConfig(learning_rate=PEAK, earlier=earlier, **values)
    schedule = build_schedule(config, steps=steps)
    return np.array([schedule(step) for step in range(steps)])


def test_a_finished_run_goes_on_as_the_longer_one_to_the_last_bit(
    text_file, cache_dir, tmp_path, plain_report, capsys
):
    config = lostjax.train.preset(
        "smoke",
        steps=4,
        run_dir=tmp_path / "run",
        checkpoint_every=2,
        **{
            "mesh": "data:1",
            "model.n_layers": 1,
            "data.source": text_file,
            "data.cache_dir": cache_dir,
            "data.seq_len": 32,
            "optim.schedule": "constant",
            "optim.warmup": 0.5,
            "objective.reweight.name": "lin_upper",
            "objective.reweight.warmup": 0.5,
        },
    )
    lostjax.train.run(config)
    longer = dataclasses.replace(config, steps=8)
    with pytest.raises(ConfigError, match=r"another schedule \(--steps: 4 there, 8"):
        lostjax.train.run(longer)
    capsys.readouterr()
    extended = lostjax.train.run(longer, extend=True)
    said = capsys.readouterr().out
    assert "resuming at step 4" in said and "report-4.html: the report up to" in said
    assert "2 steps of warm-up to 0.006; constant to step 8" in said
    assert (tmp_path / "run" / "report-4.html").exists() and extended.is_finished
    assert extended.config.optim.earlier == "4:4:constant:0.1:0.2"
    # A script repeats the command line that extended the run, or resumes it plainly.
    for again in (longer, extended.config):
        assert lostjax.train.run(again).config == extended.config
    assert "finished, all 8 steps are done" in capsys.readouterr().out
    whole = replace_in(longer, "optim", warmup=0.25)
    whole = replace_in(whole, "objective.reweight", warmup=0.25)
    whole = lostjax.train.run(dataclasses.replace(whole, run_dir=str(tmp_path / "b")))
    assert list(extended.metrics["loss"]) == list(whole.metrics["loss"])
    jax.tree.map(np.testing.assert_array_equal, extended.params, whole.params)
    with pytest.raises(ConfigError, match=r"--steps=8: the run is at step 8 already"):
        lostjax.train.run(
            replace_in(extended.config, "optim", schedule="wsd"), extend=True
        )


def test_each_schedule_goes_on_from_where_the_earlier_one_was_left():
    cosine = rates(20)
    np.testing.assert_array_equal(
        cosine,
        [warmup_cosine_schedule(PEAK, steps=20, warmup_steps=2)(t) for t in range(20)],
    )
    finished = "20:20:cosine:0.1:0.2"
    for schedule in ("constant", "cosine"):  # a cosine has nothing left to fall
        went_on = rates(30, finished, schedule=schedule)
        np.testing.assert_array_equal(went_on[:20], cosine)
        np.testing.assert_allclose(went_on[20:], 0.1 * PEAK, rtol=1e-6)
    lower = rates(30, finished, final_fraction=0.01)
    assert lower[20] == pytest.approx(0.1 * PEAK) and np.all(np.diff(lower[2:]) < 0)
    cut = rates(40, "10:20:cosine:0.1:0.2")
    np.testing.assert_array_equal(cut[:10], cosine[:10])
    assert cut[10] == pytest.approx(cosine[10]) and np.all(np.diff(cut[2:]) < 0)
    up = rates(40, finished, schedule="wsd")
    np.testing.assert_allclose(up[20:33], PEAK, rtol=1e-6)
    assert up[39] == pytest.approx(PEAK * (0.1 + 0.9 / 8))


@pytest.mark.parametrize(
    "step, schedule", [(10, "wsd"), (16, "wsd"), (16, "constant"), (2, "cosine")]
)
def test_an_extension_before_the_decay_is_the_longer_run(step, schedule):
    before = "wsd" if schedule != "cosine" else "cosine"
    earlier = f"{step}:20:{before}:0.1:0.2"
    extended = rates(40, earlier, schedule=schedule, warmup=0.1)
    longer = rates(40, schedule=schedule, warmup=0.05)
    np.testing.assert_array_equal(extended, longer)


def test_a_decay_that_is_done_is_named_and_the_rate_returns_to_the_peak():
    config = OptimConfig(schedule="wsd", earlier="20:20:wsd:0.1:0.2")
    assert describe_schedule(config, steps=40) == (
        "learning rate: 2 steps of warm-up to 0.006; 0.006 until step 16, then a "
        "linear decay to step 20; 0.006 until step 32, then a linear decay from step "
        "20 to step 40, where it is 0.001275"
    )
    once = rates(40, "20:20:cosine:0.1:0.2", schedule="constant")
    twice = "20:20:cosine:0.1:0.2,30:30:constant:0.1:0.2"
    np.testing.assert_array_equal(rates(40, twice, schedule="constant"), once)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"earlier": "20"}, "must be UNTIL:STEPS:SCHEDULE:FINAL:DECAY"),
        ({"earlier": "5:5:cosin:0.1:0.2"}, "did you mean cosine"),
        ({"earlier": "5:5:cosine:nan:0.2"}, "must be UNTIL:STEPS"),
        ({"earlier": "20:20:cosine:0.1:0.2"}, "its steps must rise from 1 to below"),
        ({"earlier": "5:5:wsd:0:0.2,5:9:wsd:0:0.2"}, "its steps must rise"),
        ({"schedule": "wsd", "warmup": 0.5, "decay_fraction": 0.6}, "more than all"),
        ({"decay_fraction": 0.0}, r"must lie in \(0, 1\]"),
        ({"schedule": "wsd", "name": "schedule_free"}, "averages instead"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        check_config(replace_in(get_preset("smoke"), "optim", **values))


def test_a_rate_of_zero_is_not_extended():
    earlier = "20:20:cosine:0.0:0.2"
    for schedule in ("constant", "cosine"):
        with pytest.raises(ConfigError, match="the learning rate is 0 at step 20"):
            rates(40, earlier, schedule=schedule)
    assert rates(40, earlier, schedule="wsd")[20] == pytest.approx(PEAK)


@pytest.fixture
def stored(tmp_path):
    """The directory of a run of 20 steps with a checkpoint of step 20."""
    config = dataclasses.replace(get_preset("smoke"), run_dir=str(tmp_path))
    save_config(tmp_path / "config.json", config)
    for step in (10, 20):
        place = tmp_path / "checkpoints" / str(step)
        place.mkdir(parents=True)
        write_manifest(place)
    return config


def test_only_what_an_extension_may_change_extends(stored, tmp_path):
    longer = dataclasses.replace(stored, steps=40)
    extended = extend_run(tmp_path, longer)
    assert extended.optim.earlier == "20:20:cosine:0.1:0.2"
    assert first_steps(extended) == 20
    further = extend_config(extended, dataclasses.replace(extended, steps=60), step=30)
    assert further.optim.earlier == "20:20:cosine:0.1:0.2,30:40:cosine:0.1:0.2"
    assert choose_run_dir(extended) == tmp_path  # nothing is written yet
    assert load_run_config(tmp_path) == stored
    other = dataclasses.replace(longer, batch_size=16)
    for asked in (other, extend_run(tmp_path, other)):
        with pytest.raises(ConfigError, match="--batch-size: 8 there, 16 now"):
            choose_run_dir(asked)
    with pytest.raises(ConfigError, match=r"use --resume=.* with these flags"):
        choose_run_dir(longer)
    assert extend_run(tmp_path, stored) == stored
    assert adopt_stored(tmp_path, stored) == stored


def test_what_was_planned_is_written_once_the_directory_is_held(stored, tmp_path):
    extended = extend_run(tmp_path, dataclasses.replace(stored, steps=40))
    with hold_run_dir(tmp_path, extended, identity={"a": 1}, needed=0):
        assert load_run_config(tmp_path) == extended
    assert adopt_stored(tmp_path, dataclasses.replace(stored, steps=40)) == extended
    with pytest.raises(ConfigError, match="--steps: 40 there, 20 now"):
        choose_run_dir(adopt_stored(tmp_path, stored))
    once_more = extend_run(tmp_path, dataclasses.replace(extended, steps=60))
    assert once_more.optim.earlier == extended.optim.earlier  # 40 was never followed


def test_a_run_that_another_process_trained_meanwhile_is_not_extended(stored, tmp_path):
    extended = extend_config(stored, dataclasses.replace(stored, steps=40), step=10)
    with (
        pytest.raises(ConfigError, match="trained this run to step 20 since"),
        hold_run_dir(tmp_path, extended, identity={"a": 1}, needed=0),
    ):
        pass
    assert load_run_config(tmp_path) == stored


def test_a_run_without_a_checkpoint_is_not_extended(tmp_path):
    config = dataclasses.replace(get_preset("smoke"), run_dir=str(tmp_path))
    save_config(tmp_path / "config.json", config)
    with pytest.raises(ConfigError, match="has no checkpoint yet that could be"):
        extend_run(tmp_path, dataclasses.replace(config, steps=40))
