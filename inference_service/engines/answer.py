"""The bytes of an answer as an iterator, gathered for its reader."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from typing import Self

from inference_service.engines.exchange import Head, Source

AHEAD = 1 << 16  # bytes that are held for a slow reader, beyond those of one read
GATHER = 0.01  # seconds between two steps of an iterator; see `Answer`


class Answer:
    """A sink that is an iterator over the bytes of the answer's body.

    Each step gives all bytes that have come. The first bytes and the end are given at once. Steps
    between them are 10 ms apart (`GATHER`), so that more bytes can come: engines write each token
    by itself, and a thousand tokens in a second are so passed on in a hundred steps.

    Call `close` in any case. Before the end of the answer `close` closes the connection, by which
    the engine learns that its caller has left.
    """

    status = 0
    content_type = ""

    def __init__(self) -> None:
        self.headers: Mapping[bytes, bytes] = {}  # names in small letters
        self._body: list[bytes] = []
        self._size = 0
        self._ended = False
        self._error: Exception | None = None
        self._read_at = -math.inf
        self._gathering = False
        self._change: asyncio.Future[None] | None = None  # for the reader that waits

    def head(self, head: Head, source: Source) -> None:
        self.status, self.headers, self.content_type = head.status, head.headers, head.content_type
        self._source = source

    def data(self, data: bytes) -> None:
        self._body.append(data)
        self._size += len(data)
        if self._size > AHEAD:
            self._source.pause()
        if not self._gathering or self._size > AHEAD:
            self._wake()

    def end(self, error: Exception | None) -> None:
        self._ended, self._error = True, error
        self._wake()

    def close(self) -> None:
        """End the request, if the answer goes on."""
        self._source.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        while not self._body:
            if self._error is not None:
                raise self._error
            if self._ended:
                raise StopAsyncIteration
            await self._changed()
        await self._gather()
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body.clear()
        if self._size > AHEAD:
            self._source.resume()
        self._size = 0
        return body

    async def _gather(self) -> None:
        loop = asyncio.get_running_loop()
        soonest = self._read_at + GATHER
        if loop.time() < soonest and not self._complete():
            self._gathering = True
            timer = loop.call_at(soonest, self._wake)
            try:
                await self._changed()
            finally:
                self._gathering = False
                timer.cancel()
        self._read_at = loop.time()

    def _complete(self) -> bool:
        """Return whether no more bytes can be added to those that are held."""
        return self._ended or self._size > AHEAD

    async def _changed(self) -> None:
        self._change = asyncio.get_running_loop().create_future()
        await self._change

    def _wake(self) -> None:
        if self._change is not None and not self._change.done():
            self._change.set_result(None)
