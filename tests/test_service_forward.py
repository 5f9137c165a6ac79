"""Forward over loopback, to a real llama.cpp with story-mini."""

from __future__ import annotations

import asyncio
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
from tests.waiting import PROMPTLY, SLOWLY, until, within


@pytest.fixture
async def service(tmp_path: Path) -> AsyncGenerator[Serving]:
    weights = kinds.catalog().find("story-mini").needs(LlamacppNeeds).weights.path
    path = tmp_path / "catalog.toml"
    path.write_text(
        '[[models]]\nid = "mine"\nhf_name = "org/Mine"\naliases = ["gpt-4o-mini"]\n'
        "context_length = 512\n[models.llamacpp]\nslots = 1\n"
        f'memory = "256MiB"\nweights.path = "{weights}"\n'
    )
    async with serving(catalog=path, ports=free_ports(4)) as service:
        yield service


def request(path: str = "/v1/completions", body: Any = None, **fields: Any) -> pb.ForwardRequest:
    """Return a request for a short text, or with this body."""
    if body is None:
        body = {"model": "mine", "prompt": PROMPT, "max_tokens": 8, "temperature": 0}
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return pb.ForwardRequest(**{"model_id": "mine", "path": path, "body": data} | fields)


async def answer(service: Serving, message: pb.ForwardRequest) -> tuple[pb.ForwardHead, bytes]:
    """Return the head and the body, which come in this order and alone."""
    async with within(SLOWLY, "the answer did not end"):
        events = [event async for event in service.stub.Forward(message)]
    assert [event.WhichOneof("event") for event in events[:2]] == ["head", "data"]
    assert all(event.data for event in events[1:])
    return events[0].head, b"".join(event.data for event in events[1:])


