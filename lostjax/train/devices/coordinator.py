"""The process beside the first one of a run: it admits the others and tells who ended.

    python -P coordinator.py PORT PROCESSES SECONDS

The first process starts it, at the port of `--hosts.coordinator`, and reads one line
from it: the port and a token, or `error` and the reason. A process of the run connects
to the port and sends `TOKEN INDEX PROCESSES`. It is sent

    service P    it is admitted; JAX's coordination service is at port P
    refused WHY  it has no place in the run
    ended        the run at this address is about to end

and if it is admitted, what becomes of the others:

    joined K     process K is admitted, too
    done K       process K has finished
    left K       process K ends before its time, and has printed why
    gone K       process K died, or its host did; or it exited after it was done

It sends `here` every few seconds, `done`, or `left`. A death shows at once, because the
kernel closes the connections of a dead process. A process that is frozen and a host
that is silent are taken for dead after half of SECONDS, JAX's own bound: JAX would
abort the others without a word about the run.

JAX's service ends with this process. In the first process, JAX's default, it would end
with that one, and JAX would then abort all others before they could print a line. It
would also take a second start of one process for a restart, and abort the run.

At PORT 0, any port is taken, JAX has its service elsewhere, and the token must be
right; otherwise the token is `-`, because nobody could know it.

Nothing of this package and not JAX itself is imported, so that the start takes a
quarter of a second.
"""

import asyncio
import os
import secrets
import socket
import sys

HERE = b"here\n"
"""A sign of life."""

JOINED = "joined"
"""What the others are sent about a process that is admitted."""

ANYBODY = "-"
"""The token where none is needed."""

LINGER_SECONDS = 15.0
"""Seconds for which the other processes may outlive the first one."""

RETRY_SECONDS = 20.0
"""Seconds for which a port may be in use: the run before may be about to end."""


def main(words: list[str]) -> None:
    """Serve until standard input is closed, which the first process holds open."""
    port, processes, silent = map(int, words)
    asyncio.run(_serve(port, processes, silent))
    # Not sys.exit: JAX's service would wait for processes that are dead.
    os._exit(0)


async def _serve(port: int, processes: int, silent: int) -> None:
    try:
        listener = await _listen(port)
        token = None if port else secrets.token_hex(16)
        service_port = _find_free_port() if port else 0
        # Kept by its name: the service ends with the object.
        service = _serve_jax(service_port, processes, silent) if port else None
    except OSError as error:  # the first process prints it
        print("error", f"port {port}: {os.strerror(error.errno or 0)}", flush=True)
        return
    except Exception as error:
        print("error", " ".join(str(error).split()), flush=True)
        return
    herald = Herald(
        processes, token=token, service_port=service_port, silent=silent / 2
    )
    await herald.serve(listener)
    del service


def _serve_jax(port: int, processes: int, silent: int) -> object:
    from jaxlib import _jax

    return _jax.get_distributed_runtime_service(
        f"[::]:{port}",
        processes,
        heartbeat_timeout=silent,
        shutdown_timeout=300,
        recoverable=False,
    )


def _find_free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("", 0))
        port: int = sock.getsockname()[1]
    return port


async def _listen(port: int) -> socket.socket:
    """Listen at a port, once the run before no longer does."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + RETRY_SECONDS
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    while True:
        try:
            return socket.create_server(("", port), family=family, dualstack_ipv6=dual)
        except OSError:
            if loop.time() > deadline:
                raise
        await asyncio.sleep(0.2)


def keep_alive(connection: socket.socket) -> None:
    """Have the kernel notice within 30 s that the other host is silent."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("KEEPIDLE", 10), ("KEEPINTVL", 5), ("KEEPCNT", 4)):
        if hasattr(socket, f"TCP_{name}"):  # Linux
            option = getattr(socket, f"TCP_{name}")
            connection.setsockopt(socket.IPPROTO_TCP, option, value)


class Herald:
    """Admits processes, and tells each what becomes of the others."""

    def __init__(
        self, processes: int, *, token: str | None, service_port: int, silent: float
    ) -> None:
        self._processes, self._token = processes, token
        self._service_port, self._silent = service_port, silent
        self._writers: dict[int, asyncio.StreamWriter] = {}
        self._ends: dict[int, str] = {}

    async def serve(self, listener: socket.socket) -> None:
        """Serve on a socket until standard input is closed, and a while longer."""
        server = await asyncio.start_server(self._attend, sock=listener)
        print(listener.getsockname()[1], self._token or ANYBODY, flush=True)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, sys.stdin.read)
        deadline = loop.time() + LINGER_SECONDS
        while self._writers and loop.time() < deadline:
            await asyncio.sleep(0.05)
        server.close()

    async def _attend(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Listen to one process: who it is, then how it ends."""
        keep_alive(writer.get_extra_info("socket"))
        index = None
        try:
            token, *numbers = (await reader.readline()).decode().split()
            number, processes = map(int, numbers)
            answer = self._answer(token, number, processes)
            if answer is not None:
                writer.write(f"{answer}\n".encode())
                return
            index = number
            writer.write(f"service {self._service_port}\n".encode())
            for other, others_writer in self._writers.items():
                writer.write(f"{JOINED} {other}\n".encode())
                others_writer.write(f"{JOINED} {index}\n".encode())
            self._writers[index] = writer
            while said := await asyncio.wait_for(reader.readline(), self._silent):
                if said != HERE:
                    self._announce(index, said.decode().strip())
        # A broken connection or none too long (TimeoutError), or a stranger.
        except (OSError, ValueError):
            pass
        finally:
            if index is not None:
                del self._writers[index]
                self._announce(index, "gone")
            writer.close()

    def _answer(self, token: str, index: int, processes: int) -> str | None:
        """Find out why a process cannot be admitted; None if it can."""
        if self._token is not None and token != self._token:
            return "refused a process of another run is at this address"
        if processes != self._processes:
            return (
                f"refused --hosts.processes={processes}, but process 0 has "
                f"{self._processes}"
            )
        if index in self._writers:
            return f"refused process {index} of this run is running already"
        # Of a run that is about to end; the next one will listen here.
        return "ended" if self._ends else None

    def _announce(self, index: int, how: str) -> None:
        """Tell all others how a process ends."""
        if self._ends.get(index, "done") != "done" or self._ends.get(index) == how:
            return
        self._ends[index] = how
        for other, writer in self._writers.items():
            if other != index:
                writer.write(f"{how} {index}\n".encode())


if __name__ == "__main__":
    main(sys.argv[1:])
