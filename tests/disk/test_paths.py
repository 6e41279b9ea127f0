"""Paths that cannot hold files are refused in one line, before any work."""

import os
from pathlib import Path

import pytest

from lostjax.disk.paths import LONGEST_PATH, ROOM_BELOW, check_path, read_path
from lostjax.errors import ConfigError

DEEPEST = (
    "checkpoints/1000000000.saving.orbax-checkpoint-tmp/progress.orbax-checkpoint-tmp/"
    f"ocdbt.process_100000/d/{'0' * 32}.__lock"
)


@pytest.mark.parametrize(
    "text, message",
    [
        ("a\0b", r"--run-dir=a\\x00b: the path contains a control character"),
        ("a\nb", r"--run-dir=a\\nb: .* control character"),
        ("\x1b[31mred", "control character"),
        (os.fsdecode(b"x/\xff"), r"--run-dir=x/\\udcff: the path is not UTF-8 text"),
        ("é" * 128, "a name has more than 255 bytes"),
        ("/".join(["d" * 200] * 20), "the path has 40.. bytes; at most"),
        ("gs://bucket/run", "--run-dir=gs://bucket/run: a URL; only directories of"),
        ("s3://bucket", "--run-dir=s3://bucket: a URL"),
        ("~no-such-user/x", "~no-such-user is nobody's home directory; write ./~no-s"),
    ],
)
def test_a_path_that_cannot_hold_files_is_refused_in_one_line(text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        read_path(text, flag="--run-dir")
    said = str(caught.value)
    assert said.isprintable() and said.isascii() or "é" in said
    assert len(said) < 250


@pytest.mark.parametrize(
    "text",
    ["a:b", "x/gs:/y", "gs:", "a[1]", "*?", "-x", "a b", "雪/é", "a'\"$b", "x" * 255],
)
def test_any_other_path_is_taken_as_it_is(text):
    assert read_path(text, flag="--out") == Path(text)


def test_a_home_directory_is_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert read_path("~/runs", flag="--out") == Path("/home/someone/runs")
    assert read_path("a/~b", flag="--out") == Path("a/~b")


def test_the_parents_of_a_relative_path_count(tmp_path, monkeypatch):
    bad = tmp_path / os.fsdecode(b"\xff")
    bad.mkdir()
    monkeypatch.chdir(bad)
    with pytest.raises(ConfigError, match="not UTF-8"):
        check_path(Path("runs"), flag="--run-dir")
    bad.rmdir()
    with pytest.raises(ConfigError, match="working directory does not exist any more"):
        check_path(Path("runs"), flag="--run-dir")


def test_the_longest_path_that_is_taken_has_room_for_every_file(tmp_path):
    assert len(DEEPEST) < ROOM_BELOW
    left = LONGEST_PATH - ROOM_BELOW - len(str(tmp_path)) - 1
    parts = ["d" * 100] * (left // 101)
    longest = Path(tmp_path, *parts, "d" * (left - 101 * len(parts)))
    check_path(longest, flag="--run-dir")
    longest.mkdir(parents=True)
    deepest = longest / DEEPEST
    deepest.parent.mkdir(parents=True)
    deepest.write_text("it fits")
    with pytest.raises(ConfigError):
        check_path(longest.with_name(longest.name + "d"), flag="--run-dir")
