"""The shard and its queue: generations side by side, each at the pace of the model."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from .errors import GenerationError, InferError
from .faults import Behaviour, Fault, directives
from .metrics import Metrics
from .model import Step, steps
from .validation import ValidRequest

_UNLIMITED = 2**31


@dataclass(eq=False)
class Entry:
    """A queued or running generation; `closed` is set once its reader has gone."""

    request: ValidRequest
    results: asyncio.Queue[Step | InferError] = field(default_factory=asyncio.Queue)
    closed: asyncio.Event = field(default_factory=asyncio.Event)


class Backend:
    """The generations of one shard.

    The backend never waits for a reader: results queue up without a bound, as in the router's
    channel.
    """

    def __init__(self, behaviour: Behaviour, metrics: Metrics, max_batch_size: int | None) -> None:
        self.crashed = asyncio.Event()
        self._behaviour = behaviour
        self._metrics = metrics
        self._slots = asyncio.Semaphore(max_batch_size or _UNLIMITED)
        self._entries: set[Entry] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._healthy = True

    def schedule(self, request: ValidRequest) -> Entry:
        """Queue a request; its results arrive on the entry."""
        entry = Entry(request)
        self._entries.add(entry)
        task = asyncio.create_task(self._run(entry))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return entry

    def healthy(self) -> bool:
        """Return the answer of `/health`."""
        return self._healthy and not self.crashed.is_set()

    def crash(self) -> None:
        """Let the shard die: every generation fails at once, and so does each later one."""
        self.crashed.set()
        for entry in list(self._entries):
            self._fail(entry, "transport error")

    async def _run(self, entry: Entry) -> None:
        self._metrics.add("tgi_queue_size", 1)
        async with self._slots:
            self._metrics.add("tgi_queue_size", -1)
            self._metrics.add("tgi_batch_current_size", 1)
            try:
                await self._generate(entry)
            finally:
                self._metrics.add("tgi_batch_current_size", -1)
                self._entries.discard(entry)

    async def _generate(self, entry: Entry) -> None:
        fault = directives(entry.request.prompt.decode(errors="replace")).fault
        count = 0
        async with contextlib.aclosing(self._paced(entry, fault)) as paced:
            async for step in paced:
                if entry.closed.is_set() or entry not in self._entries:
                    return
                if self.crashed.is_set():
                    return self._fail(entry, "transport error")
                entry.results.put_nowait(step)
                count += 1
                if fault and count == fault.value and self._breaks(entry, fault):
                    return

    async def _paced(self, entry: Entry, fault: Fault | None) -> AsyncGenerator[Step]:
        """Yield each step at its time. The step after the last wanted one is not computed."""
        speed = self._behaviour.tokens_per_second
        interval = 1 / speed if speed else 0.0
        loop = asyncio.get_running_loop()
        await self._delay(entry, fault)
        due = loop.time()
        for step in steps(entry.request):
            due += interval
            await asyncio.sleep(max(due - loop.time(), 0))
            yield step

    async def _delay(self, entry: Entry, fault: Fault | None) -> None:
        """Apply the faults before the first token; only here a closed entry ends a wait at once."""
        if fault is None:
            return
        if fault.name == "unhealthy":
            self._healthy = False
        if fault.name in ("slow_first", "silent"):
            seconds = fault.value if fault.name == "slow_first" else None
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(entry.closed.wait(), seconds)

    def _breaks(self, entry: Entry, fault: Fault) -> bool:
        match fault.name:
            case "error_after":
                self._fail(entry, "Unexpected <class 'RuntimeError'>: probabilities are not finite")
            case "crash_after":
                self.crash()
            case "kill_after":
                os.kill(os.getpid(), signal.SIGKILL)
            case _:
                return False
        return True

    def _fail(self, entry: Entry, message: str) -> None:
        self._entries.discard(entry)
        entry.results.put_nowait(GenerationError(message))
