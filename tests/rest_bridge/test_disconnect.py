"""Disconnects of clients and the end of the server, which cancel calls of the service."""

import asyncio
import contextlib
import json
from typing import Any

import pytest

from rest_bridge import Settings, create_app
from rest_bridge.service import Service
from tests.rest_bridge.conftest import Bridge
from tests.rest_bridge.loopback import open_client, serve_http
from tests.rest_bridge.scripted import ScriptedService, chunk, summary
from tests.waiting import within

ENOUGH: dict[str, Any] = {"model_id": "gpt-2", "prompt": "Hello"}
GENERATIONS = [
    ("/generate", ENOUGH),
    ("/generate", ENOUGH | {"stream": True}),
    ("/generate_stream", ENOUGH),
]


async def post(
    url: str, path: str, body: object
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send a request over a new connection and leave the connection open."""
    data = json.dumps(body).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    writer.write(
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\n\r\n".encode()
        + data
    )
    return reader, writer


@pytest.mark.parametrize("abort", [False, True])
@pytest.mark.parametrize(("path", "body"), GENERATIONS)
async def test_a_disconnect_before_the_first_byte_cancels_the_call(
    bridge: Bridge,
    service: ScriptedService,
    caplog: pytest.LogCaptureFixture,
    path: str,
    body: dict[str, object],
    abort: bool,
) -> None:
    service.steps = [asyncio.Event()]
    _, writer = await post(bridge.url, path, body)
    async with within(10, "the service got no call"):
        await service.entered.wait()
    if abort:
        writer.transport.abort()
    else:
        writer.close()
    async with within(1, "the call of the service was not cancelled"):
        await service.cancelled.wait()
    assert (await bridge.client.get("/models")).status_code == 200
    assert "Exception" not in caplog.text


async def test_a_disconnect_after_the_first_event_cancels_the_call(
    bridge: Bridge, service: ScriptedService, caplog: pytest.LogCaptureFixture
) -> None:
    service.steps = [chunk("a"), asyncio.Event()]
    reader, writer = await post(bridge.url, "/generate_stream", ENOUGH)
    await reader.readuntil(b"event: chunk\n")
    writer.close()
    async with within(1, "the call of the service was not cancelled"):
        await service.cancelled.wait()
    assert (await bridge.client.get("/models")).status_code == 200
    assert "Exception" not in caplog.text


@pytest.mark.parametrize("path", ["/models:watch", "/models/gpt-2/logs"])
async def test_a_disconnect_from_a_quiet_stream_cancels_the_call(
    bridge: Bridge, service: ScriptedService, path: str
) -> None:
    """Nothing is written that could fail: only the disconnect ends it (connect-py#174)."""
    service.may_go_on.clear()
    reader, writer = await asyncio.open_connection("127.0.0.1", bridge.port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    writer.close()
    async with within(1, "the call of the service was not cancelled"):
        await service.cancelled.wait()


async def test_a_disconnect_while_the_bridge_waits_in_a_write_cancels_the_call(
    bridge: Bridge, service: ScriptedService
) -> None:
    service.steps = [chunk("x" * 100_000)] * 1000
    reader, writer = await post(bridge.url, "/generate_stream", ENOUGH)
    await reader.readuntil(b"event: chunk\n")
    writer.transport.abort()
    async with within(1, "the call of the service was not cancelled"):
        await service.cancelled.wait()


async def test_a_disconnect_leaves_other_calls_alone(
    bridge: Bridge, service: ScriptedService
) -> None:
    gate = asyncio.Event()
    service.steps = [chunk("a"), gate, summary("gpt-2")]
    async with bridge.client.stream("POST", "/generate_stream", json=ENOUGH) as response:
        received = response.aiter_text()
        await anext(received)
        reader, writer = await post(bridge.url, "/generate_stream", ENOUGH)
        await reader.readuntil(b"event: chunk\n")
        writer.close()
        async with within(10, "the call of the service was not cancelled"):
            await service.cancelled.wait()
        gate.set()
        rest = "".join([text async for text in received])
    assert rest.startswith("event: summary\n")


async def test_a_disconnect_during_the_body_logs_no_exception(
    bridge: Bridge, caplog: pytest.LogCaptureFixture
) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", bridge.port)
    writer.write(
        b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b'Content-Length: 100\r\n\r\n{"model_id'
    )
    await writer.drain()
    writer.transport.abort()
    assert (await bridge.client.get("/models")).status_code == 200
    assert "Exception" not in caplog.text


async def test_the_server_stops_while_requests_run(
    backend: Service,
    settings: Settings,
    service: ScriptedService,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Expect an answer to each at the end of the shutdown's time-out, and no traceback."""
    service.steps = [chunk("a"), asyncio.Event()]
    async with contextlib.AsyncExitStack() as stack:
        server = contextlib.AsyncExitStack()
        url = await server.enter_async_context(serve_http(create_app(backend, settings)))
        client = await stack.enter_async_context(open_client(url))
        unary = asyncio.create_task(client.post("/generate", json=ENOUGH))
        async with within(10, "the service got no call"):
            await service.entered.wait()
        response = await stack.enter_async_context(
            client.stream("POST", "/generate_stream", json=ENOUGH)
        )
        await server.aclose()
        rest = await response.aread()
        assert (await unary).status_code == 503
    detail = "the REST bridge is shutting down; retry when it is back"
    assert (await unary).json() == {"detail": detail}
    data = json.dumps({"detail": detail, "reason": "SHUTTING_DOWN"})
    assert rest.decode().endswith(f"event: error\ndata: {data}\n\n")
    assert "Traceback" not in caplog.text


async def test_the_server_stops_while_it_waits_in_a_write(
    backend: Service, settings: Settings, service: ScriptedService
) -> None:
    service.steps = [chunk("x" * 100_000)] * 1000
    async with serve_http(create_app(backend, settings)) as url:
        reader, writer = await post(url, "/generate_stream", ENOUGH)
        await reader.readuntil(b"event: chunk\n")
    async with within(1, "the call of the service was not cancelled"):
        await service.cancelled.wait()
    writer.transport.abort()
