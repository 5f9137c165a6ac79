"""No request holds the loop, whatever is in it, and with a thousand models in the catalog.

The loop serves gRPC and REST: what holds it stops every caller. Reports of the kind: FastAPI with
large bodies, vLLM whose API server validates them in its loop.
"""

from __future__ import annotations

import http.client
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from inference_service.v1 import model_service_pb2 as pb
from inference_service.v1 import model_service_pb2_grpc as pb_grpc
from tests.field.loop import Watch, watched
from tests.service import Serving, serving

MOST = 4 << 20  # bytes of a request
MOST_FORWARDED = 32 << 20
FIELDS = '"model_id":"story-mini","prompt":"Hi","max_new_tokens":1'


def filled(begin: str, unit: str, end: str, most: int = MOST) -> bytes:
    """Repeat the unit, whose last comma goes, until the whole is as large as a request may be."""
    count = (most - len(begin) - len(end)) // len(unit)
    return ((begin + unit * count).removesuffix(",") + end).encode()


BODIES = {
    "numbers for strings": filled(f'{{{FIELDS},"stop":[', "1,", "]}"),
    "objects for strings": filled(f'{{{FIELDS},"stop":[', "{},", "]}"),
    "lists in lists": filled(f'{{{FIELDS},"stop":[', "[" * 100 + "]" * 100 + ",", "]}"),
    "a list without an end": filled(f'{{{FIELDS},"stop":', "[", ""),
    "a million strings": filled(f'{{{FIELDS},"stop":[', '"",', "]}"),
    "other fields": b"{" + b",".join(b'"%d":1' % i for i in range(380_000)) + b"}",
    "a field a million times": filled("{", '"prompt":"a",', '"model_id":"story-mini"}'),
    "a wrong field a million times": filled("{", '"prompt":1,', '"model_id":"story-mini"}'),
    "a list": filled("[", "1,", "]"),
    "a long number": filled(f'{{{FIELDS},"seed":', "1", "}"),
    "blanks": filled("{", " ", "}"),
    "escapes": filled('{"model_id":"story-mini","prompt":"', "\\u00e9", '"}'),
    "a long prompt": filled('{"model_id":"story-mini","prompt":"', "x", '"}'),
    "a long id": filled('{"prompt":"Hi","model_id":"', "x", '"}'),
    "mistakes in a small one": f'{{{FIELDS},"stop":[{"1," * 3900}1]}}'.encode(),
}


def write_catalog(path: Path, count: int, memory: str = "1GB") -> None:
    entries = [
        f'[[models]]\nid = "model-{i:04}-instruct"\nhf_name = "org/model-{i}"\n'
        f"context_length = 2048\n[models.tgi]\n"
        f'weights = {{ repo = "org/model-{i}" }}\nmemory = "{memory}"\n'
        for i in range(count)
    ]
    path.write_text("".join(entries))


@asynccontextmanager
async def large(folder: Path) -> AsyncGenerator[Serving]:
    """Run a service of a thousand models."""
    write_catalog(folder / "catalog.toml", 1000)
    async with serving(catalog=folder / "catalog.toml", state_dir=folder) as service:
        yield service


def sender(service: Serving) -> Callable[..., Callable[[], int]]:
    """Return what makes a request of REST, whose answer is read to its end."""
    url = urlsplit(service.service.rest_url or "")

    def make(method: str, path: str, body: bytes = b"", until: bytes = b"") -> Callable[[], int]:
        def send() -> int:
            connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=60)
            try:
                connection.request(method, path, body, {"content-type": "application/json"})
                answer = connection.getresponse()
                assert answer.status < 502
                for line in answer:
                    if until and until in line:
                        break
                return answer.status
            finally:
                connection.close()

        return send

    return make


async def hold(watch: Watch, cases: dict[str, Callable[[], Any]]) -> None:
    """Fail with each case that holds the loop."""
    stalls = {name: await watch.stall(ask) for name, ask in cases.items()}
    assert {name: stall for name, stall in stalls.items() if stall} == {}


async def test_bodies_of_rest(tmp_path: Path) -> None:
    async with large(tmp_path) as service:
        request = sender(service)
        with watched() as watch:
            await hold(
                watch,
                {name: request("POST", "/generate", body) for name, body in BODIES.items()}
                | {"a stream": request("POST", "/generate_stream", BODIES["numbers for strings"])},
            )


IMAGE = (
    '"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:x;base64,'
)


def forwarded(model: str, begin: str, unit: str, end: str, most: int = MOST_FORWARDED) -> bytes:
    return filled(f'{{"model":"{model}",{begin}', unit, f"{end}}}", most)


