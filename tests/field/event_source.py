"""A browser's EventSource over a raw socket, by the HTML standard."""

from __future__ import annotations

import asyncio
import codecs
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Event:
    """An event; `id` is that of the stream so far, as browsers show it."""

    name: str
    data: str
    id: str

    @property
    def json(self) -> Any:
        return json.loads(self.data)


class Refused(Exception):
    """An answer after which a browser gives up for good."""


class EventSource:
    """The events at a path of `url`; `last_id` outlives a connection, as in a browser.

    `head` has the bytes of the last head, `comments` the comments of all connections.
    """

    def __init__(self, url: str, path: str) -> None:
        self._address = urlsplit(url)
        self._path = path
        self.last_id = ""
        self.head = b""
        self.comments: list[str] = []
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter | None = None

    async def connect(self, **headers: str) -> None:
        """Connect, and return when the head is here. Raises Refused."""
        assert self._address.hostname is not None
        self._reader, self._writer = await asyncio.open_connection(
            self._address.hostname, self._address.port
        )
        lines = [f"GET {self._path} HTTP/1.1", f"Host: {self._address.netloc}"]
        if self.last_id:
            lines.append(f"Last-Event-ID: {self.last_id}")
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self._writer.write("\r\n".join([*lines, "", ""]).encode())
        self.head = await self._reader.readuntil(b"\r\n\r\n")
        if not self.head.startswith(b"HTTP/1.1 200 ") or (
            b"\r\ncontent-type: text/event-stream" not in self.head.lower()
        ):
            raise Refused(self.head.decode())

    def close(self) -> None:
        """Cut the connection, as a network does."""
        if self._writer is not None:
            self._writer.transport.abort()
            self._writer = None

    async def body(self) -> AsyncGenerator[bytes]:
        """Yield the body as it comes, without its chunks."""
        while size := int((await self._reader.readline()).split(b";")[0], 16):
            left = size
            while left:
                data = await self._reader.read(left)
                if not data:
                    return
                left -= len(data)
                yield data
            await self._reader.readexactly(2)

    async def events(self) -> AsyncGenerator[Event]:
        """Yield the events until the stream ends."""
        name, data = "", list[str]()
        async with aclosing(self._lines()) as lines:
            async for line in lines:
                field, _, value = line.partition(":")
                value = value.removeprefix(" ")
                if not line:
                    if data:
                        yield Event(name or "message", "\n".join(data), self.last_id)
                    name, data = "", []
                elif not field:
                    self.comments.append(value)
                elif field == "event":
                    name = value
                elif field == "data":
                    data.append(value)
                elif field == "id" and "\0" not in value:
                    self.last_id = value

    async def _lines(self) -> AsyncGenerator[str]:
        """Yield the lines, which end with CR, LF or both."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        text, begun, after_cr = "", False, False
        async with aclosing(self.body()) as pieces:
            async for piece in pieces:
                new = decoder.decode(piece)
                if not begun and new:
                    new, begun = new.removeprefix("\ufeff"), True
                if after_cr and new:
                    new, after_cr = new.removeprefix("\n"), False
                text += new
                after_cr = after_cr or text.endswith("\r")
                *lines, text = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
                for line in lines:
                    yield line
