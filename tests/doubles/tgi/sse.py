"""Server-sent events in the router's frames, with the faults that a test can order."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

from aiohttp import web

from .faults import Behaviour, Fault

HEADERS = {
    "content-type": "text/event-stream",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}


def dumps(value: object) -> str:
    """Return JSON as the router writes it: without blanks, and with characters unescaped."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


class EventStream:
    """The events of one response, up to their end or to the fault."""

    def __init__(
        self, response: web.StreamResponse, behaviour: Behaviour, fault: Fault | None
    ) -> None:
        self._response = response
        self._prefix = "data: " if behaviour.sse_space else "data:"
        self._silence = behaviour.keepalive_seconds
        self._fault = fault
        self._sent = 0

    async def send(self, events: AsyncIterator[object]) -> None:
        """Send every event, and a comment after each silence."""
        waiting: asyncio.Future[object] | None = None
        try:
            while True:
                waiting = waiting or asyncio.ensure_future(anext(events, None))
                done, _ = await asyncio.wait({waiting}, timeout=self._silence)
                if not done:
                    await self._response.write(b":\n\n")
                    continue
                event, waiting = waiting.result(), None
                if event is None or not await self._event(event):
                    return
        finally:
            if waiting is not None:
                waiting.cancel()
                await asyncio.wait({waiting})

    async def _event(self, event: object) -> bool:
        frame = f"{self._prefix}{dumps(event)}\n\n".encode()
        fault, self._sent = self._fault, self._sent + 1
        if fault is None:
            await self._response.write(frame)
        elif fault.name == "bytes":
            for byte in frame:
                await self._response.write(bytes([byte]))
        elif fault.name == "half_event" and self._sent > max(fault.value, 1):
            await self._response.write(frame[: len(frame) // 2])
            raise Hangup
        elif fault.name == "garbage" and self._sent > max(fault.value, 1):
            await self._response.write(f"{self._prefix}{{not json\n\n".encode())
            return False
        else:
            await self._response.write(frame)
            return not (fault.name == "cut_after" and self._sent >= fault.value)
        return True


class Hangup(Exception):
    """The order to close the connection now, at any place of the answer."""
