"""Lines that are damaged or missing: named, kept aside, and never the run's end."""

import json

import pytest

from lostjax.disk.chain import chain_lines
from lostjax.train.config.schema import OptimConfig
from lostjax.train.log.json_lines import (
    JsonLines,
    open_sinks,
    read_metrics,
    read_whole,
)
from lostjax.train.log.readings import StabilityLog, read_stability


def write_run(run_dir, steps, *, resume_step=0):
    sink = open_sinks(run_dir, resume_step=resume_step)
    for step in steps:
        sink.write(step, {"loss": 8 / step, "tokens": 10 * step, "time": step * 1.5})
        if step % 2 == 0:
            sink.write(step, {"eval_loss": 9 / step})
    sink.close()


def damaged_by(data, kind):
    """Damage a file of six lines in one of the ways in which files get damaged."""
    lines = data.splitlines(keepends=True)
    return {
        "flipped": data.replace(b'"tokens": 30', b'"tokens": 31'),
        "not JSON": b"".join([*lines[:2], b"\x00\xff\n", *lines[3:]]),
        "removed": b"".join([*lines[:2], *lines[3:]]),
        "doubled": b"".join([*lines[:3], *lines[2:]]),
        "exchanged": b"".join([*lines[:2], lines[3], lines[2], *lines[4:]]),
        "zeroed": bytes(len(data)),
        "cut": data[: len(data) // 2],
        "cut at a line": b"".join(lines[:3]),
        "empty": b"",
    }[kind]


@pytest.mark.parametrize(
    "kind, left, said",
    [
        ("flipped", [1, 2, 4, 5, 6], ["line 3 is damaged"]),
        ("not JSON", [1, 2, 5, 6], ["2 lines are damaged, the first is line 3"]),
        ("removed", [1, 2, 5, 6], ["line 3 is damaged, or the one before it is m"]),
        ("doubled", [1, 2, 3, 4, 5, 6], ["line 4 is damaged"]),
        ("exchanged", [1, 2, 6], ["3 lines are damaged, the first is line 3"]),
        ("zeroed", [], ["lines after step 0, up to step 6, are missing"]),
        ("cut", [1, 2, 3], ["lines after step 3, up to step 6, are missing"]),
        ("cut at a line", [1, 2, 3], ["lines after step 3, up to step 6, are missing"]),
        ("empty", [], ["lines after step 0, up to step 6, are missing"]),
    ],
)
def test_what_is_damaged_or_missing_is_named_and_the_run_goes_on(
    tmp_path, capsys, kind, left, said
):
    write_run(tmp_path, range(1, 7))
    path = tmp_path / "metrics.jsonl"
    damaged = damaged_by(path.read_bytes(), kind)
    path.write_bytes(damaged)
    write_run(tmp_path, [7, 8], resume_step=6)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(said) and all(map(str.__contains__, lines, said)), lines
    assert lines[0].startswith(str(path))
    steps = [line["step"] for line in read_metrics(tmp_path)]
    assert steps == [*left, 7, 8]
    aside = tmp_path / "metrics.jsonl.damaged"
    assert ("damaged" in said[0]) == aside.exists()
    assert not aside.exists() or aside.read_bytes() == damaged
    write_run(tmp_path, [9], resume_step=8)  # what was named is not named again
    assert not capsys.readouterr().err


def test_evaluations_that_are_missing_at_the_end_are_named(tmp_path, capsys):
    write_run(tmp_path, range(1, 8))
    path = tmp_path / "evaluations.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
    write_run(tmp_path, [8], resume_step=7)
    wanted = f"{path}: its lines after step 4, up to step 6, are missing\n"
    assert capsys.readouterr().err == wanted


def test_damage_of_steps_that_are_repeated_is_of_no_interest(tmp_path, capsys):
    write_run(tmp_path, range(1, 7))
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"tokens": 50', b'"tokens": 51'))
    write_run(tmp_path, [5, 6], resume_step=4)
    assert len(read_metrics(tmp_path)) == 6 and not capsys.readouterr().err


def test_damage_while_a_run_trains_does_not_end_it(tmp_path):
    sink = JsonLines(tmp_path, resume_step=0)
    for step in range(1, 5):
        sink.write(step, {"loss": 1.0, "tokens": step})
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"tokens": 2', b'"tokens": 9'))
    sink.go_back(3)
    sink.write(4, {"loss": 2.0})
    sink.close()
    with pytest.raises(ValueError, match=r"metrics\.jsonl: line 2 is damaged") as said:
        read_metrics(tmp_path)
    assert [line["step"] for line in said.value.whole] == [1, 3, 4]
    assert read_whole(read_metrics, tmp_path) == said.value.whole


def test_lines_of_an_earlier_version_are_read_and_vouched_for_from_now_on(
    tmp_path, capsys
):
    path = tmp_path / "metrics.jsonl"
    old = [{"step": step, "loss": 1.5, "x": None} for step in range(1, 4)]
    path.write_text("".join(json.dumps(line) + "\n" for line in old))
    assert read_metrics(tmp_path)[2]["step"] == 3
    before = path.read_bytes()
    write_run(tmp_path, [4, 5], resume_step=3)
    assert path.read_bytes().startswith(before) and not capsys.readouterr().err
    assert len(read_metrics(tmp_path)) == 5
    path.write_bytes(path.read_bytes().replace(b"1.5", b"1.6", 1))
    with pytest.raises(ValueError, match="4 lines are damaged, the first is line 1"):
        read_metrics(tmp_path)


@pytest.mark.parametrize("text", ["[]", '{"loss": 1}', '{"step": true}', "[" * 9999])
def test_what_no_version_wrote_is_damage(tmp_path, text):
    crafted = f'{{"step": 1, "loss": 1.0}}\n{text}\n{{"step": 2, "loss": "x"}}\n'
    (tmp_path / "metrics.jsonl").write_text(crafted)
    with pytest.raises(ValueError, match="2 lines are damaged, the first is line 2"):
        read_metrics(tmp_path)


def test_readings_that_are_damaged_or_missing_are_named_and_the_rest_is_read(
    tmp_path, capsys
):
    parts = {"gradient_rms": {"a": 1.0}, "parameter_rms": {}, "update_rms": {}}
    rows = [
        {"step": step, "attention_logits": [1.0], "mean_log_z": 1.0} | parts
        for step in (2, 4, 6)
    ]
    options = {"optim": OptimConfig(), "gradient_norms": {2: 0.5}}
    path = tmp_path / "stability.jsonl"
    path.write_bytes(chain_lines(rows).replace(b'"step": 4', b'"step": 5'))
    assert [x.step for x in read_stability(tmp_path, **options)] == [2, 6]
    assert "stability.jsonl: line 2 is damaged" in capsys.readouterr().err
    crafted = [rows[0], {"step": 4}, rows[1] | {"gradient_rms": 3}, rows[2]]
    path.write_text("".join(json.dumps(row) + "\n" for row in crafted))
    assert [x.step for x in read_stability(tmp_path, **options)] == [2, 6]
    assert capsys.readouterr().err.count("its line of step 4 is damaged\n") == 2
    sink = JsonLines(tmp_path, resume_step=0)
    for step in range(1, 9):
        sink.write(step, {"loss": 1.0} | ({} if step % 2 else {"mean_log_z": 1.0}))
    sink.close()
    path.write_bytes(chain_lines(rows))
    options = {"optim": OptimConfig(), "say": print}
    StabilityLog(tmp_path, resume_step=8, **options).close()
    wanted = f"{path}: its lines after step 6, up to step 8, are missing\n"
    assert capsys.readouterr().err == wanted
