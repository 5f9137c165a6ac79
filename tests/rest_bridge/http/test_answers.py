"""How an answer is framed, and what an application can do wrong."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import pytest
from starlette.types import Receive, Scope, Send

from tests.rest_bridge.http.app import App, piece, start
from tests.rest_bridge.http.client import GET, Answer, Client, Serving, post, serving

Header = tuple[bytes, bytes]


async def told(
    *headers: Header, body: Sequence[bytes] = (b"",), status: int = 200, request: bytes = GET
) -> tuple[Answer, Answer]:
    """Return an answer that an application makes so, and the one to a GET behind it."""

    async def made(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/next":
            await App()._hello(scope, receive, send)
            return
        await start(send, *headers, status=status)
        for number, part in enumerate(body, 1):
            await send(piece(part, more=number < len(body)))

    async with serving(made) as served, served.client() as client:
        await client.send(request + b"GET /next HTTP/1.1\r\nHost: x\r\n\r\n")
        first = await client.answer(request.partition(b" ")[0].decode())
        return first, await client.answer()


async def test_a_body_of_known_length() -> None:
    answer, after = await told((b"content-length", b"5"), body=[b"he", b"llo"])

    assert (answer.body, answer["transfer-encoding"], after.status) == (b"hello", None, 200)


async def test_a_body_of_unknown_length_comes_in_chunks() -> None:
    answer, after = await told(body=[b"he", b"", b"llo"])

    assert (answer.body, answer["transfer-encoding"], after.status) == (b"hello", "chunked", 200)


@pytest.mark.parametrize("length", [b"5", None])
async def test_head_has_the_headers_and_no_body(length: bytes | None) -> None:
    headers = [] if length is None else [(b"content-length", length)]
    request = GET.replace(b"GET", b"HEAD")

    answer, after = await told(*headers, body=[b"hello"], request=request)

    assert (answer["content-length"], answer.body) == ("5" if length else None, b"")
    assert after.json == {"hello": True}


@pytest.mark.parametrize(("status", "length"), [(204, None), (304, "4")])
async def test_a_status_without_a_body_has_none(status: int, length: str | None) -> None:
    """The body of a 204 was the beginning of the next answer (httpx#1474, aiohttp#7756)."""
    answer, after = await told((b"content-length", b"4"), body=[b"null"], status=status)

    assert (answer.status, answer["content-length"]) == (status, length)
    assert (answer["transfer-encoding"], after.status) == (None, 200)


async def test_http_1_0_gets_no_chunks_and_the_end_of_the_connection() -> None:
    answer, after = await told(body=[b"he", b"llo"], request=b"GET / HTTP/1.0\r\n\r\n")

    assert (answer["transfer-encoding"], answer["connection"]) == (None, "close")
    assert (answer.body, after.status) == (b"hello", None)


async def test_http_1_0_is_kept_only_where_it_asks_and_the_length_is_known() -> None:
    request = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"

    answer, after = await told((b"content-length", b"5"), body=[b"hello"], request=request)
    assert (answer["connection"], after.status) == ("keep-alive", 200)
    answer, after = await told(body=[b"hello"], request=request)
    assert (answer["connection"], after.status) == ("close", None)


async def test_an_application_can_close_the_connection() -> None:
    answer, after = await told((b"Connection", b"close"), (b"content-length", b"0"))

    assert [value for name, value in answer.headers if name == "connection"] == ["close"]
    assert after.status is None


async def test_an_application_does_not_frame_its_answer() -> None:
    headers = [(b"transfer-encoding", b"gzip"), (b"keep-alive", b"timeout=5"), (b"upgrade", b"h2c")]

    answer, after = await told(*headers, body=[b"hello"])

    assert [name for name, _ in answer.headers] == ["date", "transfer-encoding"]
    assert (answer.body, after.status) == (b"hello", 200)


async def test_headers_keep_their_order_and_come_twice() -> None:
    answer, _ = await told((b"x-b", b"1"), (b"x-a", b"2"), (b"x-b", b"3"))

    headers = [pair for pair in answer.headers if pair[0].startswith("x-")]
    assert headers == [("x-b", "1"), ("x-a", "2"), ("x-b", "3")]


async def test_an_answer_has_the_date_of_now(client: Client) -> None:
    await client.send(GET)
    (date,) = [value for name, value in (await client.answer()).headers if name == "date"]

    assert timedelta(seconds=-1) <= datetime.now(UTC) - parsedate_to_datetime(date)
    assert datetime.now(UTC) - parsedate_to_datetime(date) < timedelta(minutes=1)


async def test_an_application_can_have_its_own_date() -> None:
    answer, _ = await told((b"Date", b"Thu, 01 Jan 1970 00:00:00 GMT"))

    assert [value for name, value in answer.headers if name == "date"] == [
        "Thu, 01 Jan 1970 00:00:00 GMT"
    ]


@pytest.mark.parametrize("route", [b"/fault", b"/silent"])
async def test_an_application_without_an_answer_is_a_500(
    client: Client, route: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    await client.send(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % route)
    answer = await client.answer()

    assert (answer.status, "fault" in answer.detail) == (500, True)
    assert ("on purpose" in caplog.text) == (route == b"/fault")


async def test_a_500_to_head_has_no_body(client: Client) -> None:
    await client.send(b"HEAD /fault HTTP/1.1\r\nHost: x\r\n\r\n" + GET)

    assert (await client.answer("HEAD")).status == 500
    assert (await client.answer()).json == {"hello": True}


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_an_answer_that_breaks_off_does_not_look_whole(
    client: Client, version: bytes
) -> None:
    """gunicorn#497. Without chunks or a length the end of the connection would look like one."""
    await client.send(b"GET /broken HTTP/%b\r\nHost: x\r\n\r\n" % version)
    if version == b"1.1":
        assert not (await client.answer()).whole
        return
    loop = client._loop
    with pytest.raises(ConnectionResetError):
        while await loop.sock_recv(client.sock, 65536):
            pass


WRONG: dict[str, tuple[list[Header], list[bytes]]] = {
    "more than the length": ([(b"content-length", b"2")], [b"hello"]),
    "less than the length": ([(b"content-length", b"9")], [b"hello"]),
    "two lengths": ([(b"content-length", b"5"), (b"content-length", b"5")], [b"hello"]),
    "a length that is none": ([(b"content-length", b"+5")], [b"hello"]),
    "a line end in a header": ([(b"x-a", b"1\r\nx-b: 2")], [b""]),
    "a name that is none": ([(b"x a", b"1")], [b""]),
}


@pytest.mark.parametrize(("headers", "body"), WRONG.values(), ids=WRONG)
async def test_a_wrong_answer_is_a_500_as_long_as_nothing_was_sent(
    headers: list[Header], body: list[bytes]
) -> None:
    answer, after = await told(*headers, body=body)

    assert (answer.status, "fault" in answer.detail) == (500, True)
    assert after.json == {"hello": True}


async def test_a_body_that_is_too_short_breaks_off(served: Serving, app: App) -> None:
    async def short(scope: Scope, receive: Receive, send: Send) -> None:
        await start(send, (b"content-length", b"9"))
        await send(piece(b"hello"))
        await send(piece(b"", more=False))

    async with serving(short) as other:
        answer = await other.ask(GET)

    assert (answer.body, answer.whole) == (b"hello", False)


async def test_the_body_of_an_early_answer_is_read_for_the_sake_of_the_next_request(
    client: Client,
) -> None:
    request = post(b"x" * 100_000, path=b"/early")
    await client.send(request[:1000])
    answer = await client.answer()
    await client.send(request[1000:] + GET)

    assert (answer.status, answer["connection"]) == (413, None)
    assert (await client.answer()).json == {"hello": True}


LEFT = {
    "length": post(GET * 3, path=b"/early"),
    "long": post(GET * 9000, path=b"/early"),
    "chunks": post(
        b"%x\r\n%b\r\n0\r\n\r\n" % (3 * len(GET), GET * 3),
        b"Transfer-Encoding: chunked",
        path=b"/early",
    ),
    "an offer": post(GET * 3, b"Connection: upgrade", b"Upgrade: h2c", path=b"/early"),
    "an invitation": post(GET * 3, b"Expect: 100-continue", path=b"/early"),
}


@pytest.mark.parametrize("request_", LEFT.values(), ids=LEFT)
@pytest.mark.parametrize("whole", [True, False])
async def test_a_body_that_nobody_has_read_is_no_request(
    client: Client, app: App, request_: bytes, whole: bool
) -> None:
    """deno#34446, hotaru#28, colibri#610: the body was read as the next request."""
    head = request_.index(b"\r\n\r\n") + 4
    await client.say(*([request_] if whole else [request_[:head], request_[head:]]))
    assert (await client.answer()).status == 413
    await client.say(b"GET /scope HTTP/1.1\r\nHost: x\r\n\r\n")
    client.half_close()
    await client.end()

    assert ("GET", "/hello") not in app.calls


async def test_an_early_answer_reaches_a_client_that_goes_on_sending(client: Client) -> None:
    """hyper#3078, aiohttp#927: a close at once resets the connection, and the answer is lost."""
    await client.send(post(b"x" * 1000, b"Content-Length: 50000000", path=b"/early"))
    for _ in range(20):
        await client.say(b"x" * 65536)
    answer = await client.answer()

    assert (answer.status, answer["connection"]) == (413, "close")
    client.half_close()
    assert await client.end() == b""


async def test_a_refusal_reaches_a_client_that_goes_on_sending(client: Client) -> None:
    await client.send(post(b"", b"Content-Length: +5"))
    for _ in range(20):
        await client.say(b"x" * 65536)

    assert (await client.answer()).status == 400


async def test_a_client_that_expects_an_invitation_gets_it_when_its_body_is_wanted(
    client: Client,
) -> None:
    request = post(b"[1]", b"Expect: 100-continue")
    await client.send(request[:-3])
    assert await client.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue"
    await client.send(request[-3:] + GET)

    assert [(await client.answer()).status for _ in range(2)] == [200, 200]


async def test_a_body_that_nobody_wants_is_not_invited(client: Client) -> None:
    """The client sends no body then, so the connection cannot go on (bandit#695, dusty#163)."""
    await client.send(post(b"[1]", b"Expect: 100-continue", path=b"/early")[:-3])
    answer = await client.answer()

    assert (answer.status, answer.interim, answer["connection"]) == (413, [], "close")


async def test_a_client_that_did_not_wait_for_the_invitation_gets_none(client: Client) -> None:
    await client.send(post(b"[1]", b"Expect: 100-continue"))

    assert (await client.answer()).interim == []


async def test_http_1_0_gets_no_invitation(client: Client) -> None:
    request = post(b"[1]", b"Expect: 100-continue").replace(b"HTTP/1.1", b"HTTP/1.0")
    await client.send(request[:-3], request[-3:])

    assert (await client.answer()).interim == []
