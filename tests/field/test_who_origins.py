"""The pages that may call REST, as browsers write their requests."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.service import Serving, free_ports, serving
from tests.waiting import PROMPTLY, within

PAGE = "https://app.example.org"
READABLE = {
    "access-control-allow-origin": PAGE,
    "access-control-expose-headers": "X-Error-Reason, Retry-After",
    "vary": "Origin",
}
STOP = "/models/story-mini/stop"


@pytest.fixture
async def closed() -> AsyncIterator[Serving]:
    """Run a service as it is by default: no page of another origin may call it."""
    async with serving() as service:
        yield service


@pytest.fixture
async def opened() -> AsyncIterator[Serving]:
    """Run a service that pages of two origins may call."""
    async with serving(ports=free_ports(4), cors_origin=[PAGE, "tauri://localhost"]) as service:
        yield service


def cors(answer: httpx.Response) -> dict[str, str]:
    return {
        name: value
        for name, value in answer.headers.items()
        if name.startswith("access-control-") or name == "vary"
    }


@pytest.mark.parametrize(
    "origin",
    [
        pytest.param("http://evil.test", id="a page of another site"),
        pytest.param("http://localhost:3000", id="a page of another port of this machine"),
        pytest.param("http://127.0.0.1", id="a page of port 80 of this machine"),
        pytest.param("null", id="a file, or the sandboxed frame of any page"),
        pytest.param("file://", id="a file, in some programs"),
        pytest.param("chrome-extension://dofdpnoclkigpakdndmhigfojjecnfln", id="an extension"),
        pytest.param("moz-extension://f745c4ad-86bf-4062-b715-e26739741e4d", id="one of Firefox"),
        pytest.param("tauri://localhost", id="a desktop program with a page inside"),
        pytest.param("", id="an empty one"),
        pytest.param("http://127.0.0.1.evil.test", id="an address at the front of a name"),
        pytest.param("http://user@127.0.0.1", id="a name of a user"),
    ],
)
async def test_a_page_of_another_origin_changes_nothing(closed: Serving, origin: str) -> None:
    for path in (STOP, "/models/story-mini/start", "/catalog:reload", "/generate", "/none"):
        answer = await closed.http.post(path, headers={"Origin": origin})

        assert answer.status_code == 403
        assert answer.json() == {
            "detail": f"a page of the origin {origin} may not call this API; if it should, start "
            f"the service with --cors-origin {origin}"
        }
        assert cors(answer) == {}


async def test_what_a_form_and_a_fetch_without_cors_send_changes_nothing(closed: Serving) -> None:
    """Neither asks before it sends, and `lo.evil.test` was a name of 127.0.0.1."""
    for sent in (
        {"Content-Type": "application/x-www-form-urlencoded", "Sec-Fetch-Site": "same-origin"},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/json", "Sec-Fetch-Site": "none"},
    ):
        headers = {"Origin": "http://evil.test", **sent}
        body = b'{"model_id": "story-mini", "prompt": "Once"}'
        for path in (STOP, "/generate"):
            answer = await closed.http.post(path, content=body, headers=headers)
            assert answer.status_code == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_a_browser_that_is_told_to_hide_the_origin_changes_nothing(
    closed: Serving, site: str
) -> None:
    answer = await closed.http.post(STOP, headers={"Sec-Fetch-Site": site})

    assert answer.status_code == 403
    assert answer.json() == {"detail": "a page of another origin may not call this API"}


async def test_two_origins_change_nothing(opened: Serving) -> None:
    for origins in ([PAGE, "http://evil.test"], ["http://evil.test", PAGE]):
        headers = [("Origin", origin) for origin in origins]
        assert (await opened.http.post(STOP, headers=headers)).status_code == 403


async def test_a_program_has_no_origin_and_may_call(closed: Serving) -> None:
    answer = await closed.http.post(STOP)

    assert answer.status_code == 404  # the model does not run


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        pytest.param("127.0.0.1:8000", "http://127.0.0.1:8000", id="an address"),
        pytest.param("LOCALHOST:8000", "http://localhost:8000", id="localhost"),
        pytest.param("localhost.:8000", "http://localhost:8000", id="the dot of the root"),
        pytest.param("[0::1]:8000", "http://[::1]:8000", id="an address of IPv6"),
        pytest.param("localhost", "http://localhost", id="port 80, which browsers leave out"),
        pytest.param("localhost:80", "http://localhost", id="port 80, which the proxy writes"),
        pytest.param("llm.example.org", "https://llm.example.org", id="TLS ends at a proxy"),
        pytest.param("llm.example.org:443", "https://llm.example.org", id="the same with its port"),
        pytest.param("llm.example.org:8443", "https://llm.example.org:8443", id="another port"),
    ],
)
async def test_the_documentations_own_page_may_call(host: str, origin: str) -> None:
    async with serving(allowed_host=["llm.example.org"]) as service:
        answer = await service.http.post(STOP, headers={"Host": host, "Origin": origin})

    assert answer.status_code == 404  # the model does not run


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        pytest.param("127.0.0.1:8000", "http://localhost:8000", id="another name of this machine"),
        pytest.param("localhost:8000", "http://localhost:8001", id="another port"),
        pytest.param("localhost:8000", "http://localhost", id="port 80"),
        pytest.param("localhost", "http://localhost:8000", id="a proxy that drops the port"),
        pytest.param("localhost:8000", "chrome-extension://localhost:8000", id="another scheme"),
    ],
)
async def test_a_page_beside_is_another_origin(closed: Serving, host: str, origin: str) -> None:
    answer = await closed.http.post(STOP, headers={"Host": host, "Origin": origin})

    assert answer.status_code == 403


async def test_no_page_may_read_by_default(closed: Serving) -> None:
    for path in ("/models", "/none", "/docs"):
        answer = await closed.http.get(path, headers={"Origin": PAGE})
        assert cors(answer) == {}


ASKED = {"Origin": PAGE, "Access-Control-Request-Method": "POST"}


async def test_a_browser_asks_before_a_post_and_is_answered(opened: Serving) -> None:
    headers = "authorization,content-type,x-stainless-timeout"  # ollama#4388 and four more
    for path in ("/generate", STOP, "/none"):
        asked = {**ASKED, "Access-Control-Request-Headers": headers}
        answer = await opened.http.options(path, headers=asked)

        assert (answer.status_code, answer.content) == (204, b"")
        assert cors(answer) == {
            **READABLE,
            "access-control-allow-methods": "GET, POST",
            "access-control-allow-headers": headers,
            "access-control-max-age": "600",
        }


async def test_a_browser_that_asks_for_the_private_network_is_answered(opened: Serving) -> None:
    """Chromium did from version 104 to 141; later ones ask their user."""
    asked = {**ASKED, "Access-Control-Request-Private-Network": "true"}
    answer = await opened.http.options("/generate", headers=asked)

    assert answer.headers["access-control-allow-private-network"] == "true"


async def test_a_browser_that_asks_for_another_page_is_refused(opened: Serving) -> None:
    """In JSON with the name of the setting, for the one who looks why nothing works."""
    answer = await opened.http.options("/generate", headers={**ASKED, "Origin": "http://evil.test"})

    assert answer.status_code == 403
    assert "--cors-origin http://evil.test" in answer.json()["detail"]
    assert cors(answer) == {"vary": "Origin"}


async def test_options_that_no_browser_sends_are_no_question(opened: Serving) -> None:
    answer = await opened.http.options("/models", headers={"Origin": PAGE})

    assert answer.status_code == 405
    assert cors(answer) == READABLE


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/models", 200),
        ("GET", "/healthz", 200),
        ("GET", "/docs", 200),
        ("GET", "/docs-assets/favicon.png", 200),
        ("GET", "/docs-assets/none", 404),
        ("GET", "/none", 404),
        ("POST", "/models", 405),
        ("POST", "/generate", 415),
        ("POST", STOP, 404),
        ("POST", "/models/none/start", 404),
    ],
)
async def test_a_page_that_may_call_reads_every_answer(
    opened: Serving, method: str, path: str, status: int
) -> None:
    """Errors too: else each one is shown as a fault of CORS (starlette#1116)."""
    answer = await opened.http.request(method, path, headers={"Origin": PAGE})

    assert (answer.status_code, cors(answer)) == (status, READABLE)


async def test_a_page_that_may_call_reads_that_the_host_is_wrong(opened: Serving) -> None:
    answer = await opened.http.get("/models", headers={"Origin": PAGE, "Host": "evil.test"})

    assert (answer.status_code, cors(answer)) == (421, READABLE)


async def test_a_page_that_may_call_reads_a_fault(
    opened: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer of Starlette's outermost layer, which is outside of its own CORS."""

    def break_down(*_: object) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr("rest_bridge.routes.request.caller", break_down)
    answer = await opened.http.get("/models", headers={"Origin": PAGE})

    assert (answer.status_code, cors(answer)) == (500, READABLE)


async def test_a_page_that_may_call_reads_a_stream(opened: Serving) -> None:
    async with (
        within(PROMPTLY, "the snapshot of a watch did not come"),
        opened.http.stream("GET", "/models:watch", headers={"Origin": PAGE}) as answer,
    ):
        assert cors(answer) == READABLE
        lines = answer.aiter_lines()
        while await anext(lines) != "event: snapshot_done":
            pass


async def test_a_page_that_may_call_generates(opened: Serving) -> None:
    headers = {"Origin": PAGE, "Sec-Fetch-Site": "cross-site"}
    body = {"model_id": "story-mini", "prompt": "Once", "max_new_tokens": 2}
    async with opened.http.stream("POST", "/generate_stream", json=body, headers=headers) as answer:
        assert (answer.status_code, cors(answer)) == (200, READABLE)
        events = [line async for line in answer.aiter_lines() if line.startswith("event: ")]

    assert events[-1] == "event: summary"


async def test_each_of_several_pages_is_named_alone(opened: Serving) -> None:
    """llama.cpp sent the whole list, which no browser understands (llama.cpp#26988)."""
    for origin in (PAGE, "tauri://localhost"):
        answer = await opened.http.get("/models", headers={"Origin": origin})
        assert answer.headers["access-control-allow-origin"] == origin


async def test_a_cache_keeps_the_answers_of_pages_apart(opened: Serving) -> None:
    for headers in ({}, {"Origin": "http://evil.test"}):
        answer = await opened.http.get("/models", headers=headers)
        assert cors(answer) == {"vary": "Origin"}


@pytest.mark.parametrize("origin", ["http://evil.test", "null", "moz-extension://f745c4ad"])
async def test_every_page_may_call_where_the_operator_wants_that(origin: str) -> None:
    async with serving(cors_origin=["*"]) as service:
        asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        assert (await service.http.options(STOP, headers=asked)).status_code == 204
        answer = await service.http.post(STOP, headers={"Origin": origin})

    assert answer.status_code == 404  # the model does not run
    assert cors(answer) == {**READABLE, "access-control-allow-origin": origin}


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("HTTPS://App.Example.org", "https://app.example.org"),
        ("https://app.example.org:443", "https://app.example.org"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("http://tauri.localhost", "http://tauri.localhost"),
        ("app://obsidian.md", "app://obsidian.md"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("chrome-extension://dofdpnoclkigp", "chrome-extension://dofdpnoclkigp"),
    ],
)
async def test_an_origin_is_written_as_people_do(written: str, sent: str) -> None:
    """Desktop programs and extensions have schemes of their own (ollama#1686, MTPLX#473)."""
    async with serving(cors_origin=[written]) as service:
        answer = await service.http.get("/models", headers={"Origin": sent})

    assert answer.headers["access-control-allow-origin"] == sent


@pytest.mark.parametrize(
    ("origin", "advice"),
    [
        ("https://app.example.org/", "must be an origin such as"),
        ("app.example.org", "must be an origin such as"),
        ("null", "null is the origin of files and of every sandboxed page"),
    ],
)
async def test_an_origin_that_no_browser_sends_is_refused_at_the_start(
    origin: str, advice: str
) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "inference_service", "--cors-origin", origin),
        stderr=asyncio.subprocess.PIPE,
    )
    _, output = await process.communicate()

    assert process.returncode == 2
    assert output.decode().startswith(f"inference-service: --cors-origin: {advice}")
