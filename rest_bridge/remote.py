"""The service behind a gRPC channel, in another process or on another machine."""

from typing import Any

import grpc.aio

from rest_bridge.errors import BridgeError, from_status
from rest_bridge.service import Accepted, Answer, Metadata, Method, Question, Write

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

    def _starter(self, kind: Any, method: Method[Any, Any]) -> Any:
        """Return the multi-callable of a method; `kind` is the constructor of the channel."""
        if (starter := self._starters.get(method.path)) is None:
            starter = self._starters[method.path] = kind(
                method.path,
                request_serializer=method.request.SerializeToString,
                response_deserializer=method.answer.FromString,
            )
        return starter

    def _failure(self, error: grpc.aio.AioRpcError) -> BridgeError:
        trailers = error.trailing_metadata() or ()
        return from_status(error.code(), error.details() or "", trailers, self.target)
