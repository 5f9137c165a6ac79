"""Ports of 127.0.0.1 for engines."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from inference_service.errors import LaunchError


class Ports:
    """A range of ports, in which a claim takes the first free port.

    The search begins `offset` ports after the first one, and goes on at the start of the range.
    """

    def __init__(self, first: int, last: int, offset: int = 0) -> None:
        self.first, self.last = first, last
        ports = range(first, last + 1)
        start = offset % len(ports)
        self._ports = (*ports[start:], *ports[:start])
        self._claimed: set[int] = set()

    @contextmanager
    def claim(self, avoid: frozenset[int] = frozenset()) -> Iterator[int]:
        """Hold the first port that is free and not in `avoid`. Raises LaunchError if none is.

        A port is free if this service does not hold it, and if it can be bound at this moment.
        Another program may still take the port before the engine does: see `Running.listens`.
        """
        port = next(filter(self._free, (p for p in self._ports if p not in avoid)), None)
        if port is None:
            raise LaunchError(
                f"no port of 127.0.0.1 is free from {min(self._ports)} to {max(self._ports)}; "
                "stop a model, or widen the setting `ports`"
            )
        self._claimed.add(port)
        try:
            yield port
        finally:
            self._claimed.discard(port)

    @contextmanager
    def hold(self, port: int) -> Iterator[None]:
        """Hold a port on which an adopted engine listens already."""
        self._claimed.add(port)
        try:
            yield
        finally:
            self._claimed.discard(port)

    def _free(self, port: int) -> bool:
        if port in self._claimed:
            return False
        with socket.socket() as probe:
            # Connections of the last engine may be in TIME_WAIT, which keeps nothing from binding
            # the port with this option. Engines set it too.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                if error.errno in (errno.EADDRINUSE, errno.EACCES):
                    return False
                raise
        return True
