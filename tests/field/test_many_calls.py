"""More calls at once than the service takes: each ends with a reason, and others are served.

gRPC itself cancels, without a word, what the loop has not taken yet, some calls from 1,000 on
(grpc.server.max_pending_requests).
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

import grpc
import pytest

from inference_service.api import listener
from inference_service.api.calls import Calls
from inference_service.v1 import model_service_pb2 as pb
from inference_service.v1 import model_service_pb2_grpc as pb_grpc
from rest_bridge.app import create_app
from rest_bridge.proxies import Proxies
from rest_bridge.settings import Settings
from tests.field.hostile import SERVICE, Http2, http2
from tests.rest_bridge.loopback import open_remote, serve_http
from tests.service import Serving, failure, serving
from tests.waiting import SLOWLY, until, within


@asynccontextmanager
async def client_of(target: str) -> AsyncGenerator[pb_grpc.ModelServiceAsyncStub]:
    """Give a stub with a connection of its own."""
    apart = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(target, options=apart) as channel:
        yield pb_grpc.ModelServiceStub(channel)


async def outcome(stub: pb_grpc.ModelServiceAsyncStub) -> str:
    try:
        await stub.GetInfo(pb.GetInfoRequest(), timeout=SLOWLY)
    except grpc.aio.AioRpcError as error:
        return f"{error.code().name} {failure(error).reason}"
    return "OK"


async def test_a_burst_of_calls_costs_no_call_of_anybody() -> None:
    async with serving() as service, AsyncExitStack() as stack:
        target = service.service.target
        greedy, modest = [await stack.enter_async_context(client_of(target)) for _ in range(2)]
        assert [await outcome(stub) for stub in (greedy, modest)] == ["OK", "OK"]

        burst = asyncio.gather(*(outcome(greedy) for _ in range(4000)))
        others = [await outcome(modest) for _ in range(50)]

        assert Counter(others) == {"OK": 50}
        assert Counter(await burst) == {"OK": 4000}


@pytest.fixture
async def small(monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Serving]:
    """Run a service that takes eight calls at once."""
    monkeypatch.setattr(Calls.__init__, "__defaults__", (Proxies(), 8))
    async with serving() as service:
        yield service


async def watches(client: Http2, count: int) -> None:
    for _ in range(count):
        client.call(f"{SERVICE}WatchModels", pb.WatchModelsRequest())
    await asyncio.sleep(0.3)


async def refused(target: str, source: str, *metadata: tuple[str, str]) -> str:
    """Make a call from an address of the loopback; return the reason of its end, or nothing."""
    async with http2(target, window=1 << 16, source=source) as client:
        stream = client.call(f"{SERVICE}GetInfo", pb.GetInfoRequest(), metadata)
        await until(lambda: stream in client.trailers, "no status came")
        ok = client.trailers[stream]["grpc-status"] == "0"
        return "" if ok else client.reason(stream)


async def test_one_address_has_half_and_the_next_half_of_the_rest(small: Serving) -> None:
    target = small.service.target
    async with AsyncExitStack() as stack:
        one, two = [
            await stack.enter_async_context(http2(target, window=1 << 16, source=source))
            for source in ("127.0.0.2", "127.0.0.3")
        ]
        await watches(one, 10)
        await until(lambda: len(one.trailers) == 6, "not six calls were refused")
        assert {one.reason(stream) for stream in one.trailers} == {"TOO_MANY_CALLS"}
        assert {status["grpc-status"] for status in one.trailers.values()} == {"8"}

        await watches(two, 3)
        await until(lambda: len(two.trailers) == 1, "not one call was refused")
        assert await refused(target, "127.0.0.2") == "TOO_MANY_CALLS"
        assert await refused(target, "127.0.0.4") == ""
    await asyncio.sleep(0.3)
    assert await refused(target, "127.0.0.2") == ""


async def test_answers_that_nobody_reads_are_open_calls(small: Serving) -> None:
    target = small.service.target
    async with http2(target, window=0, source="127.0.0.2") as client:
        for _ in range(6):
            client.call(f"{SERVICE}ListModels", pb.ListModelsRequest())
        await until(lambda: len(client.trailers) == 2, "not two calls were refused")
        assert await refused(target, "127.0.0.2") == "TOO_MANY_CALLS"
        assert await refused(target, "127.0.0.3") == ""


async def test_a_bridge_of_this_machine_divides_its_half_between_its_clients(
    small: Serving,
) -> None:
    target = small.service.target
    one, two = (("x-forwarded-for", address) for address in ("10.0.0.1", "10.0.0.2"))
    async with http2(target, window=1 << 16) as client:
        for _ in range(4):
            client.call(f"{SERVICE}WatchModels", pb.WatchModelsRequest(), [one])
        await until(lambda: len(client.trailers) == 2, "not two calls were refused")
        assert await refused(target, "127.0.0.1", one) == "TOO_MANY_CALLS"
        assert await refused(target, "127.0.0.1", two) == ""


async def status(url: str) -> str:
    """Return the HTTP status of GET /models over a connection of its own, with the reason."""
    host, port = url.removeprefix("http://").rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    answer = (await reader.read()).decode()
    writer.close()
    reason = re.search("x-error-reason: (.*)\r\n", answer, re.IGNORECASE)
    return answer[9:12] + (f" {reason[1]}" if reason else "")


@asynccontextmanager
async def bridged(service: Serving) -> AsyncGenerator[str]:
    """Run a bridge beside a service, and give its URL."""
    target = service.service.target
    async with (
        open_remote(target) as remote,
        serve_http(create_app(remote, Settings(target=target))) as url,
    ):
        yield url


async def test_a_burst_of_calls_of_a_bridge_costs_none() -> None:
    async with (
        serving() as service,
        bridged(service) as url,
        within(SLOWLY, "not every client had an answer"),
    ):
        answers = await asyncio.gather(*(status(url) for _ in range(3000)))

    assert Counter(answers) == {"200": 3000}


async def test_a_bridge_says_that_there_are_too_many_calls(small: Serving) -> None:
    target = small.service.target
    async with (
        bridged(small) as url,
        http2(target, window=1 << 16) as client,
    ):
        await watches(client, 4)
        assert await status(url) == "429 TOO_MANY_CALLS"


async def test_a_large_request_of_a_watch_is_not_kept(small: Serving) -> None:
    async with client_of(small.service.target) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            async for _ in stub.WatchModels(pb.WatchModelsRequest(model_id="m" * 100_000)):
                pass
    assert failure(error.value).reason == "REQUEST_TOO_LARGE"


async def test_a_connection_without_a_call_is_closed_and_its_client_does_not_notice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert dict(listener.OPTIONS)["grpc.max_connection_idle_ms"] == 300_000
    options = dict(listener.OPTIONS) | {"grpc.max_connection_idle_ms": 500}
    monkeypatch.setattr(listener, "OPTIONS", [*options.items()])
    async with serving() as service, client_of(service.service.target) as stub:
        async with http2(service.service.target) as client:
            assert await outcome(stub) == "OK"
            async with within(SLOWLY, "the idle connection was not closed"):
                await client.closed.wait()
        for _ in range(20):
            assert await outcome(stub) == "OK"
            await asyncio.sleep(0.1)
        await asyncio.sleep(1.5)
        assert await outcome(stub) == "OK"
