"""A stream of the service as server-sent events."""

import asyncio
import json
import math
from collections.abc import Callable, Coroutine
from json.encoder import encode_basestring
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from inference_service.printable import printable, printable_json
from inference_service.v1.model_service_pb2 import (
    GenerateStreamResponse,
    StreamLogsResponse,
    WatchModelsResponse,
)
from rest_bridge.disconnect import while_connected
from rest_bridge.errors import BridgeError
from rest_bridge.service import Accepted, Write

HEADERS = {
    # Not by `media_type`, because FastAPI would document that for the errors too.
    "content-type": "text/event-stream",
    # Some proxies hold events back to compress them, unless they may not (nestjs/nest#5762).
    "cache-control": "no-cache, no-transform",
    # By default nginx holds events back until its buffer is full.
    "x-accel-buffering": "no",
}
KEEP_ALIVE = b": keep-alive\n\n"
# Once there was an id, openai-python and httpx-sse make an event of an empty line behind a comment
# (theopenco/llmgateway#2334).
KEEP_ALIVE_AFTER_ID = b": keep-alive\n"
FIRST_SILENCE_SECONDS = 0.05  # long enough for a first event to come before a comment

Call = Callable[[Accepted, Write], Coroutine[Any, Any, None]]

_encode = json.JSONEncoder(ensure_ascii=False).encode


class EventStream(Response):
    """A response that sends each message of a call at once, as one event.

    The status line waits for the first message, or, with `early`, only until the call is accepted.
    A call that fails before is answered with the status of the error, by the exception handlers of
    the application; a later error is an event. After the status line, a comment is sent in each
    silence of `keep_alive_seconds`. A stream that begins with a silence has its first comment at
    once: some clients and proxies pass a head on with the first byte of the body.
    """

    def __init__(
        self,
        call: Call,
        encode: Callable[[Any], bytes],
        keep_alive_seconds: float,
        *,
        early: bool = False,
    ) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers(HEADERS)
        self._call = call
        self._encode = encode
        self._keep_alive_seconds = keep_alive_seconds
        self._early = early
        self._comment = KEEP_ALIVE
        self._last_write = -math.inf
        self._keeping_alive: asyncio.Task[None] | None = None  # once the status line was sent

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        clock = asyncio.get_running_loop().time

        async def accepted() -> None:
            if self._early:
                await self._start(send)

        async def write_event(message: Any) -> None:
            if self._keeping_alive is None:
                await self._start(send)
            event = self._encode(message)
            await write(send, event)
            self._last_write = clock()
            if self._early:
                if event.startswith(b"id:"):
                    self._comment = KEEP_ALIVE_AFTER_ID
                # A write waits only for a slow reader, and a snapshot can have a thousand events.
                await asyncio.sleep(0)

        # A task of its own: each event would wake all layers of the application otherwise.
        call = asyncio.create_task(self._call(accepted, write_event))
        try:
            await while_connected(receive, call)
            if self._keeping_alive is None:  # a log may be empty
                await self._start(send)
        except BridgeError as error:
            if self._keeping_alive is None:
                raise
            await write(send, encoded("error", {"detail": error.detail, "reason": error.reason}))
        except ClientDisconnect:
            return
        finally:
            if self._keeping_alive is not None:
                self._keeping_alive.cancel()
        await write(send, b"", more=False)

    async def _start(self, send: Send) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )
        self._keeping_alive = asyncio.create_task(self._keep_alive(send))

    async def _keep_alive(self, send: Send) -> None:
        clock = asyncio.get_running_loop().time
        await asyncio.sleep(min(FIRST_SILENCE_SECONDS, self._keep_alive_seconds))
        while True:
            silence = clock() - self._last_write  # without end, before the first event
            if silence >= self._keep_alive_seconds:
                await write(send, self._comment)
                self._last_write = clock()
            else:
                await asyncio.sleep(self._keep_alive_seconds - silence)


async def write(send: Send, body: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


def quoted(text: str) -> str:
    """Return the JSON of a text."""
    return _one_line(encode_basestring(text))


def event(message: GenerateStreamResponse) -> bytes:
    """Encode a message of a generation; a kind of a newer service gives no bytes."""
    kind = message.WhichOneof("event")
    if kind == "chunk":  # by hand, for speed: there can be one for every token
        chunk = message.chunk
        return (
            f'event: chunk\ndata: {{"text": {quoted(chunk.text)}, '
            f'"token_count": {chunk.token_count}}}\n\n'
        ).encode()
    if kind is None:
        return b""
    return encoded(kind, fields(getattr(message, kind)))


def change(message: WatchModelsResponse) -> bytes:
    """Encode a change of a model. A browser resumes by the event's id, which is the revision.

    The models of a snapshot have no id, so that a browser that loses the stream before the end of
    the snapshot sends the id of before, and gets all models again.
    """
    kind = message.WhichOneof("event")
    if kind is None:
        return b""
    value = getattr(message, kind)
    data = fields(value) if isinstance(value, Message) else value
    id = f"id: {message.revision}\n" if message.revision else ""
    return id.encode() + encoded(kind, data)


def line(message: StreamLogsResponse) -> bytes:
    """Encode a line of a log. A carriage return in it would end the line of the event too."""
    return f"data: {printable(message.line)}\n\n".encode()


def fields(message: Message) -> dict[str, object]:
    return MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def encoded(name: str, data: object) -> bytes:
    return f"event: {name}\ndata: {_one_line(_encode(data))}\n\n".encode()


def _one_line(text: str) -> str:
    """Return a text of JSON as one line, for each reader's idea of a line."""
    return text if text.isprintable() else printable_json(text)
