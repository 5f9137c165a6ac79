"""A first, simple proxy in front of TGI: FastAPI and httpx pass the bytes through.

`python -m benchmarks.naive_proxy PORT ENGINE_PORT`.
"""

from __future__ import annotations

import sys

import httpx
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse


def create_app(engine: str) -> FastAPI:
    """Create the proxy of both endpoints of TGI, which passes bodies on unread."""
    app = FastAPI()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    client = httpx.AsyncClient(base_url=engine, limits=limits, timeout=None, trust_env=False)

    @app.post("/generate")
    async def generate(request: Request) -> Response:
        answer = await client.post("/generate", content=await request.body())
        return Response(answer.content, media_type="application/json")

    @app.post("/generate_stream")
    async def generate_stream(request: Request) -> StreamingResponse:
        call = client.build_request("POST", "/generate_stream", content=await request.body())
        answer = await client.send(call, stream=True)
        return StreamingResponse(answer.aiter_raw(), media_type="text/event-stream")

    return app


if __name__ == "__main__":
    port, engine_port = sys.argv[1:]
    app = create_app(f"http://127.0.0.1:{engine_port}")
    uvicorn.run(app, port=int(port), access_log=False, log_level="warning")
