"""Checkpoints: what is saved comes back, on any mesh, or is known to be damaged."""

import asyncio
import contextlib
import dataclasses
import logging
import random
import shutil
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from orbax.checkpoint._src.path import async_path

from lostjax.disk.manifest import find_damage, write_manifest
from lostjax.errors import ConfigError
from lostjax.train.build.model import build_model
from lostjax.train.build.optimizer import build_optimizer
from lostjax.train.build.state import abstract_state, abstract_variables, init_state
from lostjax.train.config.schema import ModelConfig, OptimConfig
from lostjax.train.devices.mesh import make_mesh
from lostjax.train.keep import step_directories as step_dirs
from lostjax.train.keep.arrays import store as arrays
from lostjax.train.keep.checkpoints import open_checkpoints

CONFIG = ModelConfig(
    d_model=32, n_layers=2, n_heads=2, d_hidden=64, rank=8, delta=0.25,
)  # fmt: skip
MODEL = build_model(CONFIG, vocab_size=64)
TX, _ = build_optimizer(OptimConfig(), steps=10)
ABSTRACT = abstract_state(MODEL, TX, key=jax.random.key(0))


@pytest.fixture(scope="module")
def state():
    """A state on eight devices that no mesh and no seed would make again."""
    first = init_state(MODEL, TX, mesh=make_mesh("fsdp:8"), key=jax.random.key(3))
    moved = jax.tree.map(lambda leaf: leaf + jnp.ones((), leaf.dtype), first)
    backwards = jax.tree.map(lambda leaf: leaf[..., ::-1], first.channels)
    return moved._replace(step=jnp.asarray(7, jnp.int32), channels=backwards)


@pytest.fixture(scope="module")
def stored(state, tmp_path_factory):
    """A directory with that state as steps 7 and 8."""
    directory = tmp_path_factory.mktemp("stored") / "checkpoints"
    with open_checkpoints(directory, keep=2) as checkpoints:
        for step in (7, 8):
            checkpoints.save(state, step=step)
            checkpoints.wait()
        assert checkpoints.failed_step is None
    return directory


@pytest.fixture
def copied(stored, tmp_path):
    return shutil.copytree(stored, tmp_path / "checkpoints")


def assert_same(ours, theirs):
    paths = jax.tree_util.tree_leaves_with_path(ours)
    for (path, leaf), other in zip(paths, jax.tree.leaves(theirs), strict=True):
        assert leaf.dtype == other.dtype
        np.testing.assert_array_equal(leaf, other, jax.tree_util.keystr(path))


@pytest.mark.parametrize(
    "mesh", ["data:8", "fsdp:4", "data:2,tensor:2", "fsdp:2", "data:1"]
)
def test_a_checkpoint_of_eight_devices_is_read_exactly_on_any_mesh(state, stored, mesh):
    mesh = make_mesh(mesh)
    with open_checkpoints(stored) as checkpoints:
        found = checkpoints.restore(ABSTRACT, step=8, mesh=mesh)
    assert_same(state, found)
    leaf = found.params["embed"]["embedding"]
    assert len(leaf.sharding.device_set) == mesh.size


def test_parameters_are_rounded_to_bfloat16_on_request(state, stored):
    with open_checkpoints(stored) as checkpoints:
        found = checkpoints.restore_model(
            abstract_variables(MODEL),
            step=8,
            mesh=make_mesh("data:2"),
            dtype="bfloat16",
        )
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), state.params)
    assert_same({"params": rounded, "channels": state.channels}, found)


def test_saving_goes_on_beside_training_and_keeps_the_newest(
    state, tmp_path, monkeypatch
):
    returned, commit, late = threading.Event(), step_dirs.commit, []

    def commit_late(directory, step):
        late.append(returned.wait(20))
        commit(directory, step)

    with open_checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.find_whole_step() is None
        monkeypatch.setattr(step_dirs, "commit", commit_late)
        checkpoints.save(state, step=1)
        assert checkpoints.all_steps() == []
        returned.set()
        for step in (2, 3, 3):
            checkpoints.save(state, step=step)
    assert late == [True, True, True], "save waited for the hashing"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3"]
    with open_checkpoints(tmp_path) as checkpoints:
        assert checkpoints.all_steps() == [2, 3] and checkpoints.latest_step() == 3
        assert_same(
            state, checkpoints.restore(ABSTRACT, step=2, mesh=make_mesh("data:1"))
        )


def test_an_open_directory_is_rid_of_what_a_killed_save_left(copied):
    left = step_dirs.saving_dir(copied, 9)
    step_dirs.step_dir(copied, 8).rename(left)
    with open_checkpoints(copied) as checkpoints:
        assert checkpoints.all_steps() == [7] and left.exists()
    with open_checkpoints(copied, keep=1) as checkpoints:
        assert checkpoints.find_whole_step() == 7 and not left.exists()


