"""A first, simple relay in front of TGI: gRPC with one message for each token.

`python -m benchmarks.naive_relay PORT ENGINE_PORT`. The relay has two methods of the service and
none of its guarantees.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import grpc

from inference_service.v1 import model_service_pb2 as pb

Context = grpc.aio.ServicerContext[Any, Any]


class Relay:
    """A servicer that reads lines, parses JSON and yields messages."""

    def __init__(self, session: aiohttp.ClientSession, engine: str) -> None:
        self._session = session
        self._engine = engine

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> pb.GenerateResponse:
        url = f"{self._engine}/generate"
        async with self._session.post(url, json=_body(request)) as response:
            text = (await response.json())["generated_text"]
        return pb.GenerateResponse(generated_text=text, model_id=request.model_id)

    async def GenerateStream(
        self, request: pb.GenerateStreamRequest, context: Context
    ) -> AsyncIterator[pb.GenerateStreamResponse]:
        url = f"{self._engine}/generate_stream"
        async with self._session.post(url, json=_body(request)) as response:
            async for line in response.content:
                if line.startswith(b"data:"):
                    event = json.loads(line[5:])
                    chunk = pb.GenerateChunk(text=event["token"]["text"], token_count=1)
                    yield pb.GenerateStreamResponse(chunk=chunk)
        yield pb.GenerateStreamResponse(summary=pb.GenerateSummary(model_id=request.model_id))


def _body(request: pb.GenerateRequest | pb.GenerateStreamRequest) -> dict[str, Any]:
    return {"inputs": request.prompt, "parameters": {"max_new_tokens": request.max_new_tokens}}


def _handler(relay: Relay) -> grpc.GenericRpcHandler:
    methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "Generate": grpc.unary_unary_rpc_method_handler(
            relay.Generate,
            request_deserializer=pb.GenerateRequest.FromString,
            response_serializer=pb.GenerateResponse.SerializeToString,
        ),
        "GenerateStream": grpc.unary_stream_rpc_method_handler(
            relay.GenerateStream,
            request_deserializer=pb.GenerateStreamRequest.FromString,
            response_serializer=pb.GenerateStreamResponse.SerializeToString,
        ),
    }
    return grpc.method_handlers_generic_handler("inference_service.v1.ModelService", methods)


async def main(port: str, engine_port: str) -> None:
    """Serve until the process is killed."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        server = grpc.aio.server()
        relay = Relay(session, f"http://127.0.0.1:{engine_port}")
        server.add_generic_rpc_handlers((_handler(relay),))
        server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
