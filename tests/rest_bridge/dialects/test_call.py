"""Calls of the dialects over loopback, with a service that follows a script."""

from __future__ import annotations

import asyncio
import gc
import json
from typing import Any

import httpx
import pytest

from inference_service.v1 import model_service_pb2 as pb
from rest_bridge import Settings
from rest_bridge.dialects.call import Call
from rest_bridge.errors import BridgeError
from rest_bridge.http import Server
from rest_bridge.service import Forwarded, Sink
from tests.rest_bridge.dialects.conftest import Scripted
from tests.waiting import PROMPTLY, until, within

CHAT = "/v1/chat/completions"
BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
STREAM = BODY | {"stream": True}
EVENT = b'data: {"choices": []}\n\n'


async def test_a_whole_answer_comes_as_it_is(script: Scripted, client: httpx.AsyncClient) -> None:
    async def play(request: Forwarded, sink: Sink) -> None:
        script.head(sink, 202, "application/json; charset=utf-8")
        sink.data(b'{"a":')
        sink.data(b" 1}")
        sink.end(None)

    script.play = play
    answer = await client.post(CHAT, json=BODY)
    assert (answer.status_code, answer.content) == (202, b'{"a": 1}')
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert "server" not in answer.headers
    [(request, _)] = script.asked
    assert (request.path, request.method, json.loads(request.body)) == (CHAT, "POST", BODY)


async def test_keys_become_digests(script: Scripted, client: httpx.AsyncClient) -> None:
    script.play = whole(script)
    await client.post(CHAT, json=BODY, headers={"x-api-key": "secret"})
    await client.post(CHAT, json=BODY, headers={"authorization": "Bearer other"})
    names = [dict(metadata.entries)["x-caller"] for _, metadata in script.asked]
    assert all(name.startswith("key ") and "secret" not in name for name in names)
    assert len(set(names)) == 2


def whole(script: Scripted) -> Any:
    async def play(request: Forwarded, sink: Sink) -> None:
        script.head(sink)
        sink.data(b"{}")
        sink.end(None)

    return play


async def test_a_stream_comes_event_by_event(script: Scripted, client: httpx.AsyncClient) -> None:
    more = asyncio.Event()

    async def play(request: Forwarded, sink: Sink) -> None:
        script.head(sink, kind="text/event-stream")
        sink.data(EVENT + b"data: ha")
        await more.wait()
        sink.data(b"lf\n\n")
        sink.end(None)

    script.play = play
    async with client.stream("POST", CHAT, json=STREAM) as answer:
        assert answer.headers["cache-control"] == "no-cache, no-transform"
        parts = answer.aiter_raw()
        assert await anext(parts) == EVENT
        more.set()
        assert b"".join([part async for part in parts]) == b"data: half\n\n"


async def test_an_error_before_the_head_has_a_status(
    script: Scripted, client: httpx.AsyncClient
) -> None:
    async def play(request: Forwarded, sink: Sink) -> None:
        raise BridgeError("QUEUE_FULL", "too many", headers={"Retry-After": "5"})

    script.play = play
    answer = await client.post(CHAT, json=STREAM)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "5")
    assert answer.headers["x-error-reason"] == "QUEUE_FULL"
    assert answer.json()["error"]["code"] == "queue_full"


async def test_an_error_of_the_engine_gets_the_shape(
    script: Scripted, client: httpx.AsyncClient
) -> None:
    async def play(request: Forwarded, sink: Sink) -> None:
        script.head(sink, 422, "text/plain")
        sink.data(b"no ")
        sink.data(b"stop")
        sink.end(None)

    script.play = play
    answer = await client.post("/v1/messages", json=BODY)
    assert answer.status_code == 422
    assert answer.json() == {
        "type": "error",
        "error": {"type": "invalid_request_error", "message": "no stop"},
    }


async def test_an_error_within_a_stream_is_an_event(
    script: Scripted, client: httpx.AsyncClient
) -> None:
    async def play(request: Forwarded, sink: Sink) -> None:
        script.head(sink, kind="text/event-stream")
        sink.data(EVENT + b'data: {"cho')
        raise BridgeError("ENGINE_FAILED", "broke off")

    script.play = play
    answer = await client.post(CHAT, json=STREAM)
    events = answer.content.split(b"\n\n")
    assert events[0] + b"\n\n" == EVENT
    assert json.loads(events[1].removeprefix(b"data: "))["error"]["message"] == "broke off"
    assert events[2:] == [b"data: [DONE]", b""]


async def test_an_answer_that_breaks_off_is_cut(
    script: Scripted, client: httpx.AsyncClient
) -> None:
    async def play(request: Forwarded, sink: Sink) -> None:
        script.head(sink)
        sink.data(b"{")
        raise BridgeError("ENGINE_FAILED", "broke off")

    script.play = play
    with pytest.raises(httpx.RemoteProtocolError):
        await client.post(CHAT, json=BODY)


