"""The service behind the proxies of docs/proxies.md, with the configuration that stands there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from grpc_health.v1 import health

from inference_service.api import callers, requests
from inference_service.serving.queue import Caller
from inference_service.v1 import model_service_pb2 as pb
from inference_service.v1 import model_service_pb2_grpc as pb_grpc
from rest_bridge import Settings, create_app
from tests.field import documented
from tests.field.documented import Proxy
from tests.rest_bridge.loopback import local, methods_of, serve_grpc, serve_http
from tests.rest_bridge.scripted import ScriptedService, chunk, summary
from tests.service import free_ports, serving
from tests.waiting import PROMPTLY, within

TINY: dict[str, Any] = {"model_id": "story-mini", "prompt": "Once", "max_new_tokens": 2}
OTHER = "127.0.0.8"


@dataclass(frozen=True)
class Behind:
    """A service behind a proxy, and the names of the callers that it saw."""

    proxy: Proxy
    names: list[str]


@pytest.fixture(params=["nginx", pytest.param("envoy", marks=pytest.mark.envoy)])
def run_proxy(request: pytest.FixtureRequest) -> Any:
    return getattr(documented, request.param)


@pytest.fixture
async def behind(
    run_proxy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Behind]:
    names: list[str] = []
    name = callers.caller

    def recorded(*given: Any) -> Caller:
        caller = name(*given)
        names.append(caller[-1])
        return caller

    monkeypatch.setattr(requests, "caller", recorded)
    allowed: dict[str, Any] = {"allowed_host": ["llm.example.org"], "trusted_proxy": ["127.0.0.1"]}
    async with serving(ports=free_ports(4), **allowed) as running:
        rest, rpc = (
            int(str(address).rpartition(":")[2])
            for address in (running.service.rest_url, running.service.target)
        )
        async with run_proxy(rest, rpc, tmp_path) as proxy:
            yield Behind(proxy, names)


async def test_both_faces_are_at_one_port(behind: Behind) -> None:
    async with behind.proxy.http() as client, behind.proxy.channel() as channel:
        stub: pb_grpc.ModelServiceAsyncStub = pb_grpc.ModelServiceStub(channel)

        rest = (await client.post("/generate", json=TINY)).json()["generated_text"]
        rpc = await stub.Generate(pb.GenerateRequest(**TINY))
        assert rest.startswith("Once")
        assert rpc.generated_text.startswith("Once")

        streamed = [event async for event in stub.GenerateStream(pb.GenerateStreamRequest(**TINY))]
        assert streamed[-1].HasField("summary")


async def test_the_events_of_a_watch_come_at_once(behind: Behind) -> None:
    async with (
        within(PROMPTLY, "the snapshot of a watch did not come"),
        behind.proxy.http() as client,
        client.stream("GET", "/models:watch") as answer,
    ):
        lines = answer.aiter_lines()
        while await anext(lines) != "event: snapshot_done":
            pass


async def test_a_long_prompt_comes_through(behind: Behind) -> None:
    """By default nginx refuses bodies above 1 MB, with a page of HTML."""
    long = {**TINY, "prompt": "Once " * 500_000}
    async with behind.proxy.http() as client, behind.proxy.channel() as channel:
        answer = await client.post("/generate", json=long)
        assert answer.headers["x-error-reason"] == "PROMPT_TOO_LONG"

        answer = await client.post("/generate", json={**TINY, "prompt": "Once " * 850_000})
        assert answer.headers["x-error-reason"] == "REQUEST_TOO_LARGE"

        stub: pb_grpc.ModelServiceAsyncStub = pb_grpc.ModelServiceStub(channel)
        with pytest.raises(Exception, match="context"):
            await stub.Generate(pb.GenerateRequest(**long))


async def test_callers_are_kept_apart_and_cannot_name_themselves(behind: Behind) -> None:
    named = {"X-Caller": "me", "X-Forwarded-For": "6.6.6.6"}
    for peer in (OTHER, "127.0.0.9"):
        async with behind.proxy.http(peer) as client:
            await client.post("/generate", json=TINY, headers=named)
    assert behind.names == [OTHER, "127.0.0.9"]

    metadata = tuple((name.lower(), value) for name, value in named.items())
    async with behind.proxy.channel() as channel:
        stub: pb_grpc.ModelServiceAsyncStub = pb_grpc.ModelServiceStub(channel)
        await stub.Generate(pb.GenerateRequest(**TINY), metadata=metadata)
    assert behind.names[-1] not in ("me", "ipv4:127.0.0.1")


async def test_the_page_of_the_documentation_may_call(behind: Behind) -> None:
    origin = behind.proxy.origin
    async with behind.proxy.http() as client:
        for port in ("", ":8443"):
            headers = {"Host": f"llm.example.org{port}", "Origin": f"{origin}{port}"}
            answer = await client.post("/models/story-mini/stop", headers=headers)
            assert answer.status_code == 404  # the model does not run

        headers = {"Host": "llm.example.org", "Origin": "https://evil.test"}
        answer = await client.post("/models/story-mini/stop", headers=headers)
        assert answer.status_code == 403

        answer = await client.get("/models", headers={"Host": "evil.test"})
        assert answer.status_code == 421


@asynccontextmanager
async def slow_service() -> AsyncGenerator[tuple[int, int]]:
    """Serve texts that take longer than any proxy waits by default; give both ports."""
    service, ready = ScriptedService(), asyncio.Event()
    service.steps = [ready, chunk("Hi", 1), summary("gpt-2")]
    methods = methods_of(service, health.aio.HealthServicer())
    asyncio.get_running_loop().call_later(63, ready.set)
    async with (
        serve_grpc(methods) as target,
        serve_http(create_app(local(methods, target), Settings(target=target))) as url,
    ):
        yield int(url.rpartition(":")[2]), int(target.rpartition(":")[2])


@pytest.mark.slow
async def test_a_start_may_take_minutes(run_proxy: Any, tmp_path: Path) -> None:
    """By default nginx cuts a quiet answer after 60 s, and Envoy after 15 s."""
    body: dict[str, Any] = {"model_id": "gpt-2", "prompt": "Once"}
    async with (
        slow_service() as (rest, rpc),
        run_proxy(rest, rpc, tmp_path) as proxy,
        proxy.http() as client,
        proxy.channel() as channel,
    ):
        stub: pb_grpc.ModelServiceAsyncStub = pb_grpc.ModelServiceStub(channel)
        answer, streamed, text = await asyncio.gather(
            client.post("/generate", json=body),
            client.post("/generate_stream", json=body),
            stub.Generate(pb.GenerateRequest(**body)),
        )

    assert (answer.status_code, streamed.status_code) == (200, 200)
    assert text.generated_text
