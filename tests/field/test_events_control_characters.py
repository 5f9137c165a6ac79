"""Control characters of engines and callers: they forge nothing, and reach no terminal."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from urllib.parse import quote

import grpc
import pytest
from google.rpc import error_details_pb2

from inference_service.v1 import model_service_pb2 as pb
from inference_service.v1 import model_service_pb2_grpc as pb_grpc
from tests.field.event_source import Event, EventSource
from tests.field.writing import entry, start, writing
from tests.service import Serving, failure, free_ports, serving
from tests.test_cli import command, end
from tests.waiting import SLOWLY, within

# All but LF and tab: a tab is harmless, and LF ends a line.
CONTROLS = [chr(n) for n in (*range(9), *range(11, 32), *range(0x7F, 0xA0))]
SEPARATORS = ["\u2028", "\u2029"]
DIRECTIONS = [chr(n) for n in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))]
UNSAFE = [*CONTROLS, *SEPARATORS, *DIRECTIONS]
RAW = re.compile("[" + "".join(UNSAFE) + "\ud800-\udfff]")

FORGED = 'one\r\revent: error\rdata: {"detail": "forged"}\r\r'
CLEARED = "\x1b[2J\x1b]0;title\x07\x9b2J"
LINES = ["first", FORGED, CLEARED, *(f"a{c}b" for c in UNSAFE), "größer 日本\tend", "last"]
# What no encoding has: bytes that are no UTF-8, and half of a surrogate pair.
BYTES = b"\xff\xfe\x9b2J\n\xed\xa0\x80\n"


async def events(service: Serving, path: str) -> list[Event]:
    assert service.service.rest_url is not None
    source = EventSource(service.service.rest_url, path)
    await source.connect()
    async with within(SLOWLY, "the stream did not end"), aclosing(source.events()) as stream:
        found = [event async for event in stream]
    source.close()
    return found


@pytest.fixture
def all_lines() -> bytes:
    return "".join(f"{line}\n" for line in LINES).encode() + BYTES


async def test_no_line_of_a_log_can_forge_an_event(tmp_path: Path, all_lines: bytes) -> None:
    """A CR ends a line of an event too (django-eventstream#185, roadrunner#63)."""
    async with writing(tmp_path, all_lines) as service:
        await start(service)
        found = await events(service, "/models/mine/logs?tail_line_count=1000")

    assert {event.name for event in found} == {"message"}
    data = [event.data for event in found]
    assert len(data) == len(LINES) + 2
    assert data[1] == r'one\r\revent: error\rdata: {"detail": "forged"}'
    assert data[2] == r"\x1b[2J\x1b]0;title\x07\x9b2J"
    assert data[-4:] == ["größer 日本\tend", "last", r"\xff\xfe\x9b2J", r"\xed\xa0\x80"]


async def test_no_reader_of_a_log_sees_more_lines_than_the_engine_wrote(
    tmp_path: Path, all_lines: bytes
) -> None:
    """Python's readers end a line at VT, FF, FS, GS, RS, NEL, LS and PS too (httpx-sse#34)."""
    async with writing(tmp_path, all_lines) as service:
        await start(service)
        body = (await service.http.get("/models/mine/logs?tail_line_count=1000")).text

    assert not RAW.search(body)
    lines = body.splitlines()
    assert len(lines) == 2 * (len(LINES) + 2)
    assert all(line.startswith("data: ") for line in lines[::2])


async def test_a_log_over_grpc_has_no_control_character(tmp_path: Path, all_lines: bytes) -> None:
    async with writing(tmp_path, all_lines) as service:
        await start(service)
        request = pb.StreamLogsRequest(model_id="mine", tail_line_count=1000)
        lines = [message.line async for message in service.stub.StreamLogs(request)]

    assert len(lines) == len(LINES) + 2
    assert not any(map(RAW.search, lines))


@pytest.mark.parametrize("line", [FORGED, CLEARED, "RuntimeError: \x1b[31mno\u2028\u202eon\x85"])
async def test_the_last_words_of_an_engine_are_safe_wherever_they_are_shown(
    tmp_path: Path, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with writing(tmp_path, f"{line}\n".encode(), exits="1") as service:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await start(service)
        failed = failure(error.value)
        log = failed.details["DebugInfo"]
        assert isinstance(log, error_details_pb2.DebugInfo)
        refused = await service.http.post("/models/mine/start")
        model = (await service.stub.GetModel(pb.GetModelRequest(model_id="mine"))).model
        watch = service.stub.WatchModels(pb.WatchModelsRequest(model_id="mine"))
        change = await anext(aiter(watch))
        watch.cancel()

    assert failed.reason == "START_FAILED"
    shown = [failed.message, *log.stack_entries, refused.text, model.last_error.message]
    shown += [change.model.last_error.message, *(record.message for record in caplog.records)]
    for text in shown:
        assert not RAW.search(text)
        assert "\n" not in text
    assert refused.json()["detail"].count("\\") >= 2


async def test_an_engine_that_refuses_a_request_cannot_reach_the_terminal(tmp_path: Path) -> None:
    words = f"no {CLEARED}\u2028\u202e\nevent: error\n".encode()
    async with writing(tmp_path, words) as service:
        body = {"model_id": "mine", "prompt": "Hi", "max_new_tokens": 3}
        async with within(SLOWLY, "no answer came"):
            whole = await service.http.post("/generate", json=body)
            stream = await service.http.post("/generate_stream", json=body)

    for answer in (whole, stream):
        assert answer.status_code >= 400
        assert not RAW.search(answer.text)
        assert "\n" not in answer.json()["detail"]
        assert r"\x1b[2J" in answer.json()["detail"]


@pytest.fixture
async def service() -> AsyncGenerator[Serving]:
    async with serving(ports=free_ports(1)) as running:
        yield running


async def test_the_words_of_a_caller_come_back_as_escapes(service: Serving) -> None:
    for character in [*UNSAFE, "\n"]:
        words = f"a{character}b"
        model_id = quote(words, safe="")
        answers = [
            await service.http.get(f"/models/{model_id}/logs"),
            await service.http.post(f"/models/{model_id}/start"),
            await service.http.get(f"/models:watch?model_id={model_id}"),
            await service.http.get(f"/nowhere/{model_id}"),
            await service.http.post(
                "/generate", json={"model_id": f"a{character}b", "prompt": "x"}
            ),
            await service.http.post("/generate", json={f"a{character}b": 1}),
        ]
        for answer in answers:
            assert answer.status_code in (404, 422)
            assert not RAW.search(answer.text)
            assert "\n" not in answer.json()["detail"]


async def test_half_of_a_surrogate_pair_is_an_error_and_no_fault(service: Serving) -> None:
    bodies = (rb'{"model_id": "a\ud800b", "prompt": "x"}', rb'{"a\udfffb": 1}')
    for body in bodies:
        headers = {"content-type": "application/json"}
        answer = await service.http.post("/generate", content=body, headers=headers)
        assert answer.status_code in (404, 422)
        assert not RAW.search(answer.text)


async def test_the_log_of_the_service_has_no_forged_line(tmp_path: Path) -> None:
    catalog = entry(tmp_path, f"{FORGED}\n2026 ERROR {CLEARED}\n".encode(), exits="1")
    flags = ("--runtime", "process", "--grpc-port", "0", "--no-rest", "--ports", free_ports(4))
    process = await command(*flags, "--catalog", str(catalog))
    assert process.stdout is not None
    async with within(SLOWLY, "the service printed no address"):
        while not (line := (await process.stdout.readline()).decode()).startswith("gRPC"):
            assert line, "the service ended"
    async with grpc.aio.insecure_channel(line.split()[1]) as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            async with within(SLOWLY, "no answer came"):
                request = pb.StartModelRequest(model_id="mine")
                await pb_grpc.ModelServiceStub(channel).StartModel(request)
    process.terminate()
    out, err = await end(process)

    log = err.decode()
    assert not RAW.search(out.decode() + log)
    assert r"\x1b[2J" in log
    stamp = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ inference_service")
    assert all(map(stamp.match, log.splitlines()))
