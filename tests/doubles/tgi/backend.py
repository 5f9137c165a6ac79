"""The shard's work and its queue: generations side by side, each at the pace of the model."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from .errors import GenerationError, InferError
from .faults import Behaviour, Fault, directives
from .log import BACKEND, CLIENT, Log
from .metrics import Metrics
from .model import Step, steps
from .validation import ValidRequest

_UNLIMITED = 2**31
_LOST = "transport error"
_GONE = "error trying to connect: No such file or directory (os error 2)"
_NO_CACHE = "The `past_key_values` should be either a `Cache` object or `None`."
_TRACE = (
    "Traceback (most recent call last):\n"
    '  File "/usr/src/server/text_generation_server/models/causal_lm.py", line 708, in forward\n'
    "    outputs = self.model.forward(**kwargs)\n"
)


class Shards:
    """The connections to the shards, whose ends are those of the shards."""

    def __init__(self) -> None:
        self.dead = asyncio.Event()
        self._writers: list[asyncio.StreamWriter] = []
        self._pids: list[int] = []
        self._watches: list[asyncio.Task[None]] = []

    async def connect(self, path: str, count: int) -> None:
        """Connect to each shard."""
        for rank in range(count):
            reader, writer = await asyncio.open_unix_connection(f"{path}-{rank}")
            self._writers.append(writer)
            self._pids.append(int(await reader.readline()))
            self._watches.append(asyncio.create_task(self._watch(reader)))

    async def _watch(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError):
            await reader.read()
        self.dead.set()

    def crash(self) -> None:
        """Let the first shard end with an error of its own."""
        self._writers[0].write(b"crash\n")

    def kill(self) -> None:
        """Kill all shards."""
        for pid in self._pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@dataclass(eq=False)
class Entry:
    """A queued or running generation; `closed` is set once its reader has gone."""

    request: ValidRequest
    results: asyncio.Queue[Step | InferError] = field(default_factory=asyncio.Queue)
    closed: asyncio.Event = field(default_factory=asyncio.Event)


class Backend:
    """The generations of the shards.

    The backend never waits for a reader: results queue up without a bound, as in the router's
    channel. On a CPU (`flash` is False) a batch of two or more fails at its next decode step.
    """

    def __init__(
        self,
        behaviour: Behaviour,
        metrics: Metrics,
        log: Log,
        *,
        flash: bool,
        max_batch_size: int | None,
    ) -> None:
        self.shards = Shards()
        self._behaviour = behaviour
        self._metrics = metrics
        self._log = log
        self._flash = flash
        # A model with chunking has no limit of its own: the router ignores this one.
        most = None if flash else max_batch_size
        self._slots = asyncio.Semaphore(most or _UNLIMITED)
        self._entries: set[Entry] = set()
        self._batch: set[Entry] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._healthy = True

    async def watch(self) -> None:
        """Wait for the death of a shard, and fail every generation at that moment."""
        await self.shards.dead.wait()
        self._fail_all(self._entries, _LOST)

    def schedule(self, request: ValidRequest) -> Entry:
        """Queue a request; its results arrive on the entry."""
        entry = Entry(request)
        self._entries.add(entry)
        if self.shards.dead.is_set():
            self._fail(entry, _GONE)
            return entry
        task = asyncio.create_task(self._run(entry))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return entry

    def healthy(self) -> bool:
        """Return the answer of `/health`."""
        return self._healthy and not self.shards.dead.is_set()

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
                self._batch.discard(entry)

    async def _generate(self, entry: Entry) -> None:
        fault = directives(entry.request.prompt.decode(errors="replace")).fault
        count = 0
        async with contextlib.aclosing(self._paced(entry, fault)) as paced:
            async for step in paced:
                if entry.closed.is_set() or entry not in self._entries:
                    return
                if count and not self._decodes():
                    return
                entry.results.put_nowait(step)
                count += 1
                self._batch.add(entry)  # from its prefill on
                if fault and count == fault.value and self._breaks(entry, fault):
                    return

    def _decodes(self) -> bool:
        """Make a decode step of the batch, which fails on a CPU if it is one of two or more."""
        if self._flash or len(self._batch) < 2:
            return True
        message = f"Method Decode encountered an error.\n{_TRACE}ValueError: {_NO_CACHE}"
        self._log.launcher(message, "ERROR")
        self._fail_all(self._batch, _NO_CACHE)
        return False

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
                self.shards.crash()
                self._fail_all(self._entries, _LOST)
            case "shard_after":
                self.shards.kill()
                self._fail_all(self._entries, _LOST)
            case "router_after":
                os.kill(os.getpid(), signal.SIGKILL)
            case "kill_after":
                self.shards.kill()
                for pid in (os.getppid(), os.getpid()):
                    os.kill(pid, signal.SIGKILL)
            case _:
                return False
        return True

    def _fail_all(self, entries: set[Entry], message: str) -> None:
        error = f"Server error: {message}"
        if entries:
            self._log.router(CLIENT, 45, error, level="ERROR", span="decode")
        for entry in list(entries):
            self._fail(entry, message)
            text = f"Request failed during generation: {error}"
            self._log.router(BACKEND, 546, text, level="ERROR", span="send_error")

    def _fail(self, entry: Entry, message: str) -> None:
        self._entries.discard(entry)
        self._batch.discard(entry)
        entry.results.put_nowait(GenerationError(message))
