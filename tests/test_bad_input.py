"""Bad input, over gRPC and REST: one clear error each, and the next request succeeds."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2

from inference_service.v1 import model_service_pb2 as pb
from tests.service import Serving, failure, free_ports, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

GOOD: dict[str, Any] = {"model_id": "story-mini", "prompt": "Once upon a time", "max_new_tokens": 3}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service() -> AsyncGenerator[Serving]:
    async with serving(ports=free_ports(4)) as running:
        yield running


# Of both protocols: the change to a good request, the reason, and a part of the message.
REFUSED = [
    pytest.param({"model_id": "gpt_2"}, "MODEL_NOT_FOUND", "did you mean 'gpt-2'", id="near id"),
    pytest.param({"model_id": "a/b"}, "MODEL_NOT_FOUND", "no model 'a/b'", id="id with a slash"),
    pytest.param({"model_id": "../.."}, "MODEL_NOT_FOUND", "no model '../..'", id="id with dots"),
    pytest.param({"model_id": "x" * 10_000}, "MODEL_NOT_FOUND", "xxx...'", id="endless id"),
    pytest.param({"model_id": ""}, "MODEL_NOT_FOUND", "no model ''", id="empty id"),
    pytest.param({"prompt": ""}, "INVALID_PARAMETER", "prompt must not be empty", id="no prompt"),
    pytest.param(
        {"prompt": "word " * 600}, "PROMPT_TOO_LONG", "reads fewer than 512", id="long prompt"
    ),
    pytest.param(
        {"prompt": "word " * 200_000}, "PROMPT_TOO_LONG", "have at most 7168", id="1 MB prompt"
    ),
    pytest.param({"temperature": -0.1}, "INVALID_PARAMETER", "temperature must be", id="t -0.1"),
    pytest.param({"temperature": 2.1}, "INVALID_PARAMETER", "0.0 to 2.0, not 2.1", id="t 2.1"),
    pytest.param({"top_p": 0.0}, "INVALID_PARAMETER", "top_p must be above 0.0", id="top_p 0"),
    pytest.param({"top_p": 1.1}, "INVALID_PARAMETER", "at most 1.0, not 1.1", id="top_p 1.1"),
    pytest.param({"max_new_tokens": 0}, "INVALID_PARAMETER", "from 1 to 512", id="0 tokens"),
    pytest.param({"max_new_tokens": -1}, "INVALID_PARAMETER", "not -1", id="-1 tokens"),
    pytest.param({"max_new_tokens": 513}, "INVALID_PARAMETER", "not 513", id="513 tokens"),
    pytest.param({"top_k": 0}, "INVALID_PARAMETER", "top_k must be from 1", id="top_k 0"),
    pytest.param(
        {"repetition_penalty": 0.0}, "INVALID_PARAMETER", "repetition_penalty", id="penalty 0"
    ),
    pytest.param({"seed": -1}, "INVALID_PARAMETER", "seed must be from 0", id="seed -1"),
    pytest.param({"stop": ["a"] * 5}, "INVALID_PARAMETER", "at most 4", id="5 stops"),
    pytest.param({"stop": [""]}, "INVALID_PARAMETER", "each of 1 to 1000", id="empty stop"),
    pytest.param({"stop": ["x" * 1001]}, "INVALID_PARAMETER", "each of 1 to 1000", id="long stop"),
]

ACCEPTED = [
    pytest.param({"temperature": 0.0}, id="temperature 0"),
    pytest.param({"temperature": 2.0}, id="temperature 2"),
    pytest.param({"top_p": 1.0}, id="top_p 1"),
    pytest.param({"max_new_tokens": 512}, id="as many tokens as the context"),
    pytest.param({"prompt": " "}, id="a blank"),
    pytest.param({"prompt": "naïve 🦙 \u0000 \u202e"}, id="odd characters"),
    pytest.param({"stop": ["the", "."]}, id="stops"),
    pytest.param({"stop": ["\x01" * 1000, "🦙" * 1000, "x" * 1000, "y"]}, id="long stops"),
    pytest.param({"seed": 2147483647}, id="largest seed"),
]

JSON = {"content-type": "application/json"}
HTTP = {"MODEL_NOT_FOUND": 404, "INVALID_PARAMETER": 422, "PROMPT_TOO_LONG": 422}
CODE = {
    404: grpc.StatusCode.NOT_FOUND,
    422: grpc.StatusCode.INVALID_ARGUMENT,
}


async def check_good(service: Serving) -> None:
    assert (await service.http.post("/generate", json=GOOD)).status_code == 200


@pytest.mark.parametrize(("change", "reason", "message"), REFUSED)
async def test_refused_over_rest(
    service: Serving, change: dict[str, Any], reason: str, message: str
) -> None:
    for path in ("/generate", "/generate_stream"):
        response = await service.http.post(path, json=GOOD | change)

        assert response.status_code == HTTP[reason]
        assert list(response.json()) == ["detail"]
        assert message in response.json()["detail"]
        assert len(response.json()["detail"]) < 300
        assert response.headers["x-error-reason"] == reason
    await check_good(service)


@pytest.mark.parametrize(("change", "reason", "message"), REFUSED)
async def test_refused_over_grpc(
    service: Serving, change: dict[str, Any], reason: str, message: str
) -> None:
    request = GOOD | change
    with pytest.raises(grpc.aio.AioRpcError) as unary:
        await service.stub.Generate(pb.GenerateRequest(**request))
    with pytest.raises(grpc.aio.AioRpcError) as stream:
        async for _ in service.stub.GenerateStream(pb.GenerateStreamRequest(**request)):
            pass

    for error in (unary, stream):
        failed = failure(error.value)
        assert (failed.reason, failed.code) == (reason, CODE[HTTP[reason]])
        assert message in failed.message
        if reason != "MODEL_NOT_FOUND":
            bad = failed.details["BadRequest"]
            assert isinstance(bad, error_details_pb2.BadRequest)
            assert bad.field_violations[0].field in change
    await check_good(service)


async def test_five_mistakes_are_five_violations(service: Serving) -> None:
    wrong: dict[str, Any] = {"temperature": 3, "top_p": 0, "top_k": -1, "seed": -2, "prompt": ""}
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await service.stub.Generate(pb.GenerateRequest(**GOOD | wrong))

    bad = failure(error.value).details["BadRequest"]
    assert isinstance(bad, error_details_pb2.BadRequest)
    assert {each.field for each in bad.field_violations} == wrong.keys()
    for each in bad.field_violations:
        assert each.description.startswith(f"{each.field} must ")


async def test_half_of_an_emoji_is_no_text(service: Serving) -> None:
    """As grpc-js, Java and JSON send a text that was cut between the halves of a character."""
    words = "prompt is not UTF-8: it has another encoding, or half"
    good = pb.GenerateRequest(model_id="story-mini", prompt="My llama abc").SerializeToString()
    data = good.replace(b"abc", b"\xed\xa0\xbe")
    path = "/inference_service.v1.ModelService"
    unary: Any = service.channel.unary_unary(f"{path}/Generate")
    stream: Any = service.channel.unary_stream(f"{path}/GenerateStream")
    for call in (unary(data), anext(aiter(stream(data)))):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call
        failed = failure(error.value)
        assert (failed.code, failed.reason) == (CODE[422], "INVALID_PARAMETER")
        assert failed.message.startswith(words)
        bad = failed.details["BadRequest"]
        assert isinstance(bad, error_details_pb2.BadRequest)
        assert [each.field for each in bad.field_violations] == ["prompt"]
    for text in (b"My llama \\ud83e", b"My llama \xf0\x9f", b"x" * 9000 + b"\\ud83e"):
        body = b'{"model_id": "story-mini", "prompt": "%b"}' % text
        answer = await service.http.post("/generate", content=body, headers=JSON)
        assert (answer.status_code, answer.json()["detail"][: len(words)]) == (422, words)
    for path in ("/v1/chat/completions", "/api/chat"):
        body = b'{"model": "story-mini", "messages": [{"role": "user", "content": "\\ud83e"}]}'
        answer = await service.http.post(path, content=body, headers=JSON)
        assert answer.status_code == 400
        assert "messages[0].content is not UTF-8: " in answer.text
    await check_good(service)


@pytest.mark.parametrize("change", ACCEPTED)
async def test_accepted_over_both(service: Serving, change: dict[str, Any]) -> None:
    request = GOOD | change

    rest = await service.http.post("/generate", json=request)
    rpc = await service.stub.Generate(pb.GenerateRequest(**request))

    assert rest.status_code == 200
    assert rest.json()["generated_text"].startswith(request["prompt"])
    assert rpc.generated_text.startswith(request["prompt"])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("field", ["temperature", "top_p", "repetition_penalty"])
async def test_numbers_that_are_not_finite(service: Serving, field: str, value: float) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await service.stub.Generate(pb.GenerateRequest(**GOOD, **{field: value}))  # type: ignore[arg-type]
    assert failure(error.value).reason == "INVALID_PARAMETER"

    body = f'{{"model_id": "story-mini", "prompt": "x", "{field}": NaN}}'
    response = await service.http.post(
        "/generate", content=body, headers={"content-type": "application/json"}
    )
    assert (response.status_code, response.headers["x-error-reason"]) == (422, "INVALID_PARAMETER")
    assert field in response.json()["detail"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        pytest.param({"temperature": "hot"}, "temperature", id='temperature "hot"'),
        pytest.param({"max_new_tokens": "10"}, "max_new_tokens", id='max_new_tokens "10"'),
        pytest.param({"max_new_tokens": 10**12}, "max_new_tokens", id="max_new_tokens 10^12"),
        pytest.param({"max_new_tokens": 1.5}, "max_new_tokens", id="max_new_tokens 1.5"),
        pytest.param({"prompt": 7}, "prompt", id="prompt 7"),
        pytest.param({"prompt": None}, "prompt", id="prompt null"),
        pytest.param({"model_id": None}, "model_id", id="model_id null"),
        pytest.param({"max_tokens": 3}, "max_tokens", id="unknown field"),
    ],
)
async def test_types_that_only_json_can_get_wrong(
    service: Serving, change: dict[str, Any], field: str
) -> None:
    response = await service.http.post("/generate", json=GOOD | change)

    assert (response.status_code, response.headers["x-error-reason"]) == (422, "INVALID_PARAMETER")
    assert field in response.json()["detail"]
    await check_good(service)


@pytest.mark.parametrize("field", ["model_id", "prompt"])
async def test_a_missing_field_is_named(service: Serving, field: str) -> None:
    body = {key: value for key, value in GOOD.items() if key != field}
    response = await service.http.post("/generate", json=body)

    assert response.status_code == 422
    assert field in response.json()["detail"]


async def test_a_null_for_an_optional_field_is_its_default(service: Serving) -> None:
    optional = dict.fromkeys(("temperature", "top_p", "top_k", "seed", "stop"))
    response = await service.http.post("/generate", json=GOOD | optional)

    assert response.status_code == 200


@pytest.mark.parametrize("action", ["start", "stop"])
@pytest.mark.parametrize(
    "path", ["a/b", "a%2Fb", "%2e%2e%2f%2e%2e", "x" * 10_000, "gpt_2", "GPT-2", "%00", " "]
)
async def test_model_ids_in_paths(service: Serving, action: str, path: str) -> None:
    response = await service.http.post(f"/models/{path}/{action}")

    assert response.status_code == 404
    assert response.headers["x-error-reason"] == "MODEL_NOT_FOUND"
    assert response.json()["detail"].startswith("no model ")


async def test_a_stop_of_a_model_that_does_not_run(service: Serving) -> None:
    response = await service.http.post("/models/gpt-2/stop")
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await service.stub.StopModel(pb.StopModelRequest(model_id="gpt-2"))

    assert (response.status_code, response.json()) == (404, {"detail": "gpt-2 is not running"})
    assert failure(error.value).code is grpc.StatusCode.NOT_FOUND
    assert failure(error.value).reason == "CONTAINER_NOT_RUNNING"


@pytest.mark.parametrize("seconds", [-1, 3601])
async def test_a_drain_out_of_bounds(service: Serving, seconds: int) -> None:
    drain = duration_pb2.Duration(seconds=seconds)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await service.stub.StopModel(pb.StopModelRequest(model_id="gpt-2", drain_timeout=drain))

    assert failure(error.value).reason == "INVALID_PARAMETER"
    assert "0 to 3600 s" in failure(error.value).message


async def test_a_request_of_50_mb(service: Serving) -> None:
    prompt = "x" * 50_000_000
    response = await service.http.post("/generate", json=GOOD | {"prompt": prompt})
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await service.stub.Generate(pb.GenerateRequest(model_id="story-mini", prompt=prompt))

    assert (response.status_code, response.headers["x-error-reason"]) == (413, "REQUEST_TOO_LARGE")
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await check_good(service)