def test_another_model_is_refused(stored):
    dense = dataclasses.replace(CONFIG, linear="dense")
    other = build_model(dense, vocab_size=64)
    with (
        open_checkpoints(stored) as checkpoints,
        pytest.raises(
            ConfigError, match="checkpoints/8: cannot be read as a checkpoint"
        ),
    ):
        checkpoints.restore_model(
            abstract_variables(other), step=8, mesh=make_mesh("data:1")
        )


def flip_bits(directory, *, flips):
    """Flip bits one by one, over the whole length of every file; gives those missed."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    rng = random.Random(len(files))
    missed = []
    for number in range(flips):
        path = files[number % len(files)]
        place, bit = rng.randrange(path.stat().st_size), rng.randrange(8)
        with path.open("r+b", buffering=0) as file:
            file.seek(place)
            (byte,) = file.read(1)
            file.seek(place)
            file.write(bytes([byte ^ 1 << bit]))
            if not find_damage(directory):
                missed.append((path, place, bit))
            file.seek(place)
            file.write(bytes([byte]))
    assert find_damage(directory) == []
    return missed


@pytest.mark.parametrize("flips", [30, pytest.param(400, marks=pytest.mark.torture)])
def test_every_flipped_bit_is_found(copied, flips):
    directory = step_dirs.step_dir(copied, 8)
    names = [path.name for path in directory.rglob("*") if path.is_file()]
    assert "manifest.json" in names and len(names) > 10
    assert flip_bits(directory, flips=max(flips, len(names))) == []


def test_a_flipped_bit_is_never_read(copied):
    parts = copied.glob("8/model/ocdbt.process_0/d/*")
    path = max(parts, key=lambda part: part.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    mesh = make_mesh("data:1")
    with open_checkpoints(copied, keep=2) as checkpoints:
        with pytest.raises(
            ConfigError, match="8: is damaged: model/ocdbt.process_0/d/"
        ):
            checkpoints.restore(ABSTRACT, step=8, mesh=mesh)
        with pytest.raises(ConfigError, match="8: is damaged: model/"):
            checkpoints.restore_model(abstract_variables(MODEL), step=8, mesh=mesh)
        assert checkpoints.find_whole_step() == 7
        assert checkpoints.all_steps() == [7] and (copied / "8.damaged").exists()


def test_the_way_back_is_the_wanted_step_or_the_newest_whole_one(state, copied):
    with open_checkpoints(copied, keep=1) as checkpoints:
        assert checkpoints.find_way_back(0) == 0
        checkpoints.save(state, step=9, also=7)
        assert checkpoints.find_way_back(7) == 7, "the save under way is done"
        assert checkpoints.all_steps() == [7, 9]
        checkpoints.forget_after(7)
        assert checkpoints.all_steps() == [7]
        checkpoints.save(state, step=9, also=7)  # anew: it is another state now
        checkpoints.wait()
        next((copied / "7").glob("model/*")).unlink()
        assert checkpoints.find_way_back(7) == 9 and (copied / "7.damaged").exists()
        next((copied / "9").glob("model/*")).unlink()
        with pytest.raises(ConfigError, match="no checkpoint is whole"):
            checkpoints.find_way_back(9)


@pytest.mark.parametrize("name", ["a[1]", "*?[", "é 雪 '\"$x", "-"])
def test_a_checkpoint_below_any_name_comes_back(state, tmp_path, name):
    directory = tmp_path / name / "checkpoints"
    with open_checkpoints(directory, keep=1) as checkpoints:
        checkpoints.save(state, step=7)
    assert sorted(path.name for path in directory.iterdir()) == ["7"]
    with open_checkpoints(directory, keep=1) as checkpoints:
        assert checkpoints.find_whole_step() == 7
        assert_same(
            checkpoints.restore(ABSTRACT, step=7, mesh=make_mesh("data:1")), state
        )


def test_arrays_that_cannot_be_read_again_are_no_checkpoint(
    state, tmp_path, monkeypatch, capsys
):
    @contextlib.contextmanager
    def plain(directory):  # as orbax would read it
        yield directory

    directory = tmp_path / "a[1]" / "checkpoints"
    with open_checkpoints(directory, keep=1) as checkpoints:
        with monkeypatch.context() as broken:
            broken.setattr(arrays, "open_alias", plain)
            checkpoints.save(state, step=7)
            checkpoints.wait()
        assert checkpoints.failed_step == 7 and not list(directory.iterdir())
        assert "7 could not be saved (model cannot be read again: NOT_FOUND" in (
            capsys.readouterr().err
        )


def test_a_checkpoint_with_other_arrays_is_not_readable(state, copied):
    wanted = arrays.describe_arrays(ABSTRACT.params)
    with pytest.raises(OSError, match="model has other arrays"):
        arrays.check_readable(copied / "8", model=wanted)
    whole = {"params": state.params, "channels": state.channels}
    arrays.check_readable(copied / "8", model=arrays.describe_arrays(whole))


def test_a_save_that_never_ends_is_given_up_and_the_next_one_tried(
    state, tmp_path, monkeypatch, capsys
):
    released, calls = threading.Event(), []

    def never_return():
        calls.append(len(calls))
        if len(calls) > 1:  # orbax's own call, before the save, returns
            released.wait(60)

    monkeypatch.setattr(arrays, "STALLED_SECONDS", 0.2)
    with open_checkpoints(tmp_path / "checkpoints", keep=1) as checkpoints:
        stuck = checkpoints._arrays._orbax
        monkeypatch.setattr(stuck, "wait_until_finished", never_return)
        checkpoints.save(state, step=7)
        checkpoints.wait()
        assert checkpoints.failed_step == 7 and not checkpoints.holds(7)
        said = capsys.readouterr().err
        assert "7 could not be saved (nothing was written for 0.2 s); there" in said
        monkeypatch.setattr(arrays, "STALLED_SECONDS", 60)
        checkpoints.save(state, step=8)
        checkpoints.wait()
        assert checkpoints.holds(8) and checkpoints.all_steps() == [8]
    assert len(calls) == 2, "it is left alone"
    released.set()


def test_a_checkpoint_that_was_never_joined_is_not_whole(copied, capsys):
    (copied / "8" / "progress" / "manifest.ocdbt").unlink()
    write_manifest(copied / "8")
    with open_checkpoints(copied, keep=2) as checkpoints:
        with pytest.raises(ConfigError, match="progress/manifest.ocdbt: was never wri"):
            checkpoints.restore(ABSTRACT, step=8, mesh=make_mesh("data:1"))
        assert checkpoints.find_whole_step() == 7


@pytest.mark.parametrize("wait", [True, False])
def test_what_orbaxs_threads_log_of_a_failed_save_is_dropped_even_late(wait, caplog):
    from orbax.checkpoint._src.futures import future

    store = arrays.ArrayStore()
    thread = future._SignalingThread(
        target=lambda: 1 / 0, send_signals=[], receive_signals=[]
    )
    try:
        store.close(wait=wait)
        thread.run()  # one that was late
        # After a save that worked nothing is late, and all is logged.
        assert [r.name for r in caplog.records] == (["absl"] if wait else [])
    finally:
        for name in arrays._NOISY:
            logging.getLogger(name).removeFilter(arrays._is_no_failed_save)


def test_nothing_is_saved_through_a_link_that_took_the_place_of_the_directory(
    state, copied, capsys
):
    with open_checkpoints(copied, keep=2) as checkpoints:
        copied.rename(copied.with_name("elsewhere"))
        copied.symlink_to(copied.with_name("elsewhere"))
        checkpoints.save(state, step=9)
        checkpoints.wait()
        assert checkpoints.failed_step == 9
    assert "became a symbolic link" in capsys.readouterr().err
    assert sorted(path.name for path in copied.iterdir()) == ["7", "8"]


def test_a_save_that_fails_is_said_and_the_next_one_tried(
    state, copied, monkeypatch, capsys
):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with open_checkpoints(copied, keep=1) as checkpoints:
        with monkeypatch.context() as broken:
            broken.setattr(step_dirs, "write_manifest", full)
            checkpoints.save(state, step=9)
            checkpoints.wait()
            assert checkpoints.failed_step == 9
            assert sorted(path.name for path in copied.iterdir()) == ["7", "8"]
            broken.setattr(arrays.ocp.AsyncCheckpointer, "save", full)
            checkpoints.save(state, step=10)
            checkpoints.wait()
        assert sorted(path.name for path in copied.iterdir()) == ["7", "8"]
        said = capsys.readouterr().err
        for step in (9, 10):
            assert f"checkpoint {step} could not be saved (No space left on" in said
        assert said.count("step 8 is intact, and the next save will be tried\n") == 2
        checkpoints.save(state, step=11)
        checkpoints.wait()
        assert checkpoints.failed_step is None and checkpoints.all_steps() == [11]


def test_what_orbaxs_threads_leave_behind_is_not_logged(tmp_path):
    """A directory that a failed save removed, in which a thread still writes."""

    def record_of(failing):
        try:
            failing()
        except OSError:
            said = "Future exception was never retrieved"
            return logging.LogRecord(
                "asyncio", logging.ERROR, "events.py", 1, said, (), sys.exc_info()
            )

    missing = epath.Path(tmp_path / "gone" / "process_0")
    theirs = record_of(lambda: asyncio.run(async_path.write_text(missing, "")))
    assert not arrays._is_no_failed_save(theirs)
    assert arrays._is_no_failed_save(record_of(missing.read_text))
