"""A sink that keeps what it gets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from inference_service.engines.exchange import Head, Source
from tests.waiting import SLOWLY, within


class Kept:
    """The calls of a sink; `on_head` and `on_data` may use the source, which is there by then."""

    def __init__(
        self,
        on_head: Callable[[Kept], None] = lambda _: None,
        on_data: Callable[[Kept], None] = lambda _: None,
    ) -> None:
        self.heads: list[Head] = []
        self.pieces: list[bytes] = []
        self.ends: list[Exception | None] = []
        self.source: Source
        self._on_head = on_head
        self._on_data = on_data
        self._change = asyncio.Event()

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    def head(self, head: Head, source: Source) -> None:
        assert not (self.heads or self.pieces or self.ends)
        self.heads.append(head)
        self.source = source
        self._changed()
        self._on_head(self)

    def data(self, data: bytes) -> None:
        assert self.heads and data and not self.ends
        self.pieces.append(data)
        self._changed()
        self._on_data(self)

    def end(self, error: Exception | None) -> None:
        assert self.heads and not self.ends
        self.ends.append(error)
        self._changed()

    async def until(self, condition: Callable[[Kept], object], what: str) -> None:
        """Return when the condition holds."""
        async with within(SLOWLY, f"this did not happen: {what}"):
            while not condition(self):
                await self._change.wait()

    def _changed(self) -> None:
        self._change.set()
        self._change = asyncio.Event()
