"""The calls of gRPC that are open, and the share of each address in them."""

from __future__ import annotations

from functools import partial
from typing import Any

import grpc

from inference_service.api.callers import NO_PROXIES, Addresses, addresses
from inference_service.api.methods import Context, Handlers, behaviour
from inference_service.errors import TooManyCalls
from rest_bridge.proxies import Proxies

MOST = 8192  # a call that waits holds about 30 kB


class Calls:
    """The open calls, at most `most`.

    An address may have as many as are free: half of all where it is alone, a third each where two
    want all that they can get. So there is always room for the first calls of another. A bridge of
    this machine says for whom it calls, and so divides its half in the same way.
    """

    def __init__(self, proxies: Proxies = NO_PROXIES, most: int = MOST) -> None:
        self._proxies = proxies
        self._most = most
        self._open: dict[str, int] = {}  # by address
        self._forwarded: dict[Addresses, int] = {}
        self._count = 0

    def enter(self, context: Context) -> None:
        """Count a call until its end. Raises TooManyCalls."""
        caller = addresses(context, self._proxies)
        address, forwarded = caller
        count = self._open.get(address, 0)
        if count >= self._most - self._count:
            raise TooManyCalls(count)
        if forwarded:
            own = self._forwarded.get(caller, 0)
            if own >= self._most // 2 - count:
                raise TooManyCalls(own)
            self._forwarded[caller] = own + 1
        self._open[address] = count + 1
        self._count += 1
        # After the last byte: an answer that is not read keeps what it has.
        context.add_done_callback(partial(self._leave, caller))  # type: ignore[arg-type]

    def _leave(self, caller: Addresses, _: Context) -> None:
        address, forwarded = caller
        self._count -= 1
        if self._open[address] == 1:
            del self._open[address]
        else:
            self._open[address] -= 1
        if forwarded:
            self._forwarded[caller] -= 1
            if not self._forwarded[caller]:
                del self._forwarded[caller]


def counted(handlers: Handlers, calls: Calls) -> Handlers:
    """Return gated methods that count their calls."""
    return {name: _counted(handler, calls) for name, handler in handlers.items()}


def _counted(handler: Any, calls: Calls) -> grpc.RpcMethodHandler[Any, Any]:
    kind, handle = behaviour(handler)
    make = getattr(grpc, f"{kind}_rpc_method_handler")
    made: grpc.RpcMethodHandler[Any, Any] = make(
        partial(handle, enter=calls.enter),  # type: ignore[call-arg]
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )
    return made
