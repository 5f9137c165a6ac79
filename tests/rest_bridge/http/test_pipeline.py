"""Several requests on one connection."""

from __future__ import annotations

from tests.rest_bridge.http.app import App
from tests.rest_bridge.http.client import GET, Client, Serving, post

SLOW = b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n"


async def test_requests_in_one_segment_are_answered_in_order(client: Client) -> None:
    await client.send(post(b"[1]") + post(b"[2]") + post(b"[3]"))

    assert [(await client.answer()).json["got"] for _ in range(3)] == [[1], [2], [3]]


async def test_a_slow_answer_holds_those_behind_it(client: Client, app: App) -> None:
    await client.send(SLOW + GET + post(b"[1]"))
    assert [path for _, path in app.calls] == ["/slow"]
    app.go.set()

    answers = [await client.answer() for _ in range(3)]
    assert [answer.json for answer in answers] == [{"slow": True}, {"hello": True}, {"got": [1]}]


async def test_two_thousand_requests_at_once(client: Client) -> None:
    await client.say(GET * 2000)

    for _ in range(2000):
        assert (await client.answer()).status == 200


async def test_few_of_many_requests_are_held(served: Serving, app: App) -> None:
    """uvicorn holds each request of a pipeline, and pauses the reading only."""
    async with served.client() as client:
        await client.send(SLOW)
        client.sock.setblocking(False)
        await client.send(GET * 2000)
        (connection,) = served.server._shared.open
        assert len(connection._pipeline.queue) < 350  # type: ignore[attr-defined]
        app.go.set()
        assert (await client.answer()).json == {"slow": True}
        for _ in range(2000):
            assert (await client.answer()).status == 200


async def test_what_follows_connection_close_is_no_request(client: Client, app: App) -> None:
    """uvicorn#2238."""
    await client.send(GET[:-2] + b"Connection: close\r\n\r\n" + GET)

    answer = await client.answer()
    assert (answer.status, answer["connection"]) == (200, "close")
    client.half_close()
    assert (await client.end(), len(app.calls)) == (b"", 1)


async def test_a_refusal_comes_behind_the_answers_before_it(client: Client, app: App) -> None:
    await client.send(SLOW + GET + b"NONSENSE\r\n\r\n")
    app.go.set()

    assert [(await client.answer()).status for _ in range(3)] == [200, 200, 400]
    client.half_close()
    assert await client.end() == b""


async def test_a_connection_is_kept_over_many_requests(client: Client) -> None:
    for number in range(100):
        await client.send(post(b"%d" % number))
        assert (await client.answer()).json == {"got": number}


async def test_a_body_that_comes_while_another_request_is_answered(
    client: Client, app: App
) -> None:
    request = post(b"[1,2]")
    await client.send(SLOW + request[:-3], request[-3:])
    app.go.set()

    assert (await client.answer()).json == {"slow": True}
    assert (await client.answer()).json == {"got": [1, 2]}


async def test_bodies_of_requests_that_wait_are_bounded(served: Serving, app: App) -> None:
    """Each is small, but all together are not read."""
    body = b'"%b"' % (b"a" * 60_000)
    async with served.client() as client:
        await client.send(SLOW)
        sent = 0
        client.sock.setblocking(False)
        for _ in range(1000):
            try:
                sent += client.sock.send(post(body))
            except BlockingIOError:
                break
            await client.send()
        (connection,) = served.server._shared.open
        assert connection._pipeline.waiting < 300_000  # type: ignore[attr-defined]
        app.go.set()
        assert (await client.answer()).json == {"slow": True}
        assert (await client.answer()).status == 200
