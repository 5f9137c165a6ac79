"""A client that has said all, or one that has gone: both end their half of the connection."""

from __future__ import annotations

import asyncio
import socket

from rest_bridge.http.exchange import Exchange

_TRIES = 8
_FIRST = 0.01  # seconds; twice as long after each try, so 2.5 s for all
_CLOSE = 7  # TCP_CLOSE in tcp_info


def ask(transport: asyncio.Transport, exchange: Exchange, tries: int = 0) -> None:
    """Close the connection if its client has gone.

    The client is sent something that it passes over: who has gone answers with a reset, and Linux
    shows that in TCP_INFO. There is nothing of the kind within an answer that is no stream of
    events; there, the next part of the answer brings the reset.
    """
    if transport.is_closing() or exchange.left or exchange.answer.done:
        return
    if tries < 2 and (exchange.sent or not exchange.answer.started):
        transport.write(exchange.answer.filler())
    if _reset(transport.get_extra_info("socket")):
        transport.abort()
    elif tries < _TRIES:
        loop = asyncio.get_running_loop()
        loop.call_later(_FIRST * 2**tries, ask, transport, exchange, tries + 1)


def _reset(sock: socket.socket) -> bool:
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _CLOSE
