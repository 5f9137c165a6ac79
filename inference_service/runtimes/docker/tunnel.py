"""A port of this machine that leads to a port of a remote one, through `ssh`.

The port is this process's own for as long as the tunnel is open, also while `ssh` is away: nobody
else can take it and read the prompts. Behind it `ssh` listens at a socket in a private folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import tempfile
from asyncio.subprocess import DEVNULL, Process
from pathlib import Path

from inference_service.errors import LaunchError
from inference_service.runtimes.docker.ssh import Remote, last_line

log = logging.getLogger(__name__)

_LOOPBACK = "127.0.0.1"
_OPENS = 30.0  # seconds for `ssh` to listen
_LOOK = 0.05  # seconds between two looks whether it does
_RETRY = 1.0  # seconds between the end of an `ssh` and the next
_BUFFER = 1 << 16


class Tunnel:
    """The tunnel of one engine. `open` raises LaunchError with what `ssh` said."""

    def __init__(self, remote: Remote, port: int) -> None:
        self._folder = tempfile.TemporaryDirectory(
            prefix="inference-service-", ignore_cleanup_errors=True
        )
        self._socket = Path(self._folder.name, "engine.sock")
        self._said = Path(self._folder.name, "said")
        # A connection of its own: a shared one that ends would take along the tunnels in it.
        options = ["-N", "-S", "none", "-o", "ExitOnForwardFailure=yes"]
        options += ["-o", "StreamLocalBindUnlink=yes"]
        self._command = remote.command(*options, "-L", f"{self._socket}:{_LOOPBACK}:{port}")
        self._host, self._port = remote.host, port
        self._process: Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._server: asyncio.Server | None = None
        self._relays: set[asyncio.Task[None]] = set()

    async def open(self) -> int:
        """Return when connections reach the remote machine: the port of this one for them.

        It is the same as there, or another where that is taken, as where both are one machine.
        """
        try:
            self._server = await asyncio.start_server(self._relay, _LOOPBACK, self._port)
        except OSError:
            self._server = await asyncio.start_server(self._relay, _LOOPBACK, 0)
        port: int = self._server.sockets[0].getsockname()[1]
        listening = asyncio.get_running_loop().create_future()
        self._keeper = asyncio.create_task(self._keep(listening), name=f"tunnel to {self._host}")
        try:
            async with asyncio.timeout(_OPENS):
                await listening
        except TimeoutError:
            raise LaunchError(f"ssh to {self._host} did not connect in {_OPENS:g} s") from None
        return port

    def close(self) -> None:
        """End the tunnel and all that goes through it."""
        if self._keeper is not None:
            self._keeper.cancel()
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
        if self._server is not None:
            self._server.close()
        for relay in self._relays:
            relay.cancel()
        self._folder.cleanup()

    async def _keep(self, listening: asyncio.Future[None]) -> None:
        """Run `ssh` again whenever it ends; the first one may not fail."""
        while True:
            try:
                process = await self._start()
            except OSError as error:
                if not listening.done():
                    listening.set_exception(LaunchError(f"ssh cannot be run: {error.strerror}"))
                return
            ends = asyncio.create_task(process.wait())
            while not ends.done() and not listening.done():
                if self._socket.exists():
                    listening.set_result(None)
                else:
                    await asyncio.wait([ends], timeout=_LOOK)
            code = await ends
            why = last_line(self._said.read_bytes()) or f"ssh exited with code {code}"
            if not listening.done():
                failure = LaunchError(f"there is no tunnel to the engine on {self._host}: {why}")
                listening.set_exception(failure)
                return
            log.warning("the tunnel to %s was lost, and is made again: %s", self._host, why)
            await asyncio.sleep(_RETRY)

    async def _start(self) -> Process:
        # What it says goes to a file: a program that it leaves behind would hold a pipe open.
        with self._said.open("wb") as said:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, stdin=DEVNULL, stdout=DEVNULL, stderr=said, start_new_session=True
            )
        return self._process

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._relays.add(task)
        sides = [writer]
        try:
            far_reader, far_writer = await asyncio.open_unix_connection(self._socket)
            sides.append(far_writer)
            async with asyncio.TaskGroup() as both:
                both.create_task(_copy(reader, far_writer))
                both.create_task(_copy(far_reader, writer))
            for side in sides:
                side.close()
                await side.wait_closed()
        except (OSError, ExceptionGroup):
            pass  # one side has gone; the other sees it now
        except asyncio.CancelledError:
            pass  # the tunnel was closed; `asyncio` would log a task that was cancelled
        finally:
            self._relays.discard(task)
            for side in sides:
                side.transport.abort()


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Copy what comes, and then the end; an engine reads on when its caller has said all."""
    while data := await source.read(_BUFFER):
        sink.write(data)
        await sink.drain()
    if sink.can_write_eof():
        sink.write_eof()
