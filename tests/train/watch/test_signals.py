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
