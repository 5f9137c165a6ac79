"""A tap before a registry, with which a test holds a pull in the middle."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self


class Tap:
    """A proxy to `target` that holds its connections after `limit` bytes from there.

    `held` is set at that moment. After `open` or `drop` the tap holds no connection any more.
    """

    def __init__(self, target: str, limit: int) -> None:
        self._host, _, port = target.rpartition(":")
        self._port = int(port)
        self._room = limit
        self._opened = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.held = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.close()
        self.drop()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def open(self) -> None:
        """Let the held bytes pass."""
        self._opened.set()

    def drop(self) -> None:
        """Break all connections."""
        for writer in self._writers:
            writer.transport.abort()
        self._opened.set()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._pass(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, to_there = await asyncio.open_connection(self._host, self._port)
        ends = {writer, to_there}
        self._writers |= ends
        up = asyncio.create_task(self._copy(reader, to_there))
        down = asyncio.create_task(self._copy(there, writer, metered=True))
        await asyncio.wait([up, down], return_when=asyncio.FIRST_COMPLETED)
        for task in (up, down):
            task.cancel()
        await asyncio.wait([up, down])
        self._writers -= ends
        for end in ends:
            end.close()

    async def _copy(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, metered: bool = False
    ) -> None:
        try:
            while data := await reader.read(65536):
                if metered:
                    self._room -= len(data)
                    if self._room < 0:
                        self.held.set()
                        await self._opened.wait()
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            return