async def test_bodies_of_the_dialects(tmp_path: Path) -> None:
    """A body of 32 MiB is looked at whole, and goes on to an engine if it is an image."""
    bodies = {
        name: forwarded("story-mini", *parts)
        for name, parts in {
            "an image": (IMAGE, "a", '"}}]}]'),
            "a text": ('"prompt":"', "a", '"'),
            "numbers": ('"prompt":[', "1,", "]"),
            "objects": ('"messages":[', "{},", "]"),
            "lists": ('"input":[', "[1,1,1,1,1,1,1],", "]"),
            "a list without an end": ('"prompt":', "[", ""),
            "fields": ("", '"a":1,', ""),
            "escapes": ('"prompt":"', "\\u003c", '"'),
            "control tokens": ('"prompt":"', "<|", '"'),
            "another model": ('"prompt":"', "a", '"'),
        }.items()
    }
    few = ('"messages":[', '{"content":[{"source":{}}]},', "]")
    bodies["many messages"] = forwarded("story-mini", *few, 6 << 20)
    bodies["tokens"] = forwarded("story-mini", '"input":[', "12345678,", "]", 8 << 20)
    bodies["another model"] = bodies["another model"].replace(b"story-mini", b"nobody")
    paths = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/api/chat")
    async with large(tmp_path) as service:
        request = sender(service)
        assert (await service.http.post("/models/story-mini/start")).status_code == 200
        with watched() as watch:
            await hold(
                watch,
                {
                    f"{name} at {path}": request("POST", path, body)
                    for path in paths
                    for name, body in bodies.items()
                },
            )


async def test_routes_of_rest(tmp_path: Path) -> None:
    unknown = b'{"model_id":"model-0500-instructor","prompt":"Hi"}'
    async with large(tmp_path) as service:
        request = sender(service)
        paths = ("/", "/models", "/docs", "/openapi.json", "/health", "/" + "a" * 60_000)
        with watched() as watch:
            await hold(
                watch,
                {path[:20]: request("GET", path) for path in paths}
                | {
                    "an unknown id": request("POST", "/generate", unknown),
                    "all models": request("GET", "/models:watch", until=b"snapshot_done"),
                },
            )


async def test_messages_of_grpc(tmp_path: Path) -> None:
    def asked(call: Any, message: Any) -> Callable[[], None]:
        def ask() -> None:
            try:
                call(message, timeout=60)
            except grpc.RpcError as error:
                assert error.code() in (
                    grpc.StatusCode.INVALID_ARGUMENT,
                    grpc.StatusCode.NOT_FOUND,
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                )

        return ask

    def snapshot() -> None:
        changes = stub.WatchModels(pb.WatchModelsRequest(), timeout=60)
        for change in changes:
            if change.WhichOneof("event") == "snapshot_done":
                changes.cancel()
                return

    async with large(tmp_path) as service:
        with grpc.insecure_channel(service.service.target) as channel, watched() as watch:
            stub: Any = pb_grpc.ModelServiceStub(channel)
            health: Any = health_pb2_grpc.HealthStub(channel)
            stops = [""] * 2_000_000
            long = "x" * (MOST - 1000)
            await hold(
                watch,
                {
                    "two million stops": asked(
                        stub.Generate,
                        pb.GenerateRequest(model_id="story-mini", prompt="Hi", stop=stops),
                    ),
                    "a long prompt": asked(
                        stub.Generate, pb.GenerateRequest(model_id="story-mini", prompt=long)
                    ),
                    "a long id": asked(stub.GetModel, pb.GetModelRequest(model_id=long)),
                    "an unknown id": asked(
                        stub.GetModel, pb.GetModelRequest(model_id="model-0500-instructor")
                    ),
                    "all models": asked(stub.ListModels, pb.ListModelsRequest()),
                    "names": asked(stub.GetInfo, pb.GetInfoRequest()),
                    "a snapshot": snapshot,
                    "health": asked(health.Check, health_pb2.HealthCheckRequest(service=long)),
                },
            )


@pytest.mark.parametrize("count", [1000, 1])
async def test_a_reload_that_changes_all_models(tmp_path: Path, count: int) -> None:
    async with large(tmp_path) as service:
        request = sender(service)
        sizes = iter(range(2, 10))

        def reload() -> None:
            write_catalog(tmp_path / "catalog.toml", 1000, "1GB")
            assert request("POST", "/catalog:reload")() == 200
            write_catalog(tmp_path / "catalog.toml", count, f"{next(sizes)}GB")
            assert request("POST", "/catalog:reload")() == 200

        with watched() as watch:
            await hold(watch, {"a reload": reload})
