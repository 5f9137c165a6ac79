"""How many requests an engine works on at once, and whose turn is next."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque

from inference_service import failures


class Turns:
    """At most `limit` turns at once, and at most `size` who wait for one.

    Callers take turns, and each caller's own requests go in the order in which they came: one who
    sends a hundred does not keep the others waiting for all of them.
    """

    def __init__(self, model_id: str, limit: int, size: int) -> None:
        self._model_id = model_id
        self._free = limit
        self._size = size
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self.queued = 0

    async def take(self, caller: str) -> None:
        """Wait for a turn, to be given back by `give`. Raises QueueFull."""
        if self._free:  # then nobody waits
            self._free -= 1
            return
        if self.queued >= self._size:
            raise failures.queue_full(self._model_id, self._size)
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(caller, deque()).append(turn)
        self.queued += 1
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._leave(caller, turn)
            else:  # it had come, but nobody is there any more to use it
                self.give()
            raise

    def give(self) -> None:
        """End a turn: it goes to the caller who has waited longest for one."""
        while self._waiting:
            caller, turns = next(iter(self._waiting.items()))
            turn = turns[0]
            self._leave(caller, turn)
            if turn.done():  # cancelled, which its own task has yet to learn
                continue
            if caller in self._waiting:
                self._waiting.move_to_end(caller)
            turn.set_result(None)
            return
        self._free += 1

    def _leave(self, caller: str, turn: asyncio.Future[None]) -> None:
        turns = self._waiting.get(caller, deque())
        if turn not in turns:  # passed over by `give`
            return
        turns.remove(turn)
        if not turns:
            del self._waiting[caller]
        self.queued -= 1
