"""No network is touched unless somebody asks: the smoke command line, watched.

Python's own audit events name every address that is connected to or looked up, also
where the error is caught. What native libraries do is seen by the kernel: in a network
namespace without any network it counts the packets that had nowhere to go.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]

WATCH = """
import sys

def watch(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        where = arguments[1]
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        where = arguments[0]
    else:
        return
    # A path is a socket of this machine; None and "" are, too.
    host = where[0] if isinstance(where, tuple) else None if event[7] != "g" else where
    if host not in (None, "", "localhost", "127.0.0.1", "::1"):
        with open({log!r}, "a") as file:
            print(event, where, file=file)

sys.addaudithook(watch)
"""

ALONE = ("unshare", "--map-root-user", "--net")


class Watched(NamedTuple):
    """A program that ended."""

    code: int
    said: str
    asked: str
    """What Python connected to or looked up, a line each."""
    lost: int | None
    """Packets without a way out; None where no namespace can be made."""


def watch(arguments: list[str], folder: Path) -> Watched:
    """Run Python and see whom it asks."""
    log, counts = folder / "asked", folder / "snmp"
    (folder / "sitecustomize.py").write_text(WATCH.format(log=str(log)))
    log.touch()
    shell = f'"$@"; code=$?; cat /proc/net/snmp > {counts}; exit $code'
    alone = ALONE if can_be_alone() else ()
    done = subprocess.run(
        [*alone, "sh", "-c", shell, "sh", sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=folder,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "PYTHONPATH": f"{folder}:{ROOT}",
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
        },
    )
    names, values = (
        line.split()
        for line in counts.read_text().splitlines()
        if line.startswith("Ip:")
    )
    lost = int(values[names.index("OutNoRoutes")]) if alone else None
    return Watched(done.returncode, done.stdout + done.stderr, log.read_text(), lost)


def can_be_alone() -> bool:
    """Say whether this machine lets us make a network namespace."""
    if shutil.which(ALONE[0]) is None:
        return False
    return not subprocess.run([*ALONE, "true"], capture_output=True).returncode


needs_namespace = pytest.mark.skipif(
    not can_be_alone(),
    reason="NOT LOOKED AT: what native code asks of the network; this machine makes no "
    "network namespaces (unshare --map-root-user --net)",
)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """The smoke command line, with its text, tokens, checkpoints and report."""
    words = ["-m", "lostjax.train", "--preset=smoke", "--steps=2", "--run-dir=run"]
    words += ["--data.source=sotu:1961-1962"]
    return watch(words, tmp_path_factory.mktemp("alone"))


def test_python_asks_nobody(smoke):
    assert smoke.code == 0, smoke.said
    assert smoke.asked == ""


@needs_namespace
def test_native_code_asks_nobody(smoke):
    assert smoke.code == 0, smoke.said
    assert smoke.lost == 0


ASKS = """
import socket
for ask in (
    lambda: socket.create_connection(("192.0.2.1", 80), timeout=1),
    lambda: socket.getaddrinfo("name.invalid", 80),
    lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.2", 53)),
):
    try:
        ask()
    except OSError:
        pass
socket.create_connection(("127.0.0.1", 9), timeout=1)
"""


def test_who_asks_and_hides_it_is_seen(tmp_path):
    """The watch itself: loopback is nobody else."""
    seen = watch(["-c", ASKS], tmp_path)
    for address in ("192.0.2.1", "name.invalid", "192.0.2.2"):
        assert re.search(rf"socket\.\w+ .*{re.escape(address)}", seen.asked)
    assert "127.0.0.1" not in seen.asked
    assert seen.lost is None or seen.lost >= 2
