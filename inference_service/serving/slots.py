"""How many requests an engine works on at once, and whose turn is next."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable

from inference_service.errors import DeadlineTooShort, QueueFull, ServiceError

_LOOK = 1.0  # seconds between two looks of a waiter at its place
_SILENCE = 10  # looks after which it is told of its place although that has not changed
_WEIGHT = 0.2  # of the newest turn in the mean


class Turns:
    """At most `limit` turns at once, and at most `size` who wait for one.

    Callers take turns, and each caller's own requests go in the order in which they came: one who
    sends a hundred does not keep the others waiting for all of them.
    """

    def __init__(self, model_id: str, limit: int, size: int) -> None:
        self._model_id = model_id
        self._limit = limit
        self._taken = 0
        self._size = size
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self._given_at = math.nan  # when the last turn ended, if somebody waited then
        self._pace: float | None = None  # mean seconds from one end to the next, while some wait
        self.queued = 0

    async def take(
        self,
        caller: str,
        deadline: float = math.inf,
        tell: Callable[[int], Awaitable[None]] | None = None,
    ) -> None:
        """Wait for a turn, to be given back by `give`.

        `tell` is awaited with the place in the queue, of which 1 is next, at first, when it has
        changed, and every ten seconds. Raises QueueFull, what `close` is given, and
        DeadlineTooShort when the turn will not come before `deadline`, at the pace of late.
        """
        if self._taken < self._limit:  # then nobody waits
            self._taken += 1
            return
        if self.queued >= self._size:
            raise QueueFull(self._model_id, self._size)
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.setdefault(caller, deque()).append(turn)
        self.queued += 1
        try:
            self._in_time(caller, turn, deadline - loop.time())
            if tell is not None:
                await self._tell(caller, turn, tell)
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.give()  # it had come, but nobody is there any more to use it
            else:
                self._leave(caller, turn)
            raise

    def give(self) -> None:
        """End a turn: it goes to the caller who has waited longest for one."""
        self._taken -= 1
        if not self._waiting:
            self._given_at = math.nan
        self._pass_on()

    def close(self, failure: ServiceError) -> None:
        """End the wait of everybody with this error."""
        for turns in self._waiting.values():
            for turn in turns:
                if not turn.done():
                    turn.set_exception(failure)

    def _pass_on(self) -> None:
        while self._waiting and self._taken < self._limit:
            caller, turns = next(iter(self._waiting.items()))
            turn = turns[0]
            self._leave(caller, turn)
            if turn.done():  # cancelled, which its own task has yet to learn
                continue
            if caller in self._waiting:
                self._waiting.move_to_end(caller)
            turn.set_result(None)
            self._taken += 1
            self._note_pace()

    def _leave(self, caller: str, turn: asyncio.Future[None]) -> None:
        turns = self._waiting.get(caller, deque())
        if turn not in turns:  # passed over by `give`
            return
        turns.remove(turn)
        if not turns:
            del self._waiting[caller]
        self.queued -= 1

    def _place(self, caller: str, turn: asyncio.Future[None]) -> int:
        """1 for the next. Of others as many go before it as of its own, and one if they are due."""
        before = self._waiting[caller].index(turn)
        place, sooner = before + 1, 1
        for other, turns in self._waiting.items():
            if other == caller:
                sooner = 0
            else:
                place += min(len(turns), before + sooner)
        return place

    async def _tell(
        self, caller: str, turn: asyncio.Future[None], tell: Callable[[int], Awaitable[None]]
    ) -> None:
        # Looks, instead of being woken by each turn that ends: a thousand would be, each time.
        told = silence = 0
        while not turn.done():
            place = self._place(caller, turn)
            silence += 1
            if place != told or silence > _SILENCE:
                await tell(place)
                told, silence = place, 0
            await asyncio.wait([turn], timeout=_LOOK)

    def _note_pace(self) -> None:
        now = asyncio.get_running_loop().time()
        took = now - self._given_at
        self._given_at = now
        if not math.isnan(took):
            self._pace = took if self._pace is None else self._pace + _WEIGHT * (took - self._pace)

    def _in_time(self, caller: str, turn: asyncio.Future[None], time_left: float) -> None:
        """Raise DeadlineTooShort if the turn would come too late."""
        if self._pace is None or math.isinf(time_left):
            return
        place = self._place(caller, turn)
        if (wait := place * self._pace) > time_left:
            reason = f"{place - 1} requests are before it"
            raise DeadlineTooShort(self._model_id, time_left, wait, reason)
