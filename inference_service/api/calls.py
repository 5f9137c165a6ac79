"""The calls of gRPC that are open, and the share of each address in them."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import grpc

from inference_service.api.callers import NO_PROXIES, addresses
from inference_service.api.methods import Context, Handlers, behaviour
from inference_service.api.shares import Shares, TooMuch
from inference_service.errors import TooManyCalls
from rest_bridge.proxies import Proxies

MOST = 8192  # a call that waits holds about 30 kB


class Calls:
    """The open calls, at most `most`, of which each address has its share."""

    def __init__(self, proxies: Proxies = NO_PROXIES, most: int = MOST) -> None:
        self.closed = False
        self._proxies = proxies
        self._shares = Shares(most)
        self._tasks: set[asyncio.Task[Any]] = set()

    def enter(self, context: Context) -> None:
        """Count a call until its end. Raises TooManyCalls."""
        caller = addresses(context, self._proxies)
        try:
            self._shares.take(caller)
        except TooMuch as taken:
            raise TooManyCalls(taken.args[0]) from None
        task = asyncio.current_task()
        assert task is not None, "a call has a task of its own"
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # After the last byte: an answer that is not read keeps what it has.
        context.add_done_callback(lambda _: self._shares.give(caller))  # type: ignore[arg-type]

    async def close(self, grace: float) -> None:
        """End the calls that are still open after so many seconds, with SHUTTING_DOWN."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace)
        self.closed = True
        for task in self._tasks:
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
