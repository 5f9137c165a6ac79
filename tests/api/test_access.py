"""The access log of gRPC, on a service that runs."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator

import grpc
import pytest

from inference_service.v1 import model_service_pb2 as pb
from tests.service import PROMPT, Serving, free_ports, serving
from tests.waiting import PROMPTLY, until

LOGGER = "inference_service.api.access"
SERVICE = "/inference_service.v1.ModelService"
LINE = r'(?:127\.0\.0\.1|\[::1\]):\d+ - "gRPC {}" {} \d+\.\d{{3}} s'


@pytest.fixture
async def service(caplog: pytest.LogCaptureFixture) -> AsyncGenerator[Serving]:
    caplog.set_level("INFO", LOGGER)
    async with serving(ports=free_ports(4), access_log=True) as service:
        yield service


async def lines(caplog: pytest.LogCaptureFixture, count: int) -> list[str]:
    """Return the lines of the log, once there are so many: a call may end before its line."""

    def found() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.name == LOGGER]

    await until(lambda: len(found()) >= count, "a call was not logged", PROMPTLY)
    return found()


async def test_each_call_is_a_line_without_keys_and_texts(
    service: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    secret = (("authorization", "Bearer a-secret-key"), ("x-caller", "a-name"))
    request = pb.GenerateRequest(model_id="story-mini", prompt=PROMPT, max_new_tokens=3)
    await service.stub.Generate(request, metadata=secret)
    with pytest.raises(grpc.aio.AioRpcError):
        await service.stub.GetModel(pb.GetModelRequest(model_id='no\nsuch"one'))
    stream = pb.GenerateStreamRequest(model_id="story-mini", prompt=PROMPT, max_new_tokens=3)
    assert [event async for event in service.stub.GenerateStream(stream, metadata=secret)]

    found = await lines(caplog, 3)
    for (method, code), line in zip(
        (
            ("Generate story-mini", "OK"),
            ("GetModel no\\nsuch%22one", "NOT_FOUND"),
            ("GenerateStream story-mini", "OK"),
        ),
        found,
        strict=True,
    ):
        assert re.fullmatch(LINE.format(re.escape(f"{SERVICE}/{method}"), code), line), line
    assert not [word for word in ("secret", "a-name", PROMPT) if word in caplog.text]


async def test_a_call_that_its_caller_leaves(
    service: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    call = service.stub.WatchModels(pb.WatchModelsRequest())
    await call.read()
    call.cancel()
    (line,) = await lines(caplog, 1)
    assert re.fullmatch(LINE.format(f"{SERVICE}/WatchModels", "CANCELLED"), line), line


async def test_a_method_that_is_not_there(
    service: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        await service.channel.unary_unary("/no.such/Method")(b"")  # type: ignore[arg-type]
    (line,) = await lines(caplog, 1)
    assert re.fullmatch(LINE.format("/no.such/Method", "UNIMPLEMENTED"), line), line


async def test_requests_of_rest_are_logged_too(
    service: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "rest_bridge.access")
    assert (await service.http.get("/models")).status_code == 200
    assert '"GET /models HTTP/1.1" 200' in caplog.text
    assert LOGGER not in {record.name for record in caplog.records}


async def test_it_is_off_by_default(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", LOGGER)
    async with serving(ports=free_ports(4)) as service:
        await service.stub.ListModels(pb.ListModelsRequest())
        await service.http.get("/models")
    assert LOGGER not in {record.name for record in caplog.records}
    assert "rest_bridge.access" not in {record.name for record in caplog.records}
