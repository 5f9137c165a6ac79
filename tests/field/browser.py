"""A real browser: Chromium, driven over its DevTools protocol."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from tests.needs import require_program
from tests.waiting import SLOWLY, until, within

# Root runs no sandbox, a container has little shared memory, and nothing is fetched by Chromium
# itself. The names of pages lead to the loopback.
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
    "--host-resolver-rules=MAP *.test 127.0.0.1, EXCLUDE localhost",
    "--remote-debugging-port=0",
)


class Page:
    """The one page of a browser."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._number = 0

    async def open(self, url: str) -> None:
        """Go to a URL, and return when its page has loaded."""
        await self._call("Page.enable")
        await self._call("Page.navigate", url=url)
        await self._until(lambda message: message.get("method") == "Page.loadEventFired")

    async def run(self, script: str) -> Any:
        """Run the body of an async function in the page; return its result, or its error."""
        body = f"(async () => {{ try {{ {script} }} catch (error) {{ return String(error) }} }})()"
        answer = await self._call(
            "Runtime.evaluate", expression=body, awaitPromise=True, returnByValue=True
        )
        return answer["result"].get("value")

    async def _call(self, method: str, **params: Any) -> Any:
        self._number += 1
        number = self._number
        await self._socket.send_json({"id": number, "method": method, "params": params})
        answer = await self._until(lambda message: message.get("id") == number)
        assert "result" in answer, answer
        return answer["result"]

    async def _until(self, wanted: Any) -> dict[str, Any]:
        async with within(SLOWLY, "the browser did not answer"):
            while True:
                message: dict[str, Any] = await self._socket.receive_json()
                if wanted(message):
                    return message


@asynccontextmanager
async def browsing() -> AsyncGenerator[Page]:
    """Run a browser with an empty profile; give its page."""
    program = require_program("chromium")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            *(program, *FLAGS, f"--user-data-dir={profile}", "about:blank"),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            address = Path(profile) / "DevToolsActivePort"
            await until(lambda: address.exists() and address.read_text(), "no browser", SLOWLY)
            port = address.read_text().split()[0]
            async with aiohttp.ClientSession() as client:
                async with client.get(f"http://127.0.0.1:{port}/json") as listed:
                    pages = [page for page in await listed.json() if page["type"] == "page"]
                async with client.ws_connect(
                    pages[0]["webSocketDebuggerUrl"], max_msg_size=0
                ) as socket:
                    yield Page(socket)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


@asynccontextmanager
async def site() -> AsyncGenerator[int]:
    """Serve an empty page at every path, as the site of somebody; give its port."""

    async def page(_: web.Request) -> web.Response:
        return web.Response(text="<!doctype html><title>page</title>", content_type="text/html")

    app = web.Application()
    app.router.add_get("/{path:.*}", page)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
