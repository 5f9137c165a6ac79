"""Requests that the bridge refuses before they reach the service."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from inference_service.v1 import model_service_pb2 as pb
from rest_bridge.large_body import SMALL
from tests.rest_bridge.conftest import Bridge
from tests.rest_bridge.scripted import ScriptedService
from tests.waiting import within

JSON = {"content-type": "application/json"}
LIMIT = 4 * 1024 * 1024
FIELDS = (
    "model_id, prompt, max_new_tokens, temperature, top_p, top_k, repetition_penalty, seed, stop, "
    "return_full_text, stream"
)


@pytest.fixture
def transport() -> str:
    """Use one transport: the bridge refuses most of these requests itself."""
    return "wire"


def with_field(field: str) -> str:
    return '{"model_id": "gpt-2", "prompt": "Hello", ' + field + "}"


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (with_field('"max_new_tokens": "10"'), 'max_new_tokens must be a whole number, not "10"'),
        (with_field('"max_new_tokens": true'), "max_new_tokens must be a whole number, not true"),
        (with_field('"max_new_tokens": 1.5'), "max_new_tokens must be a whole number, not 1.5"),
        (with_field('"seed": []'), "seed must be a whole number, not []"),
        (with_field('"top_k": NaN'), "top_k must be a whole number, not NaN"),
        (
            with_field('"max_new_tokens": 2147483648'),
            "max_new_tokens must be at most 2147483647, not 2147483648",
        ),
        (
            with_field('"seed": -2147483649'),
            "seed must be at least -2147483648, not -2147483649",
        ),
        (
            with_field(f'"seed": 1{"0" * 200}'),
            f"seed must be at most 2147483647, not 1{'0' * 38}…",
        ),
        (with_field('"temperature": "0.7"'), 'temperature must be a number, not "0.7"'),
        (with_field('"temperature": false'), "temperature must be a number, not false"),
        (with_field('"temperature": NaN'), "temperature must be a finite number, not NaN"),
        (with_field('"top_p": -Infinity'), "top_p must be a finite number, not -Infinity"),
        (with_field('"top_p": 1e400'), "top_p must be a finite number, not Infinity"),
        (with_field('"stop": "."'), 'stop must be a list of strings, not "."'),
        (with_field('"stop": ["a", 1]'), "stop[1] must be a string, not 1"),
        (with_field('"stream": 1'), "stream must be true or false, not 1"),
        (
            with_field('"return_full_text": "no"'),
            'return_full_text must be true or false, not "no"',
        ),
        (with_field('"max_tokens": 5'), f'"max_tokens" is not a field; the fields are {FIELDS}'),
        ('{"model_id": "gpt-2"}', "prompt is required"),
        ("{}", "model_id is required; prompt is required"),
        ('{"model_id": null, "prompt": "a"}', "model_id must be a string, not null"),
        ('{"model_id": "gpt-2", "prompt": 5}', "prompt must be a string, not 5"),
        ('{"model_id": {"a": "é"}, "prompt": "a"}', 'model_id must be a string, not {"a": "é"}'),
        ("[]", "the body must be a JSON object, not []"),
        ("null", "the body must be a JSON object, not null"),
        ('"text"', 'the body must be a JSON object, not "text"'),
    ],
    ids=lambda value: value[:60],
)
async def test_a_field_that_does_not_fit(
    bridge: Bridge, service: ScriptedService, body: str, detail: str
) -> None:
    response = await bridge.client.post("/generate", content=body, headers=JSON)
    assert (response.status_code, response.json()) == (422, {"detail": detail})
    assert response.headers["x-error-reason"] == "INVALID_PARAMETER"
    assert service.received == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"prompt=Hello",
        b"\xff\xfe",
        '{"model_id": "gpt-2", "prompt": "Hello"}'.encode("utf-16"),
        b'{"model_id": "gpt-2", "prompt": "Hello"} {}',
        b'{"model_id": "gpt-2", "prompt": "Hello",}',
        b'{"model_id": "gpt-2", "prompt": "Hello", "seed": ' + b"9" * 5000 + b"}",
        b"[" * 1000,
    ],
    ids=lambda value: repr(value[:40]),
)
async def test_not_json(bridge: Bridge, service: ScriptedService, body: bytes) -> None:
    response = await bridge.client.post("/generate", content=body, headers=JSON)
    assert response.status_code == 422
    assert list(response.json()) == ["detail"]
    assert response.json()["detail"].startswith("the body is not valid JSON: ")
    assert service.received == []


@pytest.mark.parametrize(
    "text", [b"\xff", b"\\ud800", b"\\ude00\\ud83d", b"x" * 10_000 + b"\xf0\x9f"]
)
async def test_a_text_that_is_not_utf8(
    bridge: Bridge, service: ScriptedService, text: bytes
) -> None:
    body = b'{"model_id": "gpt-2", "prompt": "%b"}' % text
    response = await bridge.client.post("/generate", content=body, headers=JSON)
    assert response.status_code == 422
    assert response.json()["detail"].startswith("prompt is not UTF-8: ")
    assert service.received == []


async def test_only_the_first_of_many_problems_are_reported(bridge: Bridge) -> None:
    body = {f"field{i}": i for i in range(100)}
    response = await bridge.client.post("/generate", json=body)
    detail = response.json()["detail"]
    assert detail.startswith("model_id is required; prompt is required; ")
    assert detail.endswith("; and more")
    assert detail.count("; the fields are") == 3


async def test_streams_have_no_full_text(bridge: Bridge, service: ScriptedService) -> None:
    body = {"model_id": "gpt-2", "prompt": "Hello", "return_full_text": True}
    response = await bridge.client.post("/generate_stream", json=body)
    assert response.status_code == 422
    response = await bridge.client.post("/generate", json=body | {"stream": True})
    assert response.status_code == 422
    assert response.json() == {"detail": "return_full_text cannot be true with stream"}
    assert service.received == []


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", None],
)
async def test_other_content_types(
    bridge: Bridge, service: ScriptedService, content_type: str | None
) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    body = b'{"model_id": "gpt-2", "prompt": "Hello"}'
    response = await bridge.client.post("/generate", content=body, headers=headers)
    assert response.status_code == 415
    assert response.json() == {
        "detail": f"the content type must be application/json, not {content_type or 'none'}"
    }
    assert response.headers["x-error-reason"] == "INVALID_PARAMETER"
    assert service.received == []


async def test_a_content_type_with_a_charset(bridge: Bridge) -> None:
    body = b'{"model_id": "gpt-2", "prompt": "Hello"}'
    headers = {"content-type": "Application/JSON; charset=utf-8"}
    response = await bridge.client.post("/generate", content=body, headers=headers)
    assert response.status_code == 200


async def test_the_largest_body(bridge: Bridge, service: ScriptedService) -> None:
    frame = '{"model_id":"gpt-2","prompt":""}'
    prompt = "x" * (LIMIT - len(frame))
    body = frame.replace('""', f'"{prompt}"')
    response = await bridge.client.post("/generate", content=body, headers=JSON)
    assert response.status_code == 200
    assert service.received == [pb.GenerateRequest(model_id="gpt-2", prompt=prompt)]

    response = await bridge.client.post("/generate", content=body + " ", headers=JSON)
    assert response.status_code == 413
    assert len(service.received) == 1


async def zeros(size: int) -> AsyncIterator[bytes]:
    for _ in range(size // 65536):
        yield bytes(65536)


@pytest.mark.parametrize("chunked", [False, True])
async def test_fifty_megabytes_are_refused_and_the_connection_lives(
    bridge: Bridge, service: ScriptedService, chunked: bool
) -> None:
    size = 50 * 1024 * 1024
    headers = JSON if chunked else JSON | {"content-length": str(size)}
    response = await bridge.client.post("/generate", content=zeros(size), headers=headers)
    assert response.status_code == 413
    assert response.json() == {"detail": "the body must have at most 4194304 bytes"}
    assert response.headers["x-error-reason"] == "REQUEST_TOO_LARGE"
    assert service.received == []
    assert (await bridge.client.get("/models")).status_code == 200


@pytest.mark.parametrize(
    "header", [b"Content-Length: 52428800", b"Transfer-Encoding: chunked"], ids=repr
)
async def test_the_refusal_does_not_wait_for_the_body(bridge: Bridge, header: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", bridge.port)
    writer.write(
        b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        + header
        + b"\r\n\r\n"
    )
    if b"chunked" in header:
        writer.write(b"%x\r\n%s\r\n" % (LIMIT + 1, bytes(LIMIT + 1)))
    async with within(10, "the bridge did not refuse the body"):
        status_line = await reader.readline()
    assert status_line.startswith(b"HTTP/1.1 413 ")
    writer.close()
    await writer.wait_closed()


async def test_a_client_that_waits_for_100_continue_is_refused_before_its_body(
    bridge: Bridge,
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", bridge.port)
    writer.write(
        b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: 52428800\r\nExpect: 100-continue\r\n\r\n"
    )
    async with within(10, "the bridge did not refuse the body"):
        status_line = await reader.readline()
    assert status_line.startswith(b"HTTP/1.1 413 ")
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (with_field('"stop": [1]'), "stop[0] must be a string, not a whole number"),
        (with_field('"stop": "."'), "stop must be a list of strings, not a string"),
        (with_field('"stop": ["a", "b", "c", "d", "e"]'), "stop must have at most 4 items, not 5"),
        (with_field('"seed": 1.5'), "seed must be a whole number, not 1.5"),
        (with_field('"seed": 2147483648'), "seed must be at most 2147483647, not 2147483648"),
        (with_field('"top_p": 1e400'), "top_p: number out of range"),
        (with_field('"more": 1'), f"'more' is not a field; the fields are {FIELDS}"),
        ('{"model_id": "gpt-2"}', "prompt is required"),
        ("[1]", "the body must be a JSON object, not a list of strings"),
    ],
)
async def test_the_first_mistake_of_a_large_body(
    bridge: Bridge, service: ScriptedService, body: str, detail: str
) -> None:
    response = await bridge.client.post("/generate", content=body + " " * SMALL, headers=JSON)
    assert (response.status_code, response.json()) == (422, {"detail": detail})
    assert service.received == []


@pytest.mark.parametrize("body", [b"{", b"{} {}", b'{"stop": NaN}'])
async def test_a_large_body_that_is_no_json(bridge: Bridge, body: bytes) -> None:
    response = await bridge.client.post("/generate", content=b" " * SMALL + body, headers=JSON)
    assert response.status_code == 422
    assert response.json()["detail"].startswith("the body is not valid JSON: ")


async def test_a_large_body_has_the_fields_of_a_small_one(
    bridge: Bridge, service: ScriptedService
) -> None:
    fields = {
        "model_id": "gpt-2",
        "prompt": "Hello",
        "max_new_tokens": 5.0,  # a whole number to JSON Schema
        "temperature": 1,
        "stop": ["a", "b"],
        "seed": None,
        "return_full_text": False,
    }
    for blanks in (0, SMALL):
        await bridge.client.post(
            "/generate", content=json.dumps(fields) + " " * blanks, headers=JSON
        )
    small, large = service.received
    assert small == large