async def test_faults_are_told(script: Scripted, client: httpx.AsyncClient) -> None:
    async def fault(request: Forwarded, sink: Sink) -> None:
        raise RuntimeError("a fault")

    async def nothing(request: Forwarded, sink: Sink) -> None:
        sink.end(None)

    for play, code in ((fault, "internal"), (nothing, "engine_failed")):
        script.play = play
        answer = await client.post(CHAT, json=BODY)
        assert answer.json()["error"]["code"] == code
        assert answer.status_code >= 500


class TestEarly:
    """A stream whose engine does not answer begins by itself."""

    @pytest.fixture
    def early(self) -> float:
        return 0.01

    @pytest.fixture
    def settings(self) -> Settings:
        return Settings(keep_alive_seconds=0.01, access_log=False)

    async def test_comments_tell_the_progress(
        self, script: Scripted, client: httpx.AsyncClient
    ) -> None:
        more = asyncio.Event()

        async def play(request: Forwarded, sink: Sink) -> None:
            sink.waits(
                pb.GenerateStatus(
                    model_state=pb.MODEL_STATE_STARTING,
                    start_progress=pb.StartProgress(
                        phase=pb.START_PHASE_LOADING_WEIGHTS, fraction=0.4
                    ),
                )
            )
            await more.wait()
            sink.waits(pb.GenerateStatus(model_state=pb.MODEL_STATE_READY, queue_position=3))
            await waiting.wait()
            script.head(sink, kind="text/event-stream")
            sink.data(EVENT)
            sink.end(None)

        waiting = asyncio.Event()
        script.play = play
        async with client.stream("POST", CHAT, json=STREAM) as answer:
            assert answer.status_code == 200
            lines = answer.aiter_lines()
            assert await anext(lines) == ": starting, loading weights, 40%"
            more.set()
            async for line in lines:
                if line == ": position 3 in the queue":
                    break
            waiting.set()
            rest = [line async for line in lines if not line.startswith(":")]
        assert rest == [EVENT.decode().strip(), ""]

    @pytest.mark.parametrize("status", [0, 400])
    async def test_failures_are_events(
        self, script: Scripted, client: httpx.AsyncClient, status: int
    ) -> None:
        more = asyncio.Event()

        async def play(request: Forwarded, sink: Sink) -> None:
            await more.wait()
            if not status:
                raise BridgeError("START_FAILED", "no weights")
            script.head(sink, status)
            sink.data(b'{"error": {"message": "no weights"}}')
            sink.end(None)

        script.play = play
        async with client.stream("POST", CHAT, json=STREAM) as answer:
            more.set()
            lines = [line async for line in answer.aiter_lines() if line.startswith("data:")]
        assert json.loads(lines[0][6:])["error"]["message"] == "no weights"
        assert lines[1:] == ["data: [DONE]"]

    async def test_a_whole_answer_keeps_its_status(
        self, script: Scripted, client: httpx.AsyncClient
    ) -> None:
        async def play(request: Forwarded, sink: Sink) -> None:
            await asyncio.sleep(0.1)
            raise BridgeError("START_FAILED", "no weights")

        script.play = play
        assert (await client.post(CHAT, json=BODY)).status_code == 503
        assert (await client.post(CHAT, json=BODY | {"stream": False})).status_code == 503


async def test_a_client_who_leaves_ends_the_call(
    script: Scripted, client: httpx.AsyncClient
) -> None:
    async def play(request: Forwarded, sink: Sink) -> None:
        await asyncio.Event().wait()

    script.play = play
    for body in (BODY, STREAM):
        script.left.clear()
        script.entered.clear()
        asking = asyncio.create_task(client.post(CHAT, json=body))
        await script.entered.wait()
        asking.cancel()
        async with within(PROMPTLY, "the call did not end"):
            await script.left.wait()


async def test_a_slow_client_holds_the_engine_back(
    script: Scripted, server: tuple[Server, int]
) -> None:
    sent = 0

    async def play(request: Forwarded, sink: Sink) -> None:
        nonlocal sent
        script.head(sink, kind="text/event-stream")
        for _ in range(2000):
            await script.flows.wait()
            sink.data(EVENT * 100)
            sent += 1
            await asyncio.sleep(0)
        sink.end(None)

    script.play = play
    reader, writer = await asyncio.open_connection("127.0.0.1", server[1], limit=4096)
    body = json.dumps(STREAM).encode()
    writer.write(
        b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (CHAT.encode(), len(body), body)
    )
    async with within(PROMPTLY, "the engine was not held back"):
        await script.paused.wait()
    assert sent < 2000
    async with within(PROMPTLY, "the rest did not come"):
        data = await reader.read(-1)
    assert data.count(b"choices") == 200_000
    writer.close()


