"""uvicorn without its ticks, so that an idle server takes no CPU time.

uvicorn checks ten times a second whether to end, and writes the date of its answers anew each
second. Here the end is an event, and the date is written when an answer needs one.
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
    """A server that ends by an event. Make it within the loop in which it serves.

    `up` is set once the server listens, or has ended. `headers`, `callback_notify` and
    `limit_max_requests` of the configuration have no effect: uvicorn handles them in its ticks.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.server_state = _State()
        self.up = asyncio.Event()
        self._end = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def stop(self) -> None:
        """Finish the requests that run, and end. A signal handler may call this method."""
        self.should_exit = True
        self._loop.call_soon_threadsafe(self._end.set)

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve. Raises the error that kept the server from listening."""
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
        super().handle_exit(sig, frame)  # at a second SIGINT it sets `force_exit`
        self.stop()


class Embedded(Server):
    """A server that leaves the signals to its program."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


class _State(ServerState):
    """State whose only default header is the date.

    RFC 9110 requires the date in every answer of a server with a clock.
    """

    @property
    def default_headers(self) -> Headers:
        return [(b"date", formatdate(usegmt=True).encode())]

    @default_headers.setter
    def default_headers(self, _: Headers) -> None:
        """Ignore the empty list that ServerState begins with."""
