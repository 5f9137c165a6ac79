"""Models that serve embeddings or scores, through the service and a real llama.cpp."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import grpc
import pytest

from inference_service.engines import kinds
from inference_service.engines.llamacpp.section import LlamacppNeeds
from inference_service.v1 import model_service_pb2 as pb
from tests.service import PROMPT, Serving, failure, free_ports, serving
from tests.waiting import SLOWLY, within
from tests.worker.bert import bert

ENTRY = """
[[models]]
id = "{id}"
hf_name = "org/{id}"
context_length = 512
[models.llamacpp]
memory = "256MiB"
weights.path = "{path}"
"""


@pytest.fixture
async def service(tmp_path: Path) -> AsyncGenerator[Serving]:
    story = kinds.catalog().find("story-mini").needs(LlamacppNeeds).weights.path
    ranks = tmp_path / "ranks.gguf"
    ranks.write_bytes(bert(None, head=True))
    catalog = tmp_path / "catalog.toml"
    catalog.write_text(
        ENTRY.format(id="texts", path=story)
        + ENTRY.format(id="vectors", path=story)
        + 'serves = "embeddings"\npooling = "mean"\n'
        + ENTRY.format(id="ranks", path=ranks)
        + 'serves = "rerank"\n'
    )
    async with serving(catalog=catalog, ports=free_ports(4)) as service:
        yield service


async def ask(service: Serving, model: str, path: str, body: Any) -> Any:
    message = pb.ForwardRequest(model_id=model, path=path, body=json.dumps(body).encode())
    async with within(SLOWLY, "the answer did not end"):
        events = [event async for event in service.stub.Forward(message)]
    assert events[0].head.status == 200
    return json.loads(b"".join(event.data for event in events[1:]))


async def running(service: Serving, model: str) -> bool:
    return bool((await service.stub.GetModel(pb.GetModelRequest(model_id=model))).model.running)


async def test_embeddings(service: Serving) -> None:
    body = {"model": "vectors", "input": ["a dog", "a cat"]}
    answer = await ask(service, "vectors", "/v1/embeddings", body)
    assert answer["model"] == "vectors"
    assert [len(item["embedding"]) for item in answer["data"]] == [192, 192]
    assert (await ask(service, "vectors", "/tokenize", {"content": "a"}))["tokens"]


async def test_rerank(service: Serving) -> None:
    body = {"model": "ranks", "query": "cat", "documents": ["a dog", "a cat", "rug"]}
    answer = await ask(service, "ranks", "/v1/rerank", body)
    assert {result["index"] for result in answer["results"]} == {0, 1, 2}


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("texts", "/v1/embeddings"),
        ("texts", "/v1/rerank"),
        ("vectors", "/v1/rerank"),
        ("vectors", "/v1/chat/completions"),
        ("vectors", "/v1/completions"),
        ("vectors", "/completion"),
        ("vectors", "/apply-template"),
        ("ranks", "/v1/embeddings"),
        ("ranks", "/v1/messages"),
    ],
)
async def test_a_model_does_one_thing(service: Serving, model: str, path: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await ask(service, model, path, {"input": "a"})
    failed = failure(error.value)
    assert failed.reason == "PATH_NOT_OFFERED"
    assert f"{model} does not offer {path}; models that do: " in failed.message
    assert not await running(service, model)


@pytest.mark.parametrize(
    ("model", "path"), [("vectors", "/v1/embeddings"), ("ranks", "/v1/rerank")]
)
async def test_a_model_that_makes_no_text_is_not_started_for_one(
    service: Serving, model: str, path: str
) -> None:
    for call in (
        service.stub.Generate(pb.GenerateRequest(model_id=model, prompt=PROMPT)),
        anext(aiter(service.stub.GenerateStream(pb.GenerateStreamRequest(model_id=model)))),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call
        failed = failure(error.value)
        assert failed.reason == "INVALID_PARAMETER"
        assert f"model_id names {model}, which makes no text: it answers at" in failed.message
        assert path in failed.message
    assert not await running(service, model)
