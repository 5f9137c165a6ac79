"""The service as a user meets it: gRPC and REST over loopback, story-mini in a real engine."""

from __future__ import annotations

import asyncio
import socket

import grpc
import httpx
import pytest

from inference_service.api import addresses
from inference_service.api.addresses import BindError
from inference_service.v1 import model_service_pb2 as pb
from rest_bridge.http import Server
from tests.service import PROMPT, Serving, engines, failure, free, free_ports, serving


async def test_the_documented_rest_calls_give_the_documented_answers(service: Serving) -> None:
    http = service.http
    ids = "gpt-2 tiny-llama phi-2 mistral-7b llama-2-7b falcon-7b story-mini".split()
    assert (await http.get("/")).json() == {
        "message": "LLM Inference API",
        "models": ids,
        "running_containers": [],
    }

    started = await http.post("/models/story-mini/start")
    again = await http.post("/models/story-mini/start")

    port = service.service.models.find("story-mini").status.port
    assert (started.status_code, started.json()) == (
        200,
        {
            "message": "Container for story-mini started",
            "port": port,
            "container_name": "tgi-story-mini",
        },
    )
    assert again.json() == started.json()
    assert (await http.get("/models")).json()["models"][-2:] == [
        {
            "id": "falcon-7b",
            "name": "falcon-7b",
            "hf_name": "tiiuae/falcon-7b-instruct",
            "running": False,
        },
        {"id": "story-mini", "name": "story-mini", "hf_name": "story-mini", "running": True},
    ]
    assert (await http.get("/")).json()["running_containers"] == ["story-mini"]

    text = await http.post("/generate", json={"model_id": "story-mini", "prompt": PROMPT})
    assert text.status_code == 200
    assert list(text.json()) == ["generated_text", "model_id"]
    assert text.json()["generated_text"].startswith(PROMPT)
    assert len(text.json()["generated_text"]) > len(PROMPT) + 20
    assert text.json()["model_id"] == "story-mini"

    stopped = await http.post("/models/story-mini/stop")
    assert (stopped.status_code, stopped.json()) == (
        200,
        {"message": "Container for story-mini stopped"},
    )
    missing = await http.post("/models/story-mini/stop")
    assert (missing.status_code, missing.json()) == (404, {"detail": "story-mini is not running"})
    assert missing.headers["x-error-reason"] == "CONTAINER_NOT_RUNNING"


async def test_the_documented_python_example_runs_as_written(service: Serving) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        response = await client.post(
            f"{service.service.rest_url}/generate",
            json={"model_id": "story-mini", "prompt": "What is AI?", "max_new_tokens": 100},
        )
        assert response.json()["generated_text"].startswith("What is AI?")


async def test_the_end_of_the_service_leaves_no_process_and_no_port() -> None:
    async with serving(ports=free_ports(4)) as service:
        port = (await service.stub.StartModel(pb.StartModelRequest(model_id="story-mini"))).port

    assert engines() == []
    assert free(port)


async def test_a_service_of_another_name_begins_at_another_port() -> None:
    first = free_ports(8)
    async with serving(ports=first, service_name="blue") as service:
        started = await service.http.post("/models/story-mini/start")

    assert started.json()["port"] == int(first.partition("-")[0]) + 4


async def test_shutdown_lets_a_stream_finish_and_refuses_new_calls() -> None:
    async with serving(ports=free_ports(4)) as service:
        request = pb.GenerateStreamRequest(model_id="story-mini", prompt=PROMPT, max_new_tokens=400)
        stream = aiter(service.stub.GenerateStream(request))
        await anext(stream)
        closing = asyncio.create_task(service.service.models.close(30))
        await asyncio.sleep(0)

        with pytest.raises(grpc.aio.AioRpcError) as error:
            await service.stub.Generate(pb.GenerateRequest(model_id="story-mini", prompt="x"))
        events = [event async for event in stream]
        await closing

    assert failure(error.value).reason == "SHUTTING_DOWN"
    assert events[-1].WhichOneof("event") == "summary"


async def test_two_services_do_not_share_a_grpc_port(service: Serving) -> None:
    taken = int(service.service.target.rpartition(":")[2])
    with pytest.raises(BindError, match="--grpc-port"):
        async with serving(grpc_port=taken):
            pass
    rest = httpx.URL(service.service.rest_url or "").port
    with pytest.raises(BindError, match="--rest-port"):
        async with serving(rest_port=rest):
            pass


async def test_a_service_whose_bridge_cannot_serve_does_not_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def start(*_: object) -> None:
        raise OSError("no more file handles")

    monkeypatch.setattr(Server, "start", start)

    with pytest.raises(OSError, match="no more file handles"):
        async with serving():
            pass


def test_connections_to_rest_wait_for_no_acknowledgement() -> None:
    with (
        addresses.bound("REST", "127.0.0.1", 0) as bound,
        socket.create_connection(bound.getsockname()),
        bound.accept()[0] as connection,
    ):
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
