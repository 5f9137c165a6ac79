"""The floor of a typed stream: grpc.aio, a bare write for each token, a bare upstream.

`python -m benchmarks.grpc_floor PORT ENGINE_PORT`. The relay has the one method `GenerateStream`,
and none of the guarantees of the service.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
import httptools
import msgspec

from inference_service.v1 import model_service_pb2 as pb

Context = grpc.aio.ServicerContext[Any, Any]


class Token(msgspec.Struct):
    """A token of TGI's event."""

    text: str


class Event(msgspec.Struct):
    """An event of TGI."""

    token: Token


_event = msgspec.json.Decoder(Event).decode
_HEAD = b"POST /generate_stream HTTP/1.1\r\nhost: engine\r\ncontent-type: application/json\r\n"


class Upstream(asyncio.Protocol):
    """A connection to the engine for one request, and the texts that have come."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._texts: list[str] = []
        self._waiter: asyncio.Future[None] | None = None
        self._over = False

    async def texts(self, request: pb.GenerateStreamRequest) -> AsyncIterator[list[str]]:
        """Ask for a text; yields what has come since the last time."""
        parameters = {"max_new_tokens": request.max_new_tokens, "details": True}
        body = json.dumps({"inputs": request.prompt, "parameters": parameters}).encode()
        self.transport.write(b"%bcontent-length: %d\r\n\r\n%b" % (_HEAD, len(body), body))
        while not self._over or self._texts:
            if not self._texts:
                self._waiter = asyncio.get_running_loop().create_future()
                await self._waiter
            texts, self._texts = self._texts, []
            yield texts
        self.transport.close()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._texts += [_event(line[5:]).token.text for line in body.split(b"\n") if line]
        self._wake()

    def on_message_complete(self) -> None:
        self._over = True
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        self.on_message_complete()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Relay:
    """A servicer of one method, which writes a message for each token."""

    def __init__(self, engine_port: int) -> None:
        self._engine = engine_port

    async def GenerateStream(self, request: pb.GenerateStreamRequest, context: Context) -> None:
        loop = asyncio.get_running_loop()
        _, upstream = await loop.create_connection(Upstream, "127.0.0.1", self._engine)
        async for texts in upstream.texts(request):
            for text in texts:
                chunk = pb.GenerateChunk(text=text, token_count=1)
                await context.write(_bytes(pb.GenerateStreamResponse(chunk=chunk)))
        summary = pb.GenerateSummary(model_id=request.model_id)
        await context.write(_bytes(pb.GenerateStreamResponse(summary=summary)))


def _bytes(message: pb.GenerateStreamResponse) -> bytes:
    return message.SerializeToString()


def _handler(relay: Relay) -> grpc.GenericRpcHandler:
    method: grpc.RpcMethodHandler[Any, Any] = grpc.unary_stream_rpc_method_handler(
        relay.GenerateStream,
        request_deserializer=pb.GenerateStreamRequest.FromString,
        response_serializer=lambda message: message,
    )
    methods = {"GenerateStream": method}
    return grpc.method_handlers_generic_handler("inference_service.v1.ModelService", methods)


async def main(port: str, engine_port: str) -> None:
    """Serve until the process is killed."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_handler(Relay(int(engine_port))),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
