"""Calls of the service behind the bridge."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import grpc.aio
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

from inference_service.v1.model_service_pb2_grpc import ModelServiceStub
from rest_bridge.errors import BridgeError, from_rpc

if TYPE_CHECKING:
    from inference_service.v1.model_service_pb2_grpc import ModelServiceAsyncStub

Answer = TypeVar("Answer")

READY_TIMEOUT_SECONDS = 2.0


class Channel(Protocol):
    """The part of `grpc.aio.Channel` that the bridge uses, for channels without a wire too."""

    def unary_unary(
        self, method: str, request_serializer: Any = ..., response_deserializer: Any = ...
    ) -> Callable[..., Any]: ...

    def unary_stream(
        self, method: str, request_serializer: Any = ..., response_deserializer: Any = ...
    ) -> Callable[..., Any]: ...


class Service:
    """The stubs of one channel, and the rules of every call."""

    def __init__(self, channel: Channel, target: str) -> None:
        self.stub: ModelServiceAsyncStub = ModelServiceStub(cast("grpc.aio.Channel", channel))
        # By name, because the generated stub of the health service has no types.
        self._check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=HealthCheckRequest.SerializeToString,
            response_deserializer=HealthCheckResponse.FromString,
        )
        self.target = target

    @asynccontextmanager
    async def calling(self, receive: Receive, call: grpc.aio.Call) -> AsyncIterator[None]:
        """Hold a call while its HTTP client is connected.

        The call ends when the context is left, and when the client disconnects. `receive` must have
        delivered the whole body of the request. Raises ClientDisconnect after a disconnect, and
        BridgeError for every other failure of the call, the end of this process included.
        """
        gone = asyncio.create_task(cancel_on_disconnect(receive, call))
        try:
            yield
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error, self.target) from error
        except asyncio.CancelledError:
            if gone.done():
                raise ClientDisconnect from None
            # At the end of its shutdown the server cancels the requests that still run. Nothing
            # above uses that cancellation, and the client still waits for an answer.
            raise BridgeError(
                "SHUTTING_DOWN", "the REST bridge is shutting down; retry when it is back"
            ) from None
        finally:
            gone.cancel()
            call.cancel()

    async def answer(
        self, request: Request, call: "grpc.aio.UnaryUnaryCall[Any, Answer]"
    ) -> Answer:
        """Wait for the answer of a unary call that was just made. Raises as `calling` does."""
        async with self.calling(request.receive, call):
            return await call

    async def is_ready(self) -> bool:
        """Check whether the service answers with SERVING."""
        try:
            response: HealthCheckResponse = await self._check(
                HealthCheckRequest(), timeout=READY_TIMEOUT_SECONDS
            )
        except grpc.aio.AioRpcError:
            return False
        return response.status == HealthCheckResponse.SERVING


async def cancel_on_disconnect(receive: Receive, call: grpc.aio.Call) -> None:
    """Cancel the call when the HTTP client disconnects."""
    while (await receive())["type"] != "http.disconnect":
        pass
    call.cancel()
