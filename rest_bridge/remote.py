"""The service behind a gRPC channel, in another process or on another machine."""

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import grpc.aio

from inference_service.v1 import model_service_pb2 as pb
from rest_bridge.errors import BridgeError, from_status
from rest_bridge.service import (
    FORWARD,
    Accepted,
    Answer,
    Forwarded,
    Metadata,
    Method,
    Question,
    Sink,
    Write,
)

# The entry of the headers that a service sends once it has accepted a call. gRPC gives empty ones
# for a call that fails without headers.
ACCEPTED = "x-accepted"


class RemoteService:
    """The service at `target`, over a channel that the caller closes."""

    def __init__(self, channel: grpc.aio.Channel, target: str) -> None:
        self.target = target
        self._channel = channel
        self._starters: dict[str, Any] = {}

    async def answer(
        self, method: Method[Question, Answer], request: Question, metadata: Metadata
    ) -> Answer:
        start = self._starter(self._channel.unary_unary, method)
        call = start(request, timeout=metadata.timeout, metadata=metadata.entries)
        try:
            answer: Answer = await call
        except grpc.aio.AioRpcError as error:
            raise self._failure(error) from error
        finally:
            call.cancel()
        return answer

    async def stream(
        self,
        method: Method[Question, Any],
        request: Question,
        metadata: Metadata,
        accepted: Accepted,
        write: Write,
    ) -> None:
        start = self._starter(self._channel.unary_stream, method)
        call = start(request, timeout=metadata.timeout, metadata=metadata.entries)
        try:
            if ACCEPTED in await call.initial_metadata():
                await accepted()
            async for message in call:
                await write(message)
        except grpc.aio.AioRpcError as error:
            raise self._failure(error) from error
        finally:
            call.cancel()

    def forward(self, request: Forwarded, metadata: Metadata, sink: Sink) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(self._forward(request, metadata, sink))

    async def _forward(self, request: Forwarded, metadata: Metadata, sink: Sink) -> None:
        start = self._starter(self._channel.unary_stream, FORWARD)
        message = pb.ForwardRequest(**request._asdict(), status_events=True)
        call = start(message, timeout=metadata.timeout, metadata=metadata.entries)
        source = _Source()
        try:
            async for event in call:
                _pass(event, sink, source)
                await source.open.wait()
        except grpc.aio.AioRpcError as error:
            sink.end(self._failure(error))
        else:
            sink.end(None)
        finally:
            call.cancel()

    def _starter(self, kind: Any, method: Method[Any, Any]) -> Any:
        """Return the multi-callable of a method; `kind` is the constructor of the channel."""
        if (starter := self._starters.get(method.path)) is None:
            made = kind(
                method.path,
                request_serializer=method.request.SerializeToString,
                response_deserializer=method.answer.FromString,
            )
            # A client of REST is told at once that the service is not there.
            starter = self._starters[method.path] = partial(made, wait_for_ready=False)
        return starter

    def _failure(self, error: grpc.aio.AioRpcError) -> BridgeError:
        trailers = error.trailing_metadata() or ()
        return from_status(error.code(), error.details() or "", trailers, self.target)


class _Source:
    """The reading of a stream, which goes on while it is `open`."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()

    def pause(self) -> None:
        self.open.clear()

    def resume(self) -> None:
        self.open.set()


class _Head(NamedTuple):
    status: int
    headers: Mapping[bytes, bytes]


def _pass(event: pb.ForwardResponse, sink: Sink, source: _Source) -> None:
    match event.WhichOneof("event"):
        case "data":
            sink.data(event.data)
        case "head":
            kind = event.head.content_type.encode("latin-1", "replace")
            sink.head(_Head(event.head.status, {b"content-type": kind} if kind else {}), source)
        case "status":
            sink.waits(event.status)
