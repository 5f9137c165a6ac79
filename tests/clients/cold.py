"""A server that answers as the bridge does while a model starts: comments, then the stream.

It stands before a service. A stream of the service begins with comments about the start, and has
another comment before each tenth event; a model named `broken` fails to start after the comments.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import httpx

from inference_service.v1 import model_service_pb2 as pb
from rest_bridge.dialects.answers import EVENTS
from rest_bridge.dialects.endpoints import shape_at
from rest_bridge.dialects.progress import words
from rest_bridge.dialects.shapes import of_service
from rest_bridge.errors import BridgeError

BROKEN = "broken"
CAUSE = "the weights are damaged"
_END = b"\n\n"


def comments() -> list[bytes]:
    """Return the comments of a start, each a line as the bridge writes it."""
    status = pb.GenerateStatus(model_state=pb.MODEL_STATE_STARTING)
    status.start_progress.phase = pb.START_PHASE_LOADING_WEIGHTS
    lines = []
    for fraction in (0.1, 0.4, 1.0):
        status.start_progress.fraction = fraction
        lines.append(f": {words(status)}\n".encode())
    return lines


@asynccontextmanager
async def cold(url: str) -> AsyncGenerator[str]:
    """Serve before the service at `url`, and return the address."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await _answer(url, reader, writer)
        except (OSError, asyncio.IncompleteReadError):  # the client has left
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def _answer(url: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    path, body = await _request(reader)
    headers = [*EVENTS, (b"transfer-encoding", b"chunked"), (b"connection", b"close")]
    head = b"".join(b"%b: %b\r\n" % header for header in headers)
    writer.write(b"HTTP/1.1 200 OK\r\n%b\r\n" % head)
    for line in comments():
        await _write(writer, line)
    if json.loads(body)["model"] == BROKEN:
        await _write(writer, _failure(path))
    else:
        async for part in _parts(url + path, body):
            await _write(writer, part)
    writer.write(b"0\r\n\r\n")
    await writer.drain()


async def _request(reader: asyncio.StreamReader) -> tuple[str, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    line, *fields = head.strip().split("\r\n")
    headers = dict(field.lower().split(": ", 1) for field in fields)
    return line.split()[1], await reader.readexactly(int(headers["content-length"]))


async def _write(writer: asyncio.StreamWriter, part: bytes) -> None:
    writer.write(b"%x\r\n%b\r\n" % (len(part), part))
    await writer.drain()


def _failure(path: str) -> bytes:
    shape = shape_at(path)
    assert shape is not None
    return shape.event(of_service(shape, BridgeError("START_FAILED", CAUSE)))


async def _parts(url: str, body: bytes) -> AsyncIterator[bytes]:
    """Yield the events of the service, with comments between them."""
    headers = {"content-type": "application/json"}
    async with (
        httpx.AsyncClient(timeout=60, trust_env=False) as client,
        client.stream("POST", url, content=body, headers=headers) as answer,
    ):
        assert answer.status_code == 200, await answer.aread()
        rest, count = b"", 0
        async for data in answer.aiter_bytes():
            *events, rest = (rest + data).split(_END)
            for event in events:
                if (count := count + 1) % 10 == 0:
                    yield b": keep-alive\n"
                yield event + _END
