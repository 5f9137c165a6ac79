"""The calls of gRPC that are open, and the share of each address in them."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import grpc

from inference_service.api.callers import NO_PROXIES, addresses
from inference_service.api.methods import Context, Handlers, behaviour
from inference_service.api.shares import Shares, TooMuch
from inference_service.errors import DeadlinePassed, ServiceError, ShuttingDown, TooManyCalls
from rest_bridge.proxies import Proxies

MOST = 8192  # a call that waits holds about 30 kB

# A call is ended a moment before its deadline, at which its client looks at no status any more.
_SOONER = 0.05  # seconds
_SOONER_SHARE = 0.05  # of the time that a call has


class _Open:
    """A call that is open, and the error with which it is ended, if it is."""

    __slots__ = ("error", "timer")

    def __init__(self) -> None:
        self.error: ServiceError | None = None
        self.timer: asyncio.TimerHandle | None = None


class Calls:
    """The open calls, at most `most`, of which each address has its share."""

    def __init__(self, proxies: Proxies = NO_PROXIES, most: int = MOST) -> None:
        self._proxies = proxies
        self._shares = Shares(most)
        self._open: dict[asyncio.Task[Any], _Open] = {}

    def enter(self, context: Context) -> None:
        """Count the call of this task until its end. Raises TooManyCalls."""
        caller = addresses(context, self._proxies)
        try:
            self._shares.take(caller)
        except TooMuch as taken:
            raise TooManyCalls(taken.args[0]) from None
        # After the last byte: an answer that is not read keeps what it has.
        context.add_done_callback(lambda _: self._shares.give(caller))  # type: ignore[arg-type]
        task = asyncio.current_task()
        assert task is not None, "a call has a task of its own"
        call = self._open[task] = _Open()
        if (left := context.time_remaining()) is not None:
            soon = max(0.0, left - min(_SOONER, left * _SOONER_SHARE))
            loop = asyncio.get_running_loop()
            call.timer = loop.call_later(soon, self._end, task, call, DeadlinePassed(left))

    def leave(self) -> ServiceError | None:
        """Return the error with which the call of this task is ended, if it is; end it no more."""
        call = self._open.pop(asyncio.current_task(), None)  # type: ignore[arg-type]
        if call is None:
            return None
        if call.timer is not None:
            call.timer.cancel()
        return call.error

    async def close(self, grace: float) -> None:
        """End the calls that are still open after so many seconds, with SHUTTING_DOWN."""
        if self._open:
            await asyncio.wait(self._open, timeout=grace)
        for task, call in self._open.items():
            self._end(task, call, ShuttingDown())

    @staticmethod
    def _end(task: asyncio.Task[Any], call: _Open, error: ServiceError) -> None:
        call.error = error
        task.cancel()


def counted(handlers: Handlers, calls: Calls) -> Handlers:
    """Return gated methods that count their calls."""
    return {name: _counted(handler, calls) for name, handler in handlers.items()}


def _counted(handler: Any, calls: Calls) -> grpc.RpcMethodHandler[Any, Any]:
    kind, handle = behaviour(handler)
    make = getattr(grpc, f"{kind}_rpc_method_handler")
    made: grpc.RpcMethodHandler[Any, Any] = make(
        partial(handle, door=calls),  # type: ignore[call-arg]
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )
    return made
