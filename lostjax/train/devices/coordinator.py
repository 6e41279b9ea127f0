"""The process beside the first one of a run, which tells the others who has ended.

    python -P coordinator.py PROCESSES SECONDS [ADDRESS]

The first process starts it and reads one line from it: a port and a token, or `error`
and the reason. Each process of the run connects to the port, and is sent what becomes
of the others:

    done K       process K has finished
    left K       process K ends before its time, and has printed why
    gone K       process K died, or its host did

A death shows at once, because the kernel closes the connections of a dead process, and
a silent host within 30 s, because the kernel asks for signs of life.

If ADDRESS is given, JAX's coordination service runs here, too: a process that is silent
for SECONDS counts as dead. In the first process, JAX's default, it would end with that
process, and JAX would then abort all others before they could print a line.

Nothing of this package and not JAX itself is imported, so that the start takes a
quarter of a second.
"""

import asyncio
import os
import secrets
import socket
import sys

LINGER_SECONDS = 15.0
"""Seconds for which the other processes may outlive the first one."""


def main(words: list[str]) -> None:
    """Serve until standard input is closed, which the first process holds open."""
    processes, silent, *address = words
    try:
        service = (
            _serve_jax(address[0], int(processes), int(silent)) if address else None
        )
        listener = _listen()
    except Exception as error:  # the first process prints it
        print("error", " ".join(str(error).split()), flush=True)
        return
    asyncio.run(Herald().serve(listener))
    del service  # it lived until here
    # Not sys.exit: the service would wait for processes that are dead.
    os._exit(0)


def _serve_jax(address: str, processes: int, silent: int) -> object:
    from jaxlib import _jax

    return _jax.get_distributed_runtime_service(
        f"[::]:{address.rpartition(':')[2]}",
        processes,
        heartbeat_timeout=silent,
        shutdown_timeout=300,
        recoverable=False,
    )


def _listen() -> socket.socket:
    if socket.has_dualstack_ipv6():
        return socket.create_server(
            ("", 0), family=socket.AF_INET6, dualstack_ipv6=True
        )
    return socket.create_server(("", 0))


def keep_alive(connection: socket.socket) -> None:
    """Have the kernel notice within 30 s that the other host is silent."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("KEEPIDLE", 10), ("KEEPINTVL", 5), ("KEEPCNT", 4)):
        if hasattr(socket, f"TCP_{name}"):  # Linux
            option = getattr(socket, f"TCP_{name}")
            connection.setsockopt(socket.IPPROTO_TCP, option, value)


class Herald:
    """Tells each process what becomes of the others."""

    def __init__(self) -> None:
        self._token = secrets.token_hex(16)
        self._writers: dict[int, asyncio.StreamWriter] = {}
        self._ends: dict[int, str] = {}

    async def serve(self, listener: socket.socket) -> None:
        """Serve on a socket until standard input is closed, and a while longer."""
        server = await asyncio.start_server(self._attend, sock=listener)
        print(listener.getsockname()[1], self._token, flush=True)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, sys.stdin.read)
        deadline = loop.time() + LINGER_SECONDS
        while self._writers and loop.time() < deadline:
            await asyncio.sleep(0.05)
        server.close()

    async def _attend(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Listen to one process: its token and index, then how it ends."""
        keep_alive(writer.get_extra_info("socket"))
        index = None
        try:
            token, number = (await reader.readline()).decode().split()
            if not secrets.compare_digest(token, self._token):
                return
            index = int(number)
            self._writers[index] = writer
            for other, how in self._ends.items():
                writer.write(f"{how} {other}\n".encode())
            while said := await reader.readline():
                self._announce(index, said.decode().strip())
        except (OSError, ValueError):  # a broken connection, or a stranger
            pass
        finally:
            if index is not None:
                self._writers.pop(index, None)
                self._announce(index, "gone")
            writer.close()

    def _announce(self, index: int, how: str) -> None:
        """Tell all others how a process ends, the first time that it is known."""
        if index in self._ends:
            return
        self._ends[index] = how
        for other, writer in self._writers.items():
            if other != index:
                writer.write(f"{how} {index}\n".encode())


if __name__ == "__main__":
    main(sys.argv[1:])