async def test_the_server_ends(script: Scripted, server: tuple[Server, int]) -> None:
    async def play(request: Forwarded, sink: Sink) -> None:
        await asyncio.Event().wait()

    script.play = play
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server[1]}") as client:
        asking = asyncio.create_task(client.post(CHAT, json=BODY))
        await script.entered.wait()
        await server[0].close(0)
        answer = await asking
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "shutting_down")


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"content": b"x" * (4 << 20) + b"x"}, 413, "at most 4194304 bytes"),
        ({"headers": {"content-type": "text/plain"}}, 415, "not text/plain"),
        ({"headers": {"content-encoding": "gzip"}}, 415, "must not be compressed"),
        ({"headers": {"host": "evil.example"}}, 421, "evil.example"),
        ({"headers": {"origin": "http://other.example"}}, 403, "other.example"),
    ],
)
@pytest.mark.parametrize("path", [CHAT, "/v1/messages"])
async def test_heads_that_no_call_can_follow(
    script: Scripted,
    client: httpx.AsyncClient,
    change: dict[str, Any],
    status: int,
    words: str,
    path: str,
) -> None:
    script.play = whole(script)
    assert (await client.post(path, json=BODY)).status_code == 200  # what is known is not mixed up
    headers = {"content-type": "application/json"} | change.get("headers", {})
    for _ in range(2):
        answer = await client.post(path, content=change.get("content", b"{}"), headers=headers)
        assert answer.status_code == status
        assert words in answer.json()["error"]["message"]
    assert len(script.asked) == 1


async def test_a_body_in_chunks_has_the_same_limit(
    script: Scripted, client: httpx.AsyncClient
) -> None:
    async def chunks(count: int) -> Any:
        for _ in range(count):
            yield b" " * (1 << 20)

    script.play = whole(script)
    headers = {"content-type": "application/json"}
    answer = await client.post(CHAT, content=chunks(5), headers=headers)
    assert answer.status_code == 413
    answer = await client.post(CHAT, content=chunks(4), headers=headers)
    assert answer.status_code == 200
    assert len(script.asked[0][0].body) == 4 << 20


async def test_other_methods(script: Scripted, client: httpx.AsyncClient) -> None:
    answer = await client.get(CHAT)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert "send a POST" in answer.json()["error"]["message"]
    answer = await client.get("/v1/nonsense")
    assert answer.status_code == 404
    assert answer.json()["error"]["message"].startswith("no endpoint GET /v1/nonsense")


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/chat/completions", "/v1/chat/completions"),
        ("/v1/v1/messages", "/v1/messages"),
        ("/v1/chat/completions/", "/v1/chat/completions"),
        ("/v1/v1/models", "/v1/models"),
    ],
)
async def test_a_base_url_with_or_without_v1_is_told(
    client: httpx.AsyncClient, path: str, meant: str
) -> None:
    answer = await client.post(path, json=BODY)
    assert answer.status_code == 404
    assert f"no endpoint POST {path}; is it {meant}?" in answer.text


async def test_pages_of_allowed_origins(script: Scripted, client: httpx.AsyncClient) -> None:
    script.play = whole(script)
    headers = {"origin": "http://page.example"}
    asked = {"access-control-request-method": "POST"}
    assert (await client.options(CHAT, headers=headers | asked)).status_code == 204
    for path in (CHAT, "/v1/nonsense"):
        answer = await client.post(path, json=BODY, headers=headers)
        assert answer.headers["access-control-allow-origin"] == "http://page.example"


async def test_requests_in_a_pipeline_are_answered_in_order(
    script: Scripted, server: tuple[Server, int]
) -> None:
    async def play(request: Forwarded, sink: Sink) -> None:
        await asyncio.sleep(0)
        script.head(sink)
        sink.data(request.body)
        sink.end(None)

    script.play = play
    reader, writer = await asyncio.open_connection("127.0.0.1", server[1])
    for number in range(20):
        body = b'{"number": %d}' % number
        writer.write(
            b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b"
            % (len(body), body)
        )
    data = b""
    async with within(PROMPTLY, "an answer is missing"):
        while data.count(b"number") < 20:
            data += await reader.read(65536)
    numbers = [int(part.partition(b"}")[0]) for part in data.split(b'"number": ')[1:]]
    assert numbers == list(range(20))
    writer.close()
    await until(lambda: server[0].connections == 0, "the connection is left")


async def test_a_call_that_has_ended_is_not_left_to_the_collector(
    script: Scripted, client: httpx.AsyncClient
) -> None:
    async def refuses(request: Forwarded, sink: Sink) -> None:
        script.head(sink, 400)
        sink.data(b"no")
        sink.end(None)

    gc.collect()
    gc.disable()
    try:
        for play in (whole(script), refuses):
            script.play = play
            await client.post(CHAT, json=BODY)
        del play
        script.play = None
        script.asked.clear()
        await until(
            lambda: not [o for o in gc.get_objects() if isinstance(o, Call)], "a call is left"
        )
    finally:
        gc.enable()
