"""What the server logs."""

from __future__ import annotations

import logging
import re

import pytest

from rest_bridge.http import log as logs
from rest_bridge.http.log import Log
from tests.rest_bridge.http.app import App
from tests.rest_bridge.http.client import GET, Client, Serving, serving

NONSENSE = b"NONSENSE\r\n\r\n"


async def test_what_is_refused_is_logged_with_its_client(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    host, port = client.sock.getsockname()
    await client.send(NONSENSE)
    await client.answer()

    assert f"refused a request of {host}:{port} with 400: a request must begin" in caplog.text


async def test_what_repeats_is_logged_once_a_second_with_its_number(
    served: Serving, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(20):
        await served.ask(NONSENSE)
    await served.ask(b"GET / HTTP/1.1\r\n\r\n")  # of the same status, so of the same kind
    await served.ask(b"GET / HTTP/2.0\r\n\r\n")
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2

    monkeypatch.setattr(logs, "_EVERY", 0)
    await served.ask(NONSENSE)
    assert caplog.messages[-1].endswith("(and 20 more since the line before)")


async def test_what_clients_do_not_cause_is_not_logged(
    served: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    async with served.client() as client:
        await client.send(GET)
        await client.answer()
    async with served.client() as client:
        client.close(reset=True)

    assert caplog.text == ""


def test_kinds_are_bounded() -> None:
    log = Log()
    for number in range(1000):
        log.warn(f"kind {number}", "a line")

    assert len(log._last) <= 101


async def test_the_access_log_has_a_line_for_each_answer(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "rest_bridge.access")
    async with serving(app, access_log=True) as served:
        await served.ask(GET)
        await served.ask(GET.replace(b"/hello", b'/none"?a=-1.5&api_key=sk-1&b=&sk-2&&c=1=2'))
        await served.ask(GET.replace(b"/hello", b"/fault"))
        await served.ask(NONSENSE)

    lines = [
        re.sub(r"^127\.0\.0\.1:\d+ - ", "", record.getMessage())
        for record in caplog.records
        if record.name == "rest_bridge.access"
    ]
    assert lines == [
        '"GET /hello HTTP/1.1" 200',
        '"GET /none%22?a=-1.5&api_key=***&b=&***&&c=*** HTTP/1.1" 404',
        '"GET /fault HTTP/1.1" 500',
    ]


async def test_there_is_no_access_log_unless_it_is_wanted(
    served: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await served.ask(GET)

    assert caplog.text == ""


async def test_a_fault_is_logged_with_its_place(
    served: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(5):
        await served.ask(GET.replace(b"/hello", b"/fault"))

    assert caplog.text.count("RuntimeError: a fault on purpose") == 1
    assert "in _fault" in caplog.text
