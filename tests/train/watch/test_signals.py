"""What a run makes of SIGTERM and Ctrl-C, without a run."""

import os
import signal
import subprocess
import sys

import pytest

from lostjax.train.watch.signals import StopAsked, StopRequest, catch_stop_signals


def test_the_first_signal_is_the_one_that_counts_and_handlers_come_back():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    request = StopRequest()
    with catch_stop_signals(request):
        request.check()
        assert not request.poll() and request.exit_code == 0
        os.kill(os.getpid(), signal.SIGTERM)
        request.ask(signal.SIGINT)
        with pytest.raises(StopAsked):
            request.check()
    assert request.exit_code == 143
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_processes_stop_by_what_they_agree_on_and_ask_no_more_then():
    answers = [0, 2, 0]
    given = []

    def agree(number):
        given.append(number)
        return answers.pop(0)

    request = StopRequest(agree)
    request.ask(signal.SIGTERM)
    assert not request.poll(), "the others do not know yet"
    assert request.poll() and request.poll()
    assert given == [15, 15] and request.exit_code == 130


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_a_process_that_tidies_nothing(second):
    script = (
        "import os, signal, time\n"
        "from lostjax.train.watch.signals import StopRequest, catch_stop_signals\n"
        "with catch_stop_signals(StopRequest()):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        f"    os.kill(os.getpid(), {int(second)})\n"
        "    time.sleep(60)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, timeout=60, text=True
    )
    assert done.returncode == -second
    assert "SIGTERM: saving and stopping; a second signal exits at once" in done.stderr


@pytest.mark.parametrize("when", ["before", "within", "after"])
def test_a_signal_ends_a_process_in_a_long_call_that_saves_nothing(when, tmp_path):
    """Like a compiler, the derivation of a key runs no handler before it returns."""
    kill = "os.kill(os.getpid(), signal.SIGTERM)"
    before, after = (
        "pass" if when != moment else kill for moment in ("before", "after")
    )
    timer = f"threading.Timer(0.5 if {when == 'within'} else 99, lambda: {kill})"
    script = (
        "import hashlib, os, pathlib, signal, threading\n"
        "from lostjax.train.watch.signals import *\n"
        "request = StopRequest()\n"
        f"tidy = pathlib.Path({str(tmp_path / 'tidied')!r}).touch\n"
        f"timer = {timer}\n"
        "timer.daemon = True\n"
        "with catch_stop_signals(request):\n"
        f"    {before}\n"
        "    with leaving_at_once(request, tidy):\n"
        "        timer.start()\n"
        f"        rounds = {1 if when == 'after' else 2 * 10**9}\n"
        "        hashlib.pbkdf2_hmac('sha1', b'', b'', rounds)\n"
        f"    {after}\n"
        "    print(request.poll())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, timeout=60, text=True
    )
    if when == "after":
        assert (done.returncode, done.stdout) == (0, "True\n")
        assert "SIGTERM: saving and stopping" in done.stderr
    else:
        assert done.returncode == 143 and (tmp_path / "tidied").exists()
        assert done.stderr.endswith("SIGTERM: stopped before a step\n")


CATCHES = (
    "import os, signal, sys, time\n"
    "from lostjax.train.watch.signals import StopRequest, catch_stop_signals\n"
    "request = StopRequest()\n"
    "with catch_stop_signals(request):\n"
    "    for name in sys.argv[1:]:\n"
    "        os.kill(os.getpid(), signal.Signals[name])\n"
    "    request.poll()\n"
    "sys.exit(request.exit_code)\n"
)


@pytest.mark.parametrize(
    "names, code",
    [
        (["SIGHUP"], 129),
        (["SIGQUIT"], 131),
        (["SIGHUP", "SIGHUP", "SIGTERM", "SIGHUP"], 129),
        (["SIGTERM", "SIGHUP"], 143),
        (["SIGHUP", "SIGTERM", "SIGTERM"], -signal.SIGTERM),
        (["SIGQUIT", "SIGINT"], -signal.SIGINT),
    ],
)
def test_a_closed_terminal_asks_as_well_and_never_ends_at_once(names, code):
    with open("/dev/full", "w") as full:  # nor does a message that nobody can get
        done = subprocess.run(
            [sys.executable, "-c", CATCHES, *names], stderr=full, timeout=60
        )
    assert done.returncode == code


def test_a_program_that_ignores_its_terminal_goes_on():
    ignored = f"import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n{CATCHES}"
    done = subprocess.run([sys.executable, "-c", ignored, "SIGHUP"], timeout=60)
    assert done.returncode == 0


def test_in_a_notebook_a_second_interrupt_does_not_end_the_kernel():
    request = StopRequest()
    with pytest.raises(KeyboardInterrupt), catch_stop_signals(request, second=None):
        os.kill(os.getpid(), signal.SIGINT)
        assert request.poll()
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
