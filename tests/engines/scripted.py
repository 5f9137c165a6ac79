"""An HTTP server on loopback that plays scripted answers, byte for byte."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

from inference_service.runtimes.base import Instance
from tests.engines.waiting import soon

End = Literal["done", "cut", "hold"]

# Client and server share a loop, and after so many of its cycles the client has read the bytes.
_CYCLES = 25


@dataclass(frozen=True)
class Answer:
    """An answer, each piece of which is a read of its own for the client.

    At its end the body is `done`, the connection is `cut` in the middle of the body, or held until
    the client has left.
    """

    head: str
    pieces: Sequence[bytes]
    end: End = "done"


def stream(*pieces: bytes, end: End = "done", content_type: str = "text/event-stream") -> Answer:
    """Make an answer 200 without a length."""
    head = f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ntransfer-encoding: chunked"
    chunks = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces]
    if end == "done":
        chunks.append(b"0\r\n\r\n")
    return Answer(head, chunks, end)


def plain(
    status: int, *pieces: bytes, content_type: str = "application/json", header: str = "x: y"
) -> Answer:
    """Make an answer with its length, and with one header more."""
    length = sum(map(len, pieces))
    head = f"HTTP/1.1 {status} X\r\ncontent-type: {content_type}\r\n{header}"
    return Answer(f"{head}\r\ncontent-length: {length}", pieces)


def event(data: object) -> bytes:
    """Make one server-sent event of JSON."""
    return b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n"


class ScriptedServer:
    """A server that gives each request the next of `answers`.

    `answered` is set when all pieces of an answer are read, `left` when a held client leaves.
    """

    def __init__(self, answers: Sequence[Answer]) -> None:
        self.answers = deque(answers)
        self.requests: list[tuple[str, Any]] = []
        self.answered = asyncio.Event()
        self.left = asyncio.Event()
        self.url = ""
        self.handlers: set[asyncio.Task[None]] = set()

    @property
    def instance(self) -> Instance:
        return Instance("scripted", self.url, model="tiny")

    async def until_answered(self) -> None:
        await soon(self.answered.wait(), "all pieces of an answer are read")

    async def until_left(self) -> None:
        await soon(self.left.wait(), "the client closes the connection that is held")

    def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.handlers.add(asyncio.create_task(self._handle(reader, writer)))

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(head.partition("content-length: ")[2].split("\r\n")[0] or 0)
            body = await reader.readexactly(length)
            self.requests.append((head.split()[1], json.loads(body) if body else None))
            await self._play(self.answers.popleft(), reader, writer)
        except ConnectionError:
            self.left.set()
        finally:
            writer.close()

    async def _play(
        self, answer: Answer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(f"{answer.head}\r\nconnection: close\r\n\r\n".encode())
        for piece in answer.pieces:
            writer.write(piece)
            await writer.drain()
            for _ in range(_CYCLES):
                await asyncio.sleep(0)
        self.answered.set()
        if answer.end == "hold":
            await reader.read()
            self.left.set()


@asynccontextmanager
async def serving(*answers: Answer) -> AsyncGenerator[ScriptedServer]:
    """Run a server that plays these answers, each of which must be used."""
    script = ScriptedServer(answers)
    server = await asyncio.start_server(script.connected, "127.0.0.1", 0)
    async with server:
        script.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield script
            await soon(asyncio.gather(*script.handlers), "the end of each answer")
        finally:
            for handler in script.handlers:
                handler.cancel()
            await asyncio.gather(*script.handlers, return_exceptions=True)
    assert not script.answers
