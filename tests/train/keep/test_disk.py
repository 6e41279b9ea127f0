"""Disks that are full or cannot be written, for real: before a run and during it."""

import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from lostjax.disk.lines import AppendingFile

ROOT = Path(__file__).parents[3]


def new_namespace() -> list[str]:
    """Give the command that makes a mount namespace, or skip and say so aloud."""
    for flags in ("-m", "-Urm"):
        command = ["unshare", flags, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
        try:
            if subprocess.run(command, capture_output=True).returncode == 0:
                return ["unshare", flags]
        except FileNotFoundError:
            break
    reason = "no mount namespace can be made here: FULL DISKS ARE NOT TESTED"
    warnings.warn(reason, stacklevel=2)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def happened(text_file, cache_dir, tmp_path_factory):
    """What came of training on small disks."""
    place = tmp_path_factory.mktemp("disks")
    words = [
        "--preset=smoke", f"--data.source={text_file}", "--mesh=data:1",
        f"--data.cache-dir={cache_dir}", "--data.seq-len=32", "--checkpoint-every=20",
        "--steps=140",
    ]  # fmt: skip
    script = Path(__file__).with_name("small_disk.py")
    done = subprocess.run(
        [*new_namespace(), sys.executable, str(script), str(place), *words],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]) | {"raw": done.stderr}


@pytest.mark.parametrize(
    "disk, message",
    [
        ("full", "are free on its disk, but the checkpoints need"),
        ("no-files", "cannot be written: No space left on device"),
        ("read-only", "no permission to write in"),
    ],
)
def test_a_disk_that_cannot_hold_the_run_is_refused_before_it(happened, disk, message):
    result = happened[disk]
    assert result["code"] == 2 and message in result["err"], result["err"]
    assert result["err"].count("\n") == 1 and not result["out"]
    assert result["left"] == []


def test_a_save_that_fails_does_not_stop_the_run(happened):
    said = happened["small"]["err"]
    assert "checkpoint 20 could not be saved (Permission denied); " in said
    assert "there is no older one, and the next save will be tried" in said
    assert "checkpoint 60 could not be saved (No space left on device: 0 B of " in said
    assert "step 40 is intact, and the next save will be tried" in said
    # A quota shows in the midst of writing alone; tensorstore then says much.
    assert "checkpoint 100 could not be saved (No space left on device); " in said
    assert "step 80 is intact, and the next save will be tried" in said
    # Of a library, whose threads may print the pieces of such a line in turn.
    assert "Error: " not in re.sub("RuntimeError(: )?|Event loop is closed", "", said)
    assert "Traceback" not in happened["raw"]
    assert happened["steps"] == list(range(1, 141)), "no line is missing or doubled"
    assert "metrics.jsonl: write failed (No space left on device)" in said
    assert "metrics.jsonl: write succeeded again, no data was lost" in said


def test_a_final_save_that_fails_is_an_exit_code_and_older_steps_stand(happened):
    assert happened["small"]["code"] == 1
    assert "checkpoint 140 could not be saved" in happened["small"]["err"]
    assert happened["checkpoints"] == ["120", "80"]
    assert happened["verify"]["code"] == 0, happened["verify"]["out"]


def test_a_run_whose_directory_is_closed_to_it_ends_as_planned(happened):
    closed, opened = happened["closed"], happened["opened"]
    assert closed["code"] == 1 and "Traceback" not in closed["err"], closed["err"]
    assert "report.html: cannot be written: Permission denied" in closed["err"]
    assert "lock" in closed["left"] and "report.html" not in closed["left"]
    assert opened["code"] == 0, opened["err"]
    assert "lock" not in opened["left"] and "report.html" in opened["left"]


def test_a_run_whose_directory_is_shut_steps_on_and_says_that_nothing_is_saved(
    happened,
):
    shut = happened["shut"]
    assert shut["code"] == 1 and "Traceback" not in shut["err"], shut["err"]
    assert "checkpoint 140 could not be saved (Permission denied); older" in shut["err"]
    assert "no report is written: Permission denied" in shut["err"]
    assert shut["steps"] == 140 and shut["checkpoints"] == ["20"]


LAYERED = """
import sys
from pathlib import Path
from lostjax.train.keep.recovery import find_whole_step
from lostjax.train.keep.step_directories import commit, list_steps, retain, saving_dir
made, layered = Path(sys.argv[1]), Path(sys.argv[2])
if not layered.exists():
    for step in (1, 2, 3):
        (saving_dir(made, step) / "model" / "d").mkdir(parents=True)
        (saving_dir(made, step) / "model" / "d" / "0").write_text(f"weights {step}")
        commit(made, step)
    (made / "3" / "model" / "d" / "0").write_text("Weights 3")
    sys.exit()
assert find_whole_step(layered) == 2
retain(layered, keep=1)
assert sorted(path.name for path in layered.iterdir()) == ["2", "3.damaged"]
assert (layered / "3.damaged" / "model" / "d" / "0").read_text() == "Weights 3"
assert (layered / "3.damaged" / "manifest.json").exists()
"""
OVERLAY = """
set -e
mount -t tmpfs tmpfs "$1"
cd "$1"
mkdir low up work
"$2" -c "$3" low layered
mkdir layered
mount -t overlay overlay -o lowerdir=low,upperdir=up,workdir=work layered || exit 77
"$2" -c "$3" low layered
"""


def test_a_damaged_step_in_a_layer_of_an_image_is_set_aside(tmp_path):
    words = ["bash", "-c", OVERLAY, "bash", str(tmp_path), sys.executable, LAYERED]
    done = subprocess.run(
        [*new_namespace(), *words],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
    )
    if done.returncode == 77:
        pytest.skip("no overlay can be mounted here: LAYERS ARE NOT TESTED")
    assert done.returncode == 0, done.stderr
    assert "falling back to step 2" in done.stderr


class Disk:
    """A file on a disk with room for so many bytes."""

    closed = False

    def __init__(self, room):
        self.room, self.content = room, b""

    def write(self, data):
        if not self.room:
            raise OSError(28, "No space left on device")
        taken = data[: self.room]
        self.content += taken
        self.room -= len(taken)
        return len(taken)

    def close(self):
        self.closed = True


def test_an_appended_file_gets_every_byte_in_order_once_there_is_room(tmp_path, capsys):
    file = AppendingFile(tmp_path / "lines")
    file.write(b"begun ")
    file._file.close()
    file._file = disk = Disk(room=7)
    for word in (b"one ", b"two ", b"three "):
        file.write(word)
    assert disk.content == b"one two"
    disk.room = 100
    file.write(b"four ")
    assert disk.content == b"one two three four "
    said = capsys.readouterr().err
    assert said.count("\n") == 2 and "in memory" in said and "no data was lost" in said
    disk.room = 2
    file.write(b"five")
    file.close()
    file.close()
    assert disk.content.endswith(b"fi") and disk.closed
    assert "closed without its last 2 bytes" in capsys.readouterr().err
    assert (tmp_path / "lines").read_bytes() == b"begun "
    with pytest.raises(ValueError, match="is closed"):
        file.write(b"x")
