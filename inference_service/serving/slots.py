"""The slots of a model: the requests that its engines work on at once, and the queue for them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from inference_service.errors import DeadlineTooShort, QueueFull, ServiceError
from inference_service.serving.queue import Caller, Queue

_WEIGHT = 0.2  # of the newest slot in the mean pace

NotifyPosition = Callable[[int], Awaitable[None]]

Slot = TypeVar("Slot")


class Slots(Generic[Slot]):
    """The slots that `take_free` finds, and a queue of at most `size` requests for them.

    `take_free` takes a slot for a caller, or returns None; so the engine is chosen when a slot is
    given, and not before. `give_back` undoes that. `released` is called when nobody waits any more.

    Callers are served round robin, by address first and by name within it, and the requests of one
    caller in the order of arrival: a caller who sends a hundred requests, or comes under a hundred
    names, does not delay the others by all of them. Nor does such a caller keep them out: when the
    queue is full, the caller who has most in it loses the last of them to the one who comes. `look`
    and `heartbeat` are seconds: between two looks at a queue position, and between two reports of
    one that does not change.
    """

    def __init__(
        self,
        model_id: str,
        take_free: Callable[[], Slot | None],
        give_back: Callable[[Slot], None],
        size: int,
        *,
        heartbeat: float,
        look: float = 1.0,
        released: Callable[[], None] = lambda: None,
    ) -> None:
        self._model_id = model_id
        self._take_free = take_free
        self._give_back = give_back
        self._released = released
        self._size = size
        self._look = look
        self._heartbeat = heartbeat
        self._waiting: Queue[asyncio.Future[Slot]] = Queue()
        self._given_at = math.nan  # when the last slot was given back, if somebody waited then
        self._pace: float | None = None  # mean seconds between two slots, while somebody waits
        self._failure: ServiceError | None = None
        self._starting = 0

    @property
    def queued(self) -> int:
        """The number of requests in the queue."""
        return self._waiting.size

    @property
    def wanted(self) -> bool:
        """Whether a caller waits, for a slot or for an engine that has slots."""
        return bool(self._waiting.size or self._starting)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count a caller who waits for an engine to be ready."""
        self._starting += 1
        try:
            yield
        finally:
            self._starting -= 1
            self._check_released()

    def take_now(self) -> Slot | None:
        """Return a slot that is free, and for which nobody waits. Raises the error of `close`."""
        if self._failure is not None:
            raise self._failure
        return None if self._waiting.size else self._take_free()

    async def take(
        self, caller: Caller, deadline: float = math.inf, notify: NotifyPosition | None = None
    ) -> Slot:
        """Wait for a slot. Its holder gives it back, and then calls `serve`.

        `notify` is awaited with the queue position, 1 is next: at first, at each change, and after
        each `heartbeat`. Raises QueueFull, DeadlineTooShort when the slot will not come before
        `deadline` at the present pace, and the error of `close`.
        """
        if (free := self.take_now()) is not None:
            return free
        loop = asyncio.get_running_loop()
        slot: asyncio.Future[Slot] = loop.create_future()
        self._waiting.add(caller, slot)
        try:
            self._in_time(caller, slot, deadline - loop.time())
            if self.queued > self._size:
                self._make_room(caller, slot)
            if notify is not None:
                await self._report(caller, slot, notify)
            taken = await slot
            if self._failure is not None:
                raise self._failure
            return taken
        except BaseException:
            if slot.done() and not slot.cancelled() and slot.exception() is None:
                self._give_back(slot.result())  # the slot came, but its caller does not use it
                self.serve()
            else:
                self._leave(caller, slot)
            raise

    def serve(self) -> None:
        """Give the slots that are free to the callers who have waited longest."""
        if self._waiting.size:
            self._pass_on()
        else:
            self._given_at = math.nan

    def close(self, failure: ServiceError) -> None:
        """Give no more slots: all who wait, and all who come, get this error."""
        self._failure = failure
        for slot in self._waiting.items():
            if not slot.done():
                slot.set_exception(failure)

    def _make_room(self, newcomer: Caller, new: asyncio.Future[Slot]) -> None:
        """Take the last request of the caller who has most out of a queue that is too long."""
        caller, slot = self._waiting.surplus(newcomer)
        full = QueueFull(self._model_id, self._size, gives_way=slot is not new)
        if slot is new:
            raise full
        self._leave(caller, slot)
        if not slot.done():
            slot.set_exception(full)

    def _pass_on(self) -> None:
        while self._waiting.size:
            caller, slot = self._waiting.first()
            if slot.done():  # cancelled, or closed: its own task has yet to learn of that
                self._leave(caller, slot)
                continue
            if (free := self._take_free()) is None:
                return
            self._leave(caller, slot)
            self._waiting.turn(caller)
            slot.set_result(free)
            self._note_pace()

    def _leave(self, caller: Caller, slot: asyncio.Future[Slot]) -> None:
        if self._waiting.has(caller, slot):  # else `serve` has passed over it
            self._waiting.remove(caller, slot)
            self._check_released()

    def _check_released(self) -> None:
        if not self.wanted:
            self._released()

    async def _report(
        self, caller: Caller, slot: asyncio.Future[Slot], notify: NotifyPosition
    ) -> None:
        # Looks at intervals: if each slot that is given back woke those who wait, a thousand would
        # be woken each time.
        clock = asyncio.get_running_loop().time
        reported, reported_at = 0, -math.inf
        while not slot.done():
            position = self._waiting.position(caller, slot)
            if position != reported or clock() - reported_at >= self._heartbeat:
                await notify(position)
                reported, reported_at = position, clock()
            await asyncio.wait([slot], timeout=self._look)

    def _note_pace(self) -> None:
        now = asyncio.get_running_loop().time()
        took = now - self._given_at
        self._given_at = now
        if not math.isnan(took):
            self._pace = took if self._pace is None else self._pace + _WEIGHT * (took - self._pace)

    def _in_time(self, caller: Caller, slot: asyncio.Future[Slot], time_left: float) -> None:
        """Raise DeadlineTooShort if the slot would come too late."""
        if self._pace is None or math.isinf(time_left):
            return
        position = self._waiting.position(caller, slot)
        if (wait := position * self._pace) > time_left:
            cause = f"{position - 1} requests are before it"
            raise DeadlineTooShort(self._model_id, time_left, wait, cause)
