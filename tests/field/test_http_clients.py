"""What clients of many kinds send to REST, and what they get."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import shutil
from collections.abc import AsyncIterator

import pytest

from tests.rest_bridge.http.client import Serving, post
from tests.rest_bridge.loopback import open_client
from tests.service import serving
from tests.waiting import SLOWLY, within

BODY = b'{"model_id": "story-mini", "prompt": "Once upon a time", "max_new_tokens": 3}'
JSON = b"Content-Type: application/json"
H2C = (
    b"Connection: Upgrade, HTTP2-Settings",
    b"Upgrade: h2c",
    b"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
)


@pytest.fixture
async def rest() -> AsyncIterator[Serving]:
    """Run a service; the port of its REST face is all that a client knows."""
    async with serving(idle_connection_timeout=0.5) as service:
        url = service.service.rest_url or ""
        yield Serving(None, int(url.rpartition(":")[2]))  # type: ignore[arg-type]


async def curl(port: int, path: str, *arguments: str) -> tuple[int, str]:
    """Return the status and the body that curl gets."""
    if not shutil.which("curl"):
        pytest.skip("there is no curl")
    command = ["curl", "-s", "-m", "60", "-w", "\n%{http_code}", f"http://127.0.0.1:{port}{path}"]
    process = await asyncio.create_subprocess_exec(
        *command, *arguments, stdout=asyncio.subprocess.PIPE
    )
    async with within(SLOWLY, "curl did not end"):
        output, _ = await process.communicate()
    body, _, status = output.decode().rpartition("\n")
    return int(status), body


async def test_curl_that_offers_http2_keeps_its_body(rest: Serving) -> None:
    sent = ("-H", JSON.decode(), "-d", BODY.decode())
    status, body = await curl(rest.port, "/generate", "--http2", *sent)

    assert (status, json.loads(body)["model_id"]) == (200, "story-mini")


async def test_javas_client_which_offers_http2_and_sends_its_head_first(rest: Serving) -> None:
    request = post(BODY, JSON, *H2C, path=b"/generate")
    async with rest.client() as client:
        await client.send(request[: -len(BODY)], request[-len(BODY) :])
        async with within(SLOWLY, "no answer came"):
            answer = await client._answer("POST")

    assert (answer.status, answer.json["model_id"]) == (200, "story-mini")


async def test_a_client_that_waits_for_an_invitation_gets_it(rest: Serving) -> None:
    sent = ("-H", JSON.decode(), "-H", "Expect: 100-continue", "--expect100-timeout", "50")
    status, body = await curl(rest.port, "/generate", *sent, "-d", BODY.decode())

    assert (status, json.loads(body)["model_id"]) == (200, "story-mini")


async def test_a_prompt_that_is_too_large_is_a_413_to_clients_that_send_it_all(
    rest: Serving,
) -> None:
    """A client of Python sends the whole body before it looks for an answer."""
    body = b'{"model_id": "story-mini", "prompt": "%b"}' % (b"a" * 30_000_000)

    def ask() -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", rest.port, timeout=60)
        with contextlib.suppress(OSError):  # the server has closed, but its answer is there
            connection.request("POST", "/generate", body, {"content-type": "application/json"})
        answer = connection.getresponse()
        return answer.status, json.load(answer)["detail"]

    status, detail = await asyncio.to_thread(ask)

    assert (status, "4194304" in detail) == (413, True)


async def test_a_stream_to_a_client_that_has_said_all(rest: Serving) -> None:
    """`nc -N` and some load balancers end their half of the connection behind the request."""
    async with rest.client() as client:
        client.sock.send(post(BODY, JSON, path=b"/generate_stream"))
        client.half_close()
        async with within(SLOWLY, "no answer came"):
            answer = await client._answer("POST")

    assert (answer.status, answer.whole) == (200, True)
    assert b"event: summary" in answer.body or b"event: done" in answer.body, answer.body


async def test_a_stream_to_http_1_0_has_no_chunks(rest: Serving) -> None:
    request = post(BODY, JSON, path=b"/generate_stream").replace(b"HTTP/1.1", b"HTTP/1.0")
    async with rest.client() as client:
        await client.send(request)
        async with within(SLOWLY, "no answer came"):
            answer = await client._answer("POST")

    assert (answer["transfer-encoding"], answer["connection"]) == (None, "close")
    assert answer.body.startswith(b"event: ")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ("GET /models/café HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(), 400),
        (b"GET /models HTTP/1.1\r\n\r\n", 400),
        (b"GET /models HTTP/1.1\r\nHost: localhost\r\nHost: y\r\n\r\n", 400),
        (b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: +5\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"GET /models HTTP/2.0\r\nHost: localhost\r\n\r\n", 505),
        (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 414),
        (
            b"GET /models HTTP/1.1\r\nHost: localhost\r\nCookie: " + b"a" * 100_000 + b"\r\n\r\n",
            431,
        ),
    ],
    ids=["UTF-8", "no Host", "two Hosts", "length", "TLS", "HTTP/2", "URL", "cookie"],
)
async def test_what_is_no_http_is_refused_in_json(
    rest: Serving, request_: bytes, status: int
) -> None:
    answer = await rest.ask(request_)

    assert (answer.status, answer["content-type"]) == (status, "application/json")
    assert answer.detail


async def test_a_proxy_that_sends_the_whole_url(rest: Serving) -> None:
    answer = await rest.ask(b"GET http://127.0.0.1/models HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")

    assert (answer.status, "models" in answer.json) == (200, True)


async def test_an_idle_connection_is_kept_as_long_as_the_setting_says(rest: Serving) -> None:
    async with rest.client() as client:
        for _ in range(3):
            await client.send(b"GET /models HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert (await client.answer()).status == 200
            await asyncio.sleep(0.1)
        assert await client.end() == b""


async def test_a_caller_that_leaves_ends_its_text(rest: Serving) -> None:
    """The engine has one slot, and would be busy with a text for nobody."""
    long = BODY.replace(b'"max_new_tokens": 3', b'"max_new_tokens": 400')
    client = await rest.connect()
    await client.send(post(long, JSON, path=b"/generate_stream"))
    async with within(SLOWLY, "no event came"):
        assert await client.until(b"event: chunk")
    client.close()

    async with rest.client() as other, within(SLOWLY, "the slot is not free"):
        await other.send(post(BODY, JSON, path=b"/generate"))
        assert (await other._answer("POST")).status == 200


async def test_an_ordinary_client_over_one_connection(rest: Serving) -> None:
    async with open_client(f"http://127.0.0.1:{rest.port}") as client:
        for _ in range(20):
            assert (await client.get("/models")).status_code == 200
        assert (await client.head("/models")).status_code == 405
        answer = await client.post("/generate", content=b"{", headers={"content-type": "text/x"})
        assert answer.status_code == 415
        assert (await client.get("/models")).status_code == 200
