"""Connections whose callers have left, until their engines have noticed that.

An engine works on after its caller: llama.cpp notices an end of the connection only between two
tokens, and not at all while it reads a prompt (4.5 s and 280 MB for one of 4 MiB). When it is done
with the request it closes the connection, and only then its slot is free.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Hashable

# For an engine that never closes: the `hang_timeout` by default, after which one is replaced.
LONGEST = 120.0

# Whoever still sends after so long has not seen the end of our half, such as a proxy that waits for
# the whole answer. A reset is seen by all who write.
_DEAF = 0.5


class Parting:
    """One connection that is left; `over` is done when the engine has closed it.

    Our half is ended, which servers take for the end of the client, and what still comes is
    dropped. A connection with TLS has no halves: its end is sent, and that of the engine awaited.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        loop = asyncio.get_running_loop()
        self.over: asyncio.Future[None] = loop.create_future()
        self._transport = transport
        self._deaf_at = loop.time() + _DEAF
        self._timer = loop.call_later(LONGEST, transport.abort)
        transport.resume_reading()
        if not transport.can_write_eof():
            transport.close()
            return
        with contextlib.suppress(OSError):  # the engine has closed: `lost` comes
            transport.write_eof()

    def feed(self, data: bytes) -> None:
        """Drop what the engine still sends."""
        if asyncio.get_running_loop().time() > self._deaf_at:
            self._transport.abort()

    def lost(self, error: Exception | None) -> None:
        """Note that the engine has closed the connection."""
        self._timer.cancel()
        if not self.over.done():
            self.over.set_result(None)

    def abort(self) -> None:
        """Reset the connection."""
        self._transport.abort()


class Partings:
    """The connections that are left, by where they lead."""

    def __init__(self) -> None:
        self._parting: dict[Hashable, dict[asyncio.Future[None], Parting]] = {}

    def of(self, origin: Hashable) -> Collection[asyncio.Future[None]]:
        """Return the `over` of each."""
        return self._parting.get(origin, ())

    def begin(self, origin: Hashable, transport: asyncio.Transport) -> Parting:
        """Leave one more."""
        parting = Parting(transport)
        self._parting.setdefault(origin, {})[parting.over] = parting

        def over(ended: asyncio.Future[None]) -> None:
            others = self._parting[origin]
            del others[ended]
            if not others:
                del self._parting[origin]

        parting.over.add_done_callback(over)
        return parting

    def abort(self) -> None:
        """Reset all of them."""
        for partings in self._parting.values():
            for parting in partings.values():
                parting.abort()
