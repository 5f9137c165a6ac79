"""Sockets that listen, and the accepting of clients."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from collections.abc import Iterable

from rest_bridge.http.connection import Connection
from rest_bridge.http.limits import Limits
from rest_bridge.http.shared import Shared

_BACKLOG = 2048
_BATCH = 16  # clients that are accepted before others are served: a millisecond for each
_LAST = 4  # batches of those who have connected when the server ends
_PAUSE = 1.0  # seconds without accepting, after the system has refused
_REFUSED = 64  # connections more than there may be, for the time of a refusal


class Listener:
    """The accepting of clients.

    asyncio's own loop does not end when files run out, but tries again as often as the backlog is
    long, and logs each time (cpython#151615); and it does not count.
    """

    def __init__(self, shared: Shared, sockets: Iterable[socket.socket]) -> None:
        self._shared = shared
        self._sockets = list(sockets)
        self._tasks: set[asyncio.Task[None]] = set()
        self._resuming: asyncio.TimerHandle | None = None
        shared.connections = min(shared.connections, _affordable(shared.limits))

    def start(self) -> None:
        """Accept clients."""
        for sock in self._sockets:
            sock.setblocking(False)
            if sock.family != socket.AF_UNIX:
                # Else the body of an answer waits 40 ms for the acknowledgement of its head.
                # Accepted sockets inherit this; asyncio sets it where a socket names its protocol.
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.listen(_BACKLOG)
        self._resume()

    def close(self) -> None:
        """Accept those who have connected, and then no more."""
        for sock in self._sockets * _LAST:
            self._accept(sock)
        self._pause()
        if self._resuming is not None:
            self._resuming.cancel()
        for sock in self._sockets:
            sock.close()

    def _resume(self) -> None:
        self._resuming = None
        for sock in self._sockets:
            self._shared.loop.add_reader(sock, self._accept, sock)

    def _pause(self) -> None:
        for sock in self._sockets:
            self._shared.loop.remove_reader(sock)

    def _accept(self, sock: socket.socket) -> None:
        for _ in range(_BATCH):
            try:
                client, _ = sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:
                self._rest(error)
                return
            self._welcome(client)

    def _rest(self, error: OSError) -> None:
        """Accept no more for a second: out of files, or out of memory."""
        cause = os.strerror(error.errno) if error.errno else str(error)
        self._shared.log.warn("accept", "cannot accept connections: %s", cause)
        self._pause()
        if self._resuming is None:
            self._resuming = self._shared.loop.call_later(_PAUSE, self._resume)

    def _welcome(self, client: socket.socket) -> None:
        shared = self._shared
        welcome = shared.make_room()
        if not welcome and len(shared.open) >= shared.connections + _REFUSED:
            line = "%d connections are open: closed one more"
            shared.log.warn("too many", line, len(shared.open))
            client.close()
            return
        client.setblocking(False)
        task = shared.loop.create_task(self._connect(client, Connection(shared, welcome)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, client: socket.socket, connection: Connection) -> None:
        try:
            await self._shared.loop.connect_accepted_socket(lambda: connection, client)
        except OSError:
            client.close()
            self._shared.remove(connection)


def bind(host: str, port: int) -> list[socket.socket]:
    """Return a socket for each address of `host`. Raises OSError, with a cause that can be read."""
    flags = socket.AI_PASSIVE
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=flags)
    sockets: list[socket.socket] = []
    try:
        for family, _, _, _, address in dict.fromkeys(found):
            if sockets and not port:  # all on the port that the first one got
                address = (address[0], sockets[0].getsockname()[1], *address[2:])
            only_ipv6 = family == socket.AF_INET6
            sockets.append(_bound(family, address, only_ipv6))
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _bound(family: int, address: tuple[object, ...], only_ipv6: bool) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if only_ipv6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock


def _affordable(limits: Limits) -> int:
    """Return for how many connections there are files: each can need one more, for its engine."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return max((files - limits.reserved_files) // 2, 8)
