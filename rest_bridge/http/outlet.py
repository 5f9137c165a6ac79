"""What goes to a client: bytes, and the end."""

from __future__ import annotations

import asyncio
import socket
import struct

from rest_bridge.http.deadlines import Deadlines

Address = tuple[str, int | None] | None

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset


class Outlet:
    """The writing half of a connection."""

    __slots__ = (
        "_deadlines",
        "_taken",
        "_written",
        "client",
        "gone",
        "server",
        "slow",
        "transport",
    )

    def __init__(self, deadlines: Deadlines) -> None:
        self._deadlines = deadlines
        self.transport: asyncio.Transport  # once it is made
        self.client: Address = None
        self.server: Address = None
        self._written = 0
        self._taken = 0  # of what was written, when the client was last looked at
        self.gone = False
        self.slow = False  # more waits for the client than is good

    def open(self, transport: asyncio.Transport) -> None:
        """Begin with the transport of the connection."""
        self.transport = transport
        self.client = _address(transport.get_extra_info("peername"))
        self.server = _address(transport.get_extra_info("sockname"))

    @property
    def name(self) -> str:
        """The client in log lines."""
        return f"{self.client[0]}:{self.client[1]}" if self.client else "a local client"

    def write(self, data: bytes) -> None:
        """Send bytes, unless the client has left."""
        if not self.gone:
            self._written += len(data)
            self.transport.write(data)

    def watch(self) -> None:
        """Have the client read something within its time."""
        self._taken = self._written - self.transport.get_write_buffer_size()
        self._deadlines.expect_reading()

    @property
    def stuck(self) -> bool:
        """Whether the client has read nothing since the last `watch`."""
        return self._written - self.transport.get_write_buffer_size() == self._taken

    def close(self) -> None:
        """Close when the client has read what waits for it."""
        self._deadlines.expect_nothing()
        if self.transport.get_write_buffer_size():
            self.watch()
        self.transport.close()

    def end(self) -> None:
        """Send the end, when the client has read what waits for it, and go on reading."""
        try:
            self.transport.write_eof()
        except OSError:  # the client has left, which is seen only where something is read
            self.transport.abort()

    def cut(self, reset: bool = False) -> None:
        """Close at once; with a reset where the end would be taken for the end of an answer."""
        if reset:
            sock: socket.socket = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()


def _address(found: object) -> Address:
    return found[:2] if isinstance(found, tuple) else None
