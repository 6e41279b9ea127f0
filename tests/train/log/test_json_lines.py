"""A metrics file says what the run did: after a crash, a resume, a NaN."""

import json
import math
import struct
import sys

import numpy as np
import pytest

from lostjax.disk.lines import AppendingFile
from lostjax.train.log.json_lines import (
    CLOCK_FIELDS,
    JsonLines,
    open_sinks,
    read_evaluations,
    read_metrics,
)
from lostjax.train.log.sink import FanOut


def write_run(run_dir, steps, *, resume_step=0):
    sink = open_sinks(run_dir, resume_step=resume_step)
    for step in steps:
        sink.write(step, {"loss": 8 / step, "tokens": 10 * step, "time": step * 1.5})
        if step % 2 == 0:
            sink.write(step, {"eval_loss": 9 / step})
    sink.close()


def read_events(run_dir):
    """Give (step, tag, value) of every event, by the file format itself."""
    from tensorboardX.proto.event_pb2 import Event

    events, starts = [], []
    for path in sorted((run_dir / "tensorboard").iterdir()):
        data, place = path.read_bytes(), 0
        while place < len(data):
            (length,) = struct.unpack_from("<Q", data, place)
            event = Event.FromString(data[place + 12 : place + 12 + length])
            place += 12 + length + 4
            events += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
            if event.HasField("session_log"):
                starts.append(event.step)
    return events, starts


def test_every_line_of_metrics_holds_step_and_loss(tmp_path):
    write_run(tmp_path, range(1, 6))
    lines = [json.loads(x) for x in (tmp_path / "metrics.jsonl").open()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    assert [line["loss"] for line in lines] == [8, 4, 8 / 3, 2, 1.6]
    assert [line["evaluated"] for line in lines] == [0, 0, 2, 2, 4]
    kept = {"evaluated", "hash"}
    bare = [{k: v for k, v in line.items() if k not in kept} for line in lines]
    assert bare == read_metrics(tmp_path)
    assert read_evaluations(tmp_path) == [
        {"step": 2, "eval_loss": 4.5},
        {"step": 4, "eval_loss": 2.25},
    ]


def test_a_line_can_be_read_as_soon_as_it_is_written(tmp_path):
    sink = JsonLines(tmp_path, resume_step=0)
    sink.write(1, {"loss": 2.5})
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 2.5}]
    sink.close()


@pytest.mark.parametrize("crash", [4, 5, 8])
def test_a_resumed_run_leaves_the_file_of_an_uninterrupted_one(tmp_path, crash):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    write_run(whole, range(1, 11))
    write_run(broken, range(1, crash + 1))
    write_run(broken, range(5, 11), resume_step=4)
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.parametrize("step", [0, 1, 3, 4])
def test_going_back_leaves_the_lines_until_there(tmp_path, monkeypatch, step):
    """Also of a disk that is full since the third step."""
    sink = open_sinks(tmp_path, resume_step=0)
    for number in range(1, 6):
        if number == 3:
            monkeypatch.setattr(AppendingFile, "flush", lambda self: None)
        sink.write(number, {"loss": 8 / number})
        sink.write(number, {"eval_loss": 9 / number})
    sink.go_back(step)
    there = [line["step"] for line in read_metrics(tmp_path)]
    assert there == list(range(1, min(step, 2) + 1))
    monkeypatch.undo()
    for number in range(step + 1, 7):
        sink.write(number, {"loss": 80 / number})
        sink.write(number, {"eval_loss": 90 / number})
    sink.close()
    for name, lines in (
        ("loss", read_metrics(tmp_path)),
        ("eval_loss", read_evaluations(tmp_path)),
    ):
        first = 8 if name == "loss" else 9
        wanted = [first / n if n <= step else 10 * first / n for n in range(1, 7)]
        assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
        assert [line[name] for line in lines] == wanted
    _, starts = read_events(tmp_path)
    assert starts == [step + 1]


@pytest.mark.parametrize("cut", [1, 2, 9])
def test_a_torn_last_line_is_dropped(tmp_path, cut):
    write_run(tmp_path, range(1, 4))
    path = tmp_path / "metrics.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2]
    write_run(tmp_path, [3], resume_step=3)
    assert path.read_bytes() == whole


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    write_run(tmp_path, range(1, 4))
    before = (tmp_path / "metrics.jsonl").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        JsonLines(tmp_path, resume_step=1)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    assert {p.name for p in tmp_path.iterdir() if p.is_file()} == {
        "metrics.jsonl",
        "evaluations.jsonl",
    }


def test_what_is_not_finite_is_null_in_the_file_and_nan_when_read(tmp_path):
    sink = JsonLines(tmp_path, resume_step=0)
    sink.write(1, {"loss": float("nan"), "gradient_norm": float("inf")})
    sink.close()
    text = (tmp_path / "metrics.jsonl").read_text()
    assert text.startswith('{"step": 1, "loss": null, "gradient_norm": null, "evalu')
    (line,) = read_metrics(tmp_path)
    assert math.isnan(line["loss"]) and math.isnan(line["gradient_norm"])


def test_numbers_come_back_exactly(tmp_path):
    value = np.float32(0.1)
    sink = JsonLines(tmp_path, resume_step=0)
    sink.write(1, {"loss": value, "tokens": np.int64(2**53 + 1)})
    sink.close()
    assert read_metrics(tmp_path) == [
        {"step": 1, "loss": float(value), "tokens": 2**53 + 1}
    ]


def test_values_without_loss_are_refused(tmp_path):
    sink = open_sinks(tmp_path, resume_step=0)
    with pytest.raises(ValueError, match="step 3 must contain 'loss'.*learning_rate"):
        sink.write(3, {"learning_rate": 0.1})
    sink.close()


def test_clock_fields_never_name_a_result():
    assert {"time", "tokens_per_second", "step_seconds", "mfu"} <= CLOCK_FIELDS
    assert not CLOCK_FIELDS & {"loss", "gradient_norm", "learning_rate", "eval_loss"}


def test_tensorboard_gets_the_same_numbers(tmp_path):
    write_run(tmp_path, [1, 2])
    write_run(tmp_path, [2], resume_step=1)
    events, starts = read_events(tmp_path)
    assert (1, "train/loss", 8.0) in events
    assert events.count((2, "eval/loss", 4.5)) == 2
    assert starts == [2]  # told to forget steps from 2 on


def test_an_unknown_run_is_an_error_and_a_new_one_is_empty(tmp_path):
    assert read_metrics(tmp_path) == []
    with pytest.raises(FileNotFoundError, match="'nowhere'"):
        read_metrics("nowhere")


def test_missing_wandb_is_said_in_a_line_before_anything_is_written(
    tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"not installed: pip install 'lostjax") as e:
        open_sinks(tmp_path / "run", resume_step=0, wandb_project="p")
    assert "\n" not in str(e.value)
    assert not (tmp_path / "run").exists()


def test_wandb_offline_needs_no_network(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    sink = open_sinks(tmp_path / "run", resume_step=0, wandb_project="p")
    sink.write(1, {"loss": 2.0})
    sink.close()
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))


def test_one_sink_that_fails_to_close_does_not_keep_others_open():
    class Recorder:
        closed = False

        def write(self, step, values):
            pass

        def go_back(self, step):
            pass

        def close(self):
            self.closed = True

    class Broken(Recorder):
        def close(self):
            raise OSError("full")

    last = Recorder()
    with pytest.raises(OSError, match="full"):
        FanOut([Broken(), last]).close()
    assert last.closed
