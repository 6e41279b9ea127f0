"""What a person reads while the run goes on."""

import builtins
import io
import os
import pty
import subprocess
import sys

import rich.console
from rich.console import Console

from lostjax.train.log.terminal import Progress
from lostjax.train.report.contents import Report, Sample, Timings
from lostjax.train.report.preview import print_summary


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def make_clock(tokens, seconds, mfu):
    rate = tokens / seconds
    return {
        "tokens": tokens,
        "step_seconds": seconds,
        "tokens_per_second": rate,
        "mfu": mfu,
    }


def run_plain(steps, *, first_step=0, seconds=4.0, interval=10.0):
    text, clock = io.StringIO(), Clock()
    with Progress(
        first_step=first_step,
        last_step=first_step + steps,
        interval=interval,
        console=Console(file=text, width=40),
        clock=clock,
    ) as progress:
        for step in range(first_step + 1, first_step + steps + 1):
            clock.now += seconds
            progress.write(step, {"loss": 8 / step} | make_clock(9600, seconds, 0.25))
            if step == first_step + 4:
                progress.write(
                    step,
                    {
                        "eval_loss": 5.25,
                        "eval_perplexity": 190.57,
                        "eval_bits_per_byte": 2.5,
                    },
                )
    return text.getvalue().splitlines()


def test_plain_lines_come_once_an_interval_and_at_the_end():
    # Not broken at the console's 40 columns: a log keeps a fact on its line.
    assert run_plain(8) == [
        "step 1/8  loss 8.000",
        "step 4/8  loss 2.000  left 16 s  2,400 tokens/s  MFU 25.0 %",
        "step 4  held-out loss 5.250  perplexity 190.6  bits per byte 2.500",
        "step 7/8  loss 1.143  left 4.0 s  2,400 tokens/s  MFU 25.0 %",
        "step 8/8  loss 1.000  2,400 tokens/s  MFU 25.0 %",
    ]


def test_the_speed_is_that_of_the_last_interval_of_steps_together():
    text, clock = io.StringIO(), Clock()
    # Seconds of a step, mostly of one that waits for a save; the first warms up.
    lengths = [60.0, 1.0, 1.0, 1.0, 7.0, 1.0, 1.0, 1.0, 1.0, 6.0]
    with Progress(
        first_step=0,
        last_step=len(lengths),
        interval=10.0,
        console=Console(file=text, width=40),
        clock=clock,
    ) as progress:
        for step, seconds in enumerate(lengths, start=1):
            clock.now += seconds
            mfu = 0.4 / seconds  # 100 tokens/s are 0.4 of the device
            progress.write(step, {"loss": 1.0} | make_clock(100, seconds, mfu))
    first, middle, last = text.getvalue().splitlines()
    assert first == "step 1/10  loss 1.000"
    assert middle.endswith("  40 tokens/s  MFU 16.0 %")
    assert last.endswith("  50 tokens/s  MFU 20.0 %")


def test_a_resumed_run_counts_the_time_of_its_own_steps():
    lines = run_plain(8, first_step=100)
    assert lines[1].startswith("step 104/108  loss 0.077  left 16 s")


def test_a_run_that_goes_back_counts_anew():
    text, clock = io.StringIO(), Clock()
    console = Console(file=text, width=40)
    with Progress(
        first_step=0, last_step=8, interval=0.0, console=console, clock=clock
    ) as progress:
        for step in (1, 2, 3, 4, 3, 4):
            clock.now += 4.0
            progress.write(step, {"loss": 1.0, "passed_over": 2 * (clock.now > 16)})
            if clock.now == 16:
                clock.now += 1000.0
                progress.go_back(2)
    assert text.getvalue().splitlines()[3:] == [
        "step 4/8  loss 1.000  left 16 s",
        "step 3/8  loss 1.000  passed over 2",
        "step 4/8  loss 1.000  passed over 2  left 16 s",
    ]


def test_text_is_printed_as_it_is():
    text = io.StringIO()
    with Progress(first_step=0, last_step=1, console=Console(file=text)) as progress:
        progress.note("saved [bold]runs/x[/bold] 100")
    assert text.getvalue() == "saved [bold]runs/x[/bold] 100\n"


def test_no_control_codes_in_a_file_even_when_colour_is_forced(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert not any("\x1b" in line for line in run_plain(8))


def test_a_terminal_gets_one_redrawn_line_and_the_cursor_back():
    program = (
        "from lostjax.train.log.terminal import Progress\n"
        "with Progress(first_step=0, last_step=3) as p:\n"
        "    for i in (1, 2, 3):\n"
        "        p.write(i, {'loss': 1.5 * i})\n"
        "        p.write(i, {'eval_loss': 2.5 * i})\n"
        "        print('stray', i)\n"
    )
    parent, child = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=child, stdin=child, env=environment
    )
    os.close(child)
    shown = b""
    while True:
        try:
            piece = os.read(parent, 65536)
        except OSError:  # the other end was closed
            break
        if not piece:
            break
        shown += piece
    assert process.wait() == 0
    text = shown.decode()
    assert text.index("\x1b[?25l") < text.rindex("\x1b[?25h")  # cursor hidden, shown
    for i in (1, 2, 3):
        assert f"step {i}  held-out loss {2.5 * i:.3f}" in text
        assert f"stray {i}" in text
    assert "loss 4.500" in text.split("stray 3")[1]


def test_a_narrow_terminal_loses_the_least_important_facts_first():
    console = Console(file=io.StringIO(), width=30, force_terminal=True)
    progress = Progress(first_step=0, last_step=2000, console=console)
    progress.write(999, {"loss": 4.0} | make_clock(123456, 1.0, 0.25))
    (line,) = console.render_lines(progress)
    text = "".join(segment.text for segment in line)
    assert "999/2000" in text and "loss 4.000" in text and "MFU" not in text


def test_the_summary_keeps_a_long_path_whole():
    text, path = io.StringIO(), "runs/" + "long/" * 30 + "report.html"
    report = Report(
        title="tiny",
        command="",
        configuration={},
        metrics=[],
        evaluations=[{"step": 9, "eval_loss": 4.0, "eval_bits_per_byte": 1.9}],
        parameters=5_412_352,
        baselines={"xz": 2.32, "trigram": 1.84},
        timings=Timings(total=272.0),
        sample=Sample("Fellow citizens,", " we [meet]\x1b[31m today"),
    )
    print_summary(report, path=path, console=Console(file=text, width=80))
    head, sample, results = text.getvalue().partition("today\n")
    shown = "Fellow citizens, we [meet]\N{REPLACEMENT CHARACTER}[31m today"
    assert head + sample == f"\nsample\n{shown}\n"
    lines = dict(line.split("  ", 1) for line in results.splitlines() if line)
    assert {name: value.strip() for name, value in lines.items()} == {
        "model": "tiny",
        "held-out bits per byte": "1.900",
        "held-out loss, nats": "4.000",
        "parameters": "5.41 M",
        "time": "4 min 32 s",
        "report": path,
        "comparison": "better than 1 of 2 baselines; next: trigram (1.840)",
    }


def test_in_a_notebook_lines_pass_by_standard_output(monkeypatch, capsys):
    shell = type("ZMQInteractiveShell", (), {})()
    monkeypatch.setattr(builtins, "get_ipython", lambda: shell, raising=False)
    assert rich.console.Console().is_jupyter
    with Progress(first_step=0, last_step=2) as progress:
        progress.write(1, {"loss": 8.3})
        progress.note("a line")
    assert capsys.readouterr().out == "step 1/2  loss 8.300\na line\n"
