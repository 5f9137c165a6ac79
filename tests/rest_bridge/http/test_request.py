"""What is a request, and what is refused."""

from __future__ import annotations

import pytest

from tests.rest_bridge.http.app import App
from tests.rest_bridge.http.cases import H2C, REFUSED, SERVED, Refused, Served
from tests.rest_bridge.http.client import GET, Client, Serving, post


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
async def test_what_is_no_request_is_refused_with_a_sentence(client: Client, case: Refused) -> None:
    await client.say(case.data + GET)
    answer = await client.answer()

    assert (answer.status, answer["content-type"]) == (case.status, "application/json")
    assert case.word in answer.detail
    assert (answer["connection"], answer["date"] is None) == ("close", False)
    client.half_close()
    assert await client.end() == b""  # what follows is never taken for a request


@pytest.mark.parametrize("case", SERVED.values(), ids=SERVED)
async def test_a_request_is_served_and_the_next_one_too(client: Client, case: Served) -> None:
    await client.send(case.data + GET)

    assert (await client.answer()).json == (
        {"hello": True} if case.got is None else {"got": case.got}
    )
    assert (await client.answer()).json == {"hello": True}


async def test_trailers_are_no_headers(served: Serving) -> None:
    fields = (b"Transfer-Encoding: chunked", b"Trailer: x-caller")
    body = b"2\r\n{}\r\n0\r\nX-Caller: root\r\nX-Forwarded-For: 10.0.0.1\r\n\r\n"

    answer = await served.ask(post(body, *fields, path=b"/scope"))

    assert [name for name, _ in answer.json["headers"]] == ["host", "transfer-encoding", "trailer"]


async def test_the_order_of_headers_stays_and_their_names_are_small(served: Serving) -> None:
    fields = b"X-B: 1\r\nx-DUP: a\r\nAccept: */*\r\nX-Dup: b\r\n"

    answer = await served.ask(b"GET /scope HTTP/1.1\r\nHost: x\r\n" + fields + b"\r\n")

    expected = [["host", "x"], ["x-b", "1"], ["x-dup", "a"], ["accept", "*/*"], ["x-dup", "b"]]
    assert answer.json["headers"] == expected


@pytest.mark.parametrize(
    ("target", "path", "raw", "query"),
    [
        (b"/scope?a=b%20c", "/scope", "/scope", "a=b%20c"),
        (b"/scope/h%C3%A9", "/scope/hé", "/scope/h%C3%A9", ""),
        (b"/scope/%zz%ff", "/scope/%zz\ufffd", "/scope/%zz%ff", ""),
        (b"/scope//a/../b", "/scope//a/../b", "/scope//a/../b", ""),
        (b"http://example.com/scope?a=b", "/scope", "/scope", "a=b"),
    ],
)
async def test_the_path_of_a_request(
    served: Serving, target: bytes, path: str, raw: str, query: str
) -> None:
    scope = (await served.ask(b"GET %b HTTP/1.1\r\nHost: example.com\r\n\r\n" % target)).json

    assert (scope["path"], scope["raw_path"], scope["query_string"]) == (path, raw, query)


async def test_the_host_of_a_url_wins_over_the_header(served: Serving) -> None:
    """RFC 9112, 3.2.2. Else a check of Host could be passed by."""
    request = b"GET http://evil.example:80/scope HTTP/1.1\r\nHost: localhost\r\n\r\n"

    assert (await served.ask(request)).json["headers"] == [["host", "evil.example:80"]]


async def test_the_client_is_the_peer_and_never_a_forwarded_address(served: Serving) -> None:
    fields = b"X-Forwarded-For: 10.0.0.1\r\nForwarded: for=10.0.0.1\r\nX-Forwarded-Proto: https\r\n"
    async with served.client() as client:
        peer = client.sock.getsockname()
        await client.send(b"GET /scope HTTP/1.1\r\nHost: x\r\n" + fields + b"\r\n")
        scope = (await client.answer()).json

    assert (tuple(scope["client"]), scope["scheme"]) == (peer, "http")
    assert tuple(scope["server"]) == ("127.0.0.1", served.port)


async def test_options_of_the_server(served: Serving, app: App) -> None:
    answer = await served.ask(b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n")

    assert (answer.status, app.calls) == (404, [("OPTIONS", "*")])


@pytest.mark.parametrize("cut", [0, 3], ids=["behind the head", "within the body"])
async def test_an_offer_of_http2_in_two_segments_with_a_request_behind(
    client: Client, cut: int
) -> None:
    """Java's HttpClient offers h2c with each request, and sends the head alone first."""
    request = post(b"[1,2]", *H2C)
    end = len(request) - 5 + cut

    await client.send(request[:end], request[end:] + GET, post(b"[3]", *H2C))

    assert (await client.answer()).json == {"got": [1, 2]}
    assert (await client.answer()).json == {"hello": True}
    assert (await client.answer()).json == {"got": [3]}