async def refused(service: Serving, message: pb.ForwardRequest) -> tuple[str, str]:
    """Return the reason and the message of the refusal."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await answer(service, message)
    failed = failure(error.value)
    return failed.reason, failed.message


async def test_an_answer_comes_as_the_engine_has_sent_it(service: Serving) -> None:
    head, body = await answer(service, request())
    assert (head.status, head.content_type) == (200, "application/json; charset=utf-8")
    completion = json.loads(body)
    same = pb.GenerateRequest(model_id="mine", prompt=PROMPT, max_new_tokens=8, temperature=0)
    same.return_full_text = False
    text = (await service.stub.Generate(same)).generated_text
    assert completion["choices"][0]["text"] == text
    assert completion["model"] == "mine"
    assert completion["usage"]["completion_tokens"] == 8


async def test_a_stream_is_a_stream(service: Serving) -> None:
    body = {"model": "mine", "prompt": PROMPT, "max_tokens": 300, "stream": True, "temperature": 0}
    events = aiter(service.stub.Forward(request(body=body)))
    assert (await anext(events)).head.content_type.startswith("text/event-stream")
    first = (await anext(events)).data
    assert first.startswith(b"data: ")
    rest = [event.data async for event in events]
    assert rest
    assert b"".join(rest).endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("name", ["mine", "gpt-4o-mini", "org/Mine"])
async def test_the_body_may_use_any_name_of_the_model(service: Serving, name: str) -> None:
    body = {"model": name, "prompt": PROMPT, "max_tokens": 2}
    head, _ = await answer(service, request(body=body, model_id=name))
    assert head.status == 200


async def test_what_the_engine_refuses_comes_as_its_answer(service: Serving) -> None:
    head, body = await answer(service, request("/infill", {"input_prefix": "a"}))
    assert head.status == 501
    assert "Infill is not supported" in json.loads(body)["error"]["message"]


async def test_other_paths_and_methods_of_the_engine(service: Serving) -> None:
    head, body = await answer(service, request("/tokenize", {"content": "Once upon"}))
    assert (head.status, len(json.loads(body)["tokens"]) > 0) == (200, True)
    head, body = await answer(service, request("/v1/models", b"", method="GET"))
    assert json.loads(body)["object"] == "list"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"method": "DELETE"}, "method must be POST or GET, not 'DELETE'"),
        ({"body": b"{"}, "body must be a JSON object: "),
        ({"body": b"[1]"}, "body must be a JSON object: "),
        ({"body": b'{"a": ' + b"[" * 100_000 + b"}"}, "body must be a JSON object: "),
        ({"body": {"model": 7, "prompt": PROMPT}}, "model must be a string"),
        ({"body": b'{"prompt": "x", "model": "a\xa2"}'}, "model is not UTF-8"),
        ({"body": b'{"a\xa2": 1}'}, "body is not UTF-8: "),
        ({"body": {"model": "story-mini", "prompt": ""}}, "'story-mini' is not a name of mine"),
        ({"path": "/tokenize", "body": b""}, "content is missing"),
        ({"path": "/detokenize", "body": b"{}"}, "tokens is missing"),
        ({"accept": "a\r\nX-Api-Key: b"}, "must have no line breaks"),
    ],
)
async def test_bad_requests(service: Serving, fields: Any, words: str) -> None:
    reason, message = await refused(service, request(**fields))
    assert reason == "INVALID_PARAMETER"
    assert words in message
    assert not (await service.stub.GetModel(pb.GetModelRequest(model_id="mine"))).model.running


@pytest.mark.parametrize("path", ["/slots", "/v1/completions?x=1", "../x"])
async def test_paths_that_no_engine_offers(service: Serving, path: str) -> None:
    reason, message = await refused(service, request(path))
    assert reason == "PATH_NOT_OFFERED"
    assert message.startswith(f"no model offers {path}; mine offers /v1/models, ")


async def test_the_model_of_the_body_is_enough(service: Serving) -> None:
    head, _ = await answer(service, request(model_id=""))
    assert head.status == 200
    for body in ({"prompt": PROMPT}, b""):
        reason, message = await refused(service, request(model_id="", body=body))
        assert (reason, message) == (
            "INVALID_PARAMETER",
            "model is missing: name one of those that are served",
        )


async def test_unknown_models(service: Serving) -> None:
    assert (await refused(service, request(model_id="x")))[0] == "MODEL_NOT_FOUND"
    asked = request(body={"model": "x", "prompt": PROMPT})
    assert (await refused(service, asked))[0] == "MODEL_NOT_FOUND"


async def test_status_events_come_before_the_head(service: Serving) -> None:
    stream = service.stub.Forward(request(status_events=True))
    kinds_of = [event.WhichOneof("event") async for event in stream]
    assert kinds_of[0] == "status"
    assert kinds_of.count("head") == 1
    assert set(kinds_of[kinds_of.index("head") + 1 :]) == {"data"}


async def test_a_caller_who_leaves_frees_the_slot(service: Serving) -> None:
    body = {"model": "mine", "prompt": PROMPT, "max_tokens": 480, "stream": True}
    call = service.stub.Forward(request(body=body))
    assert (await anext(aiter(call))).head.status == 200
    call.cancel()
    async with within(PROMPTLY, "the slot did not become free"):
        head, _ = await answer(service, request())
    assert head.status == 200
    model = service.service.models.find("mine")
    await until(lambda: model.view().active_count == 0, "a request is left")


async def test_a_stop_ends_an_answer_with_its_reason(service: Serving) -> None:
    body = {"model": "mine", "prompt": PROMPT, "max_tokens": 480, "stream": True}
    call = aiter(service.stub.Forward(request(body=body)))
    assert (await anext(call)).head.status == 200
    stop = pb.StopModelRequest(model_id="mine")
    stop.drain_timeout.FromSeconds(0)
    stopping = asyncio.ensure_future(service.stub.StopModel(stop))
    with pytest.raises(grpc.aio.AioRpcError) as error:
        async for _ in call:
            pass
    assert failure(error.value).reason == "MODEL_STOPPED"
    await stopping
