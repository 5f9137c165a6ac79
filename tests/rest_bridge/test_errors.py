"""Errors on REST."""

import asyncio
from typing import Any
from urllib.parse import quote

import grpc
import pytest
from google.rpc.status_pb2 import Status

from inference_service.v1.errors_pb2 import ErrorReason, error_rule
from rest_bridge import Settings, create_app
from tests.rest_bridge.conftest import Bridge
from tests.rest_bridge.loopback import free_port, open_client, open_remote, serve_http
from tests.rest_bridge.scripted import ScriptedService, failure

ENOUGH: dict[str, Any] = {"model_id": "gpt-2", "prompt": "Hello"}
ENDPOINTS = [
    ("GET", "/", None),
    ("GET", "/models", None),
    ("POST", "/models/gpt-2/start", None),
    ("POST", "/models/gpt-2/stop", None),
    ("POST", "/catalog:reload", None),
    ("POST", "/generate", ENOUGH),
    ("POST", "/generate", ENOUGH | {"stream": True}),
    ("POST", "/generate_stream", ENOUGH),
]
RULES = {
    value.name.removeprefix("ERROR_REASON_"): value.GetOptions().Extensions[error_rule]
    for value in ErrorReason.DESCRIPTOR.values
    if value.number
}


@pytest.mark.parametrize("reason", RULES)
async def test_each_reason_has_its_status_on_each_endpoint(
    bridge: Bridge, service: ScriptedService, reason: str
) -> None:
    service.failure = failure(reason, f"a sentence about {reason}")
    for method, path, body in ENDPOINTS:
        response = await bridge.client.request(method, path, json=body)
        assert response.status_code == RULES[reason].http_status
        assert response.json() == {"detail": f"a sentence about {reason}"}
        assert response.headers["content-type"] == "application/json"
        assert response.headers["x-error-reason"] == reason
        assert "retry-after" not in response.headers


@pytest.mark.parametrize(
    ("retry_after", "header"), [(0.0, "0"), (0.001, "1"), (12.0, "12"), (12.5, "13")]
)
async def test_retry_after_is_rounded_up(
    bridge: Bridge, service: ScriptedService, retry_after: float, header: str
) -> None:
    service.failure = failure("START_BACKING_OFF", "soon", retry_after=retry_after)
    response = await bridge.client.post("/models/gpt-2/start")
    assert response.headers["retry-after"] == header


async def test_a_reason_of_a_newer_service(bridge: Bridge, service: ScriptedService) -> None:
    known = failure("ENGINE_OVERLOADED", "not today")
    new = Status()
    new.ParseFromString(
        known.SerializeToString().replace(b"ENGINE_OVERLOADED", b"ENGINE_OVERHEATED")
    )
    service.failure = new
    response = await bridge.client.get("/")
    assert (response.status_code, response.json()) == (500, {"detail": "not today"})
    assert response.headers["x-error-reason"] == "ENGINE_OVERHEATED"


@pytest.mark.parametrize(
    ("code", "message", "http_status", "reason"),
    [
        (grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", 504, "GENERATION_TIMEOUT"),
        (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "SERVER: Received message larger than max (5 vs. 4)",
            413,
            "REQUEST_TOO_LARGE",
        ),
        (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "received metadata size exceeds hard limit (18013 vs. 16384)",
            413,
            "REQUEST_TOO_LARGE",
        ),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "too many pings", 500, "INTERNAL"),
        (grpc.StatusCode.UNAVAILABLE, "Socket closed", 503, "SERVICE_UNREACHABLE"),
        (grpc.StatusCode.UNIMPLEMENTED, "Method not found!", 500, "INTERNAL"),
        (grpc.StatusCode.CANCELLED, "", 429, "TOO_MANY_CALLS"),
        (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "Too many pending requests for this server",
            429,
            "TOO_MANY_CALLS",
        ),
        (grpc.StatusCode.UNKNOWN, "Unexpected <class 'KeyError'>", 500, "INTERNAL"),
    ],
    ids=str,
)
async def test_a_status_without_a_reason(
    bridge: Bridge,
    service: ScriptedService,
    code: grpc.StatusCode,
    message: str,
    http_status: int,
    reason: str,
) -> None:
    service.failure = Status(code=code.value[0], message=message)
    for method, path, body in ENDPOINTS:
        response = await bridge.client.request(method, path, json=body)
        assert response.status_code == http_status
        assert response.headers["x-error-reason"] == reason
        assert list(response.json()) == ["detail"]


