"""uvicorn without its ticks, so that a server which nobody asks takes nothing of a core.

uvicorn looks ten times a second whether it should end, and writes the date of its answers anew each
second. Here the end is an event, and the date is made when an answer needs one.
"""

import asyncio
import contextlib
import socket
from collections.abc import Generator
from email.utils import formatdate
from types import FrameType

import uvicorn
from uvicorn.server import ServerState

Headers = list[tuple[bytes, bytes]]


class Server(uvicorn.Server):
    """Serves until a signal, or `stop`; made within the loop that it serves in.

    `up` is set once it listens, or has ended. What uvicorn does in its ticks for `headers`,
    `callback_notify` and `limit_max_requests` of the configuration is not done.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.server_state = _State()
        self.up = asyncio.Event()
        self._end = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def stop(self) -> None:
        """Finish the requests that run, and end; a signal handler may call it."""
        self.should_exit = True
        self._loop.call_soon_threadsafe(self._end.set)

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve; raises what keeps it from that."""
        try:
            await super().serve(sockets)
        finally:
            self.up.set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()

    async def main_loop(self) -> None:
        await self._end.wait()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)  # a second SIGINT waits for nothing
        self.stop()


class Embedded(Server):
    """Leaves the signals to the program that it is a part of."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


class _State(ServerState):
    """Of the headers of every answer there is one, which a server with a clock owes (RFC 9110)."""

    @property
    def default_headers(self) -> Headers:
        return [(b"date", formatdate(usegmt=True).encode())]

    @default_headers.setter
    def default_headers(self, _: Headers) -> None:
        """ServerState begins with none."""
