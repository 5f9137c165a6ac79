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
        self._makers: dict[str, Any] = {}

    async def answer(
        self, method: Method[Question, Answer], request: Question, metadata: Metadata
    ) -> Answer:
        make = self._maker(self._channel.unary_unary, method)
        call = make(request, timeout=metadata.timeout, metadata=metadata.entries)
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
        make = self._maker(self._channel.unary_stream, method)
        call = make(request, timeout=metadata.timeout, metadata=metadata.entries)
        try:
            if ACCEPTED in await call.initial_metadata():
                await accepted()
            async for message in call:
                await write(message)
        except grpc.aio.AioRpcError as error:
            raise self._failure(error) from error
        finally:
            call.cancel()

    def _maker(self, kind: Any, method: Method[Any, Any]) -> Any:
        """Return what makes calls of a method; `kind` is that of the channel."""
        if (maker := self._makers.get(method.path)) is None:
            maker = self._makers[method.path] = kind(
                method.path,
                request_serializer=method.request.SerializeToString,
                response_deserializer=method.answer.FromString,
            )
        return maker

    def _failure(self, error: grpc.aio.AioRpcError) -> BridgeError:
        trailers = error.trailing_metadata() or ()
        return from_status(error.code(), error.details() or "", trailers, self.target)
