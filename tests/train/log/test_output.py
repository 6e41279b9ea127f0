"""Output that breaks: nothing stops, and every line is in the log."""

import errno
import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from lostjax.train.log.output import steady_output

ROOT = Path(__file__).parents[3]
GOES_ON = """
import os, sys
from pathlib import Path
from lostjax.train.log.output import run_program, steady_output
def main():
    with steady_output() as output:
        print("early")
        output.keep_log(Path(sys.argv[1]))
        for number in range(3000):
            print(f"out {number} \\xe9", flush=True)
            print(f"err {number}", file=sys.stderr)
        handle = os.open("/dev/null", os.O_RDONLY)
        print("first free", handle >= 3)
    return 7
sys.exit(run_program(main))
"""
PRINTS = """
import sys
from lostjax.train.log.output import run_printing_program
def main():
    for number in range(3000):
        print("line", number)
    return 7
sys.exit(run_printing_program(main))
"""
WAYS = {
    "reader ends": "{} | head -1",
    "both readers end": "{} 2>&1 | head -1",
    "disk is full": "{} > /dev/full",
    "both disks are full": "{} > /dev/full 2> /dev/full",
    "closed from the start": "{} <&- >&- 2>&-",
    "encoding": "PYTHONIOENCODING=ascii {}",
}


def run(script, way, *words):
    command = f"{sys.executable} -c '{script}' {' '.join(map(str, words))}"
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {WAYS[way].format(command)}"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("way", WAYS)
def test_a_program_goes_on_and_the_log_has_every_line(way, tmp_path):
    script = GOES_ON.replace("'", '"')
    done = run(script, way, tmp_path / "log.txt")
    assert done.returncode == 7, done.stderr
    assert "rror" not in done.stderr, done.stderr
    lines = [line for n in range(3000) for line in (f"out {n} é", f"err {n}")]
    logged = (tmp_path / "log.txt").read_text("utf-8").splitlines()
    assert logged == ["early", *lines, "first free True"]
    if way == "encoding":
        assert "out 2999 \\xe9\n" in done.stdout


@pytest.mark.parametrize(
    "way, code, said",
    [
        ("reader ends", 141, ""),
        ("disk is full", 2, "standard output cannot be written: No space left on"),
        ("closed from the start", 7, ""),
    ],
)
def test_a_program_that_prints_ends_as_cat_does(way, code, said):
    done = run(PRINTS.replace("'", '"'), way)
    assert done.returncode == code
    assert done.stderr.startswith(said) and done.stderr.count("\n") == bool(said)


def test_redrawn_lines_and_colours_are_not_logged(tmp_path):
    with redirect_stdout(io.StringIO()) as shown, steady_output() as output:
        output.keep_log(tmp_path / "log.txt")
        for number in range(5):
            print(f"\r\x1b[2K{number}/5 \x1b[1m━━\x1b[0m", end="")
        print("\r\x1b[2K\x1b[31mstep 5\x1b[0m  loss 1\r\n5/5 ━━", end="")
        print("\r\x1b[2K5/5 done\n\n\x1b[?25h", end="")
        logged = output.out._log.__closure__
        assert all(len(str(cell.cell_contents)) < 200 for cell in logged)
    assert (tmp_path / "log.txt").read_text() == "step 5  loss 1\n5/5 done\n"
    assert "\x1b[31mstep 5" in shown.getvalue()


def test_a_log_on_a_full_disk_says_so_once_and_waits_in_memory(tmp_path):
    with redirect_stderr(io.StringIO()) as said, steady_output() as output:
        output.keep_log(Path("/dev/full"))
        print("one\ntwo")
        print("three")
        held = output._file._held.decode().splitlines()
    assert held[0] == "one" and held[-2:] == ["two", "three"]
    assert "/dev/full: write failed (No space left on device)" in held[1]
    assert said.getvalue().count("write failed") == 1


def test_streams_come_back_and_errors_are_known():
    class Broken(io.StringIO):
        def isatty(self):
            return True

        def write(self, text):
            raise OSError(errno.EIO, "Input/output error")

    broken = Broken()
    with redirect_stdout(broken):
        with steady_output() as output:
            print("x")
            assert sys.stdout.isatty() and output.out.error == errno.EIO
        assert sys.stdout is broken


def test_a_file_has_each_line_at_once(tmp_path):
    """A run under nohup is followed in its file, which has its last line if it dies."""
    path = tmp_path / "log"
    with path.open("w") as file, redirect_stdout(file), steady_output():
        print("a line")
        assert path.read_text() == "a line\n"
