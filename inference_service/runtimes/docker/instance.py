"""A running container, with a thread that follows its log and waits for its end."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace

from docker.errors import APIError, NotFound
from docker.models.containers import Container

from inference_service.errors import RuntimeUnavailable
from inference_service.runtimes.base import Exit, Instance
from inference_service.runtimes.command import Command
from inference_service.runtimes.docker.calls import UNAVAILABLE, Calls
from inference_service.runtimes.docker.ways import Way
from inference_service.runtimes.lines import Line, Lines
from inference_service.runtimes.logs import KEPT_LINES, LogBuffer

_RETRY = 0.5  # seconds between two attempts to reach a daemon that is away


class RunningContainer:
    """An engine that is a container.

    The log of a container ends when the container ends; but it also ends, without an error, when
    the daemon goes away. Therefore the thread reads the log, then asks whether the container still
    runs, and reads on if it does.
    """

    def __init__(
        self, container: Container, command: Command, port: int, calls: Calls, way: Way
    ) -> None:
        name = str(container.name)
        self.instance = Instance.local(name, port, command)
        self._container = container
        self._calls = calls
        self._way = way
        self._started_at = container.attrs["State"].get("StartedAt")
        self._log = LogBuffer(command.hidden)
        self._loop = asyncio.get_running_loop()
        self._exit: asyncio.Future[Exit] = self._loop.create_future()
        self._left = threading.Event()
        threading.Thread(target=self._follow, name=f"follow-{name}", daemon=True).start()

    async def listens(self) -> None:
        self.instance = replace(self.instance, url=f"http://{await self._way.listens()}")

    async def wait(self) -> Exit:
        return await asyncio.shield(self._exit)

    def logs(self, last: int = KEPT_LINES) -> AsyncGenerator[str]:
        return self._log.follow(last)

    def tail(self, count: int) -> tuple[str, ...]:
        return self._log.tail(count)

    async def disk_usage(self, paths: Sequence[str]) -> int | None:
        """Run `du` in the container: its volume need not be a folder of this machine."""
        command = ["du", "-ck", "--", *paths]
        try:
            done = await self._calls.call(self._container.exec_run, command, stderr=False)
        except (APIError, RuntimeUnavailable):
            return None
        assert isinstance(done.output, bytes)
        total = done.output.rstrip().rpartition(b"\n")[2].partition(b"\t")[0]
        return int(total) * 1024 if total.isdigit() and len(total) < 16 else None

    def leave(self) -> None:
        """Follow the container no longer; all that still wait get an unknown exit."""
        self._left.set()
        self._way.close()
        self._finish(Exit(None))

    def _follow(self) -> None:
        since = 0.0
        while not self._left.is_set():
            try:
                self._read(since)
                since = time.time()
                if (ended := self._ended()) is not None:
                    self._in_loop(self._finish, ended)
                    return
            except NotFound:
                self._in_loop(self._finish, Exit(None))
                return
            except (APIError, *UNAVAILABLE):
                self._left.wait(_RETRY)

    def _read(self, since: float) -> None:
        lines = Lines()
        for data in self._container.logs(
            stream=True, follow=True, since=since or None, tail=KEPT_LINES
        ):
            self._append([*lines.feed(data)])
        self._append([*lines.end()])

    def _append(self, lines: list[Line]) -> None:
        """Add lines to the log, and wait for the loop, which a container can outrun."""
        added = threading.Event()

        def add() -> None:
            for line in lines:
                self._log.append(*line)
            added.set()

        self._in_loop(add)
        while not (added.wait(_RETRY) or self._left.is_set() or self._loop.is_closed()):
            pass

    def _ended(self) -> Exit | None:
        self._container.reload()
        state = self._container.attrs["State"]
        if state["Running"]:
            # One that somebody has started anew may have another address, and no weights yet.
            return None if state.get("StartedAt") == self._started_at else Exit(None)
        return Exit(int(state["ExitCode"]), bool(state["OOMKilled"]))

    def _finish(self, exit: Exit) -> None:
        self._log.close()
        if not self._exit.done():
            self._exit.set_result(exit)

    def _in_loop(self, function: Callable[..., None], *args: object) -> None:
        if not self._left.is_set() and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *args)