async def test_a_service_that_does_not_answer() -> None:
    settings = Settings(target=f"127.0.0.1:{free_port()}")
    async with (
        open_remote(settings.target) as remote,
        serve_http(create_app(remote, settings)) as url,
        open_client(url) as client,
    ):
        for method, path, body in ENDPOINTS:
            response = await client.request(method, path, json=body)
            assert response.status_code == 503
            assert response.json() == {
                "detail": f"the service at {settings.target} does not answer; start it, or give "
                "the bridge its address with --target"
            }


@pytest.mark.parametrize("path", ["/nothing", "/models/", "/generate/", "/models//state", "//"])
async def test_unknown_paths(bridge: Bridge, path: str) -> None:
    response = await bridge.client.get(bridge.url + path)
    assert response.status_code == 404
    assert response.json() == {"detail": f"no endpoint GET {path}; GET /docs shows all"}
    assert response.headers["x-error-reason"] == "INVALID_PARAMETER"


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", "/", "GET"),
        ("DELETE", "/models", "GET"),
        ("GET", "/generate", "POST"),
        ("PUT", "/generate_stream", "POST"),
        ("GET", "/models/gpt-2/start", "POST"),
        ("OPTIONS", "/generate", "POST"),
    ],
)
async def test_other_methods(bridge: Bridge, method: str, path: str, allow: str) -> None:
    response = await bridge.client.request(method, path)
    assert response.status_code == 405
    assert response.json() == {"detail": f"no endpoint {method} {path}; GET /docs shows all"}
    assert response.headers["allow"] == allow
    assert response.headers["x-error-reason"] == "INVALID_PARAMETER"


async def test_a_bug_of_the_bridge(bridge: Bridge, caplog: pytest.LogCaptureFixture) -> None:
    bridge.app.state.service = None
    response = await bridge.client.get("/")
    assert response.status_code == 500
    assert response.json() == {"detail": "a fault of the REST bridge; its log has the details"}
    assert response.headers["x-error-reason"] == "INTERNAL"
    assert "AttributeError: 'NoneType' object has no attribute 'answer'" in caplog.text


@pytest.mark.parametrize(
    "model_id",
    ["..", ".", "a/b", "a//b", "../../etc/passwd", "start", "x/start", "é ü", "a?b#c", ""],
)
@pytest.mark.parametrize("action", ["start", "stop"])
@pytest.mark.parametrize("quoted", [True, False])
async def test_any_text_can_be_a_model_id(
    bridge: Bridge, service: ScriptedService, model_id: str, action: str, quoted: bool
) -> None:
    """Send the path over a raw socket, because HTTP clients normalize paths."""
    path = quote(model_id, safe="" if quoted else "/")
    reader, writer = await asyncio.open_connection("127.0.0.1", bridge.port)
    request = (
        f"POST /models/{path}/{action} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )
    writer.write(request.encode())
    response = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert response.startswith(b"HTTP/1.1 404 ")
    assert b"x-error-reason: MODEL_NOT_FOUND\r\n" in response
    assert [message.model_id for message in service.received] == [model_id]


async def test_a_very_long_model_id(bridge: Bridge, service: ScriptedService) -> None:
    response = await bridge.client.post(f"/models/{'x' * 10_000}/start")
    assert response.status_code == 404
    assert response.headers["x-error-reason"] == "MODEL_NOT_FOUND"
    assert [len(message.model_id) for message in service.received] == [10_000]
