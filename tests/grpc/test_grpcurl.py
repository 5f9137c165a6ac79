"""The real grpcurl, by reflection and with the files of the contract."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.grpc.programs import DESCRIPTORS, MODES, grpcurl, run
from tests.service import PROMPT, Serving, free_ports, serving

pytestmark = pytest.mark.grpc

SERVICE = "inference_service.v1.ModelService"
GREEDY = {"model_id": "story-mini", "prompt": PROMPT, "temperature": 0, "max_new_tokens": 8}


@pytest.fixture
async def service() -> AsyncIterator[Serving]:
    async with serving(ports=free_ports(4)) as service:
        yield service


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    """Name the way in which grpcurl learns the contract."""
    mode: str = request.param
    return mode


async def described(mode: str, target: str, symbol: str) -> str:
    shown = await grpcurl(mode, target, "describe", symbol)
    assert shown.code == 0, shown.err
    return shown.out


async def test_reflection_lists_every_service_and_its_methods(service: Serving) -> None:
    services = await grpcurl("reflection", service.service.target, "list")
    methods = await grpcurl("reflection", service.service.target, "list", SERVICE)

    assert services.out.split() == [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        SERVICE,
    ]
    assert f"{SERVICE}.Generate" in methods.out.split()


async def test_the_whole_contract_is_described_in_the_same_way(service: Serving) -> None:
    whole = await run("grpcurl", "-plaintext", service.service.target, "describe")
    packed = await run("grpcurl", "-protoset", DESCRIPTORS, "describe")

    assert (whole.code, whole.err) == (packed.code, packed.err) == (0, "")
    assert sorted(whole.out.splitlines()) == sorted(packed.out.splitlines())  # a set has no order


@pytest.mark.parametrize(
    ("symbol", "text", "comment"),
    [
        (
            f"{SERVICE}.Generate",
            "rpc Generate ( .inference_service.v1.GenerateRequest ) returns",
            "Generates the whole text",
        ),
        ("inference_service.v1.Model.last_error", ".ModelError last_error", "is FAILED"),
        ("inference_service.v1.ModelError", "repeated string log_lines", "oldest first"),
        ("inference_service.v1.ERROR_REASON_INTERNAL", "= 16", "A fault of this service"),
        ("inference_service.v1.error_rule", "error_rule = 51127", "The rule of"),
    ],
)
async def test_each_symbol_is_described_with_its_comment(
    service: Serving, mode: str, symbol: str, text: str, comment: str
) -> None:
    shown = await described(mode, service.service.target, symbol)

    assert text in shown and comment in shown


async def test_a_method_shows_its_rule(service: Serving) -> None:
    for mode in ("reflection", "protoset"):
        shown = await described(mode, service.service.target, f"{SERVICE}.Generate")
        assert 'post: "/generate"' in shown


async def test_a_call_has_the_same_json_in_each_mode(service: Serving) -> None:
    answers = []
    for mode in MODES:
        called = await grpcurl(
            mode, service.service.target, f"{SERVICE}/Generate", data=json.dumps(GREEDY)
        )
        assert called.code == 0, called.err
        answer = json.loads(called.out)
        for time in ("startDuration", "totalDuration"):
            answer["summary"].pop(time)
        answers.append(answer)

    assert answers[0]["generatedText"].startswith(PROMPT)
    assert answers[0]["summary"]["completionTokenCount"] == 8
    assert answers == [answers[0]] * len(MODES)


async def test_a_stream_ends_with_its_summary(service: Serving, mode: str) -> None:
    called = await grpcurl(
        mode, service.service.target, f"{SERVICE}/GenerateStream", data=json.dumps(GREEDY)
    )

    messages = list(several(called.out))
    assert called.code == 0 and "summary" in messages[-1]
    assert all("chunk" in message for message in messages[:-1])


def several(text: str) -> Any:
    """Yield the values of a text with one JSON after another."""
    decoder = json.JSONDecoder()
    while text := text.lstrip():
        value, end = decoder.raw_decode(text)
        yield value
        text = text[end:]


async def test_an_error_has_its_details(service: Serving, mode: str) -> None:
    """Without the set nothing tells grpcurl the types of details, so it shows their bytes."""
    called = await grpcurl(
        mode,
        service.service.target,
        f"{SERVICE}/GetModel",
        data='{"model_id": "nobody"}',
        flags=["-format-error"],
    )

    assert called.code == 64 + 5  # NOT_FOUND
    status = json.loads(called.err)
    assert status["message"].startswith("no model")
    [info] = status["details"]
    if mode == "proto":
        assert b"MODEL_NOT_FOUND" in base64.b64decode(info["@value"])
    else:
        assert (info["reason"], info["domain"]) == ("MODEL_NOT_FOUND", "inference-service")


async def test_health_is_asked_by_reflection(service: Serving) -> None:
    asked = await grpcurl("reflection", service.service.target, "grpc.health.v1.Health/Check")

    assert json.loads(asked.out) == {"status": "SERVING"}
