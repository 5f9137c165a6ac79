"""The access log of gRPC: one line for each call, when it has ended.

A line has the peer, the method, the model, the status and the seconds. It has no key, no name of a
caller and no text, whatever is asked.
"""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from typing import Any

import grpc

from inference_service.api.methods import Handlers, behaviour
from inference_service.printable import printable

log = logging.getLogger(__name__)

_LONGEST = 80  # characters of a model's name, which a caller makes up
_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}


def logged(service: str, handlers: Handlers) -> Handlers:
    """Return the methods of a service, each call of which is logged."""
    return {name: log_of(f"/{service}/{name}", handler) for name, handler in handlers.items()}


def log_of(path: str, handler: Any) -> grpc.RpcMethodHandler[Any, Any]:
    """Return a handler whose calls are logged as those of the method at `path`."""
    kind, handle = behaviour(handler)
    make = getattr(grpc, f"{kind}_rpc_method_handler")
    made: grpc.RpcMethodHandler[Any, Any] = make(
        partial(_handle, path, handle),
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )
    return made


async def _handle(path: str, handle: Any, request: Any, context: Any) -> Any:
    begun = time.monotonic()
    name: int | None = None
    try:
        return await handle(request, context)
    except asyncio.CancelledError:
        name = grpc.StatusCode.CANCELLED.value[0]
        raise
    finally:
        code = _NAMES.get(name or _number(context.code()), "UNKNOWN")
        line = '%s - "gRPC %s%s" %s %.3f s'
        log.info(line, _peer(context), path, _model(request), code, time.monotonic() - begun)


def _number(code: Any) -> int:
    """Return the number of a status, which grpc.aio has as a number, as an enum, or not yet."""
    return int(code.value[0] if isinstance(code, grpc.StatusCode) else code or 0)


def _peer(context: Any) -> str:
    """Return the address of the peer in the form of REST, such as `127.0.0.1:4000`."""
    peer = str(context.peer())
    return peer.removeprefix("ipv4:").removeprefix("ipv6:").replace("%5B", "[").replace("%5D", "]")


def _model(request: Any) -> str:
    """Return what a line says of the model, if the request names one."""
    name = getattr(request, "model_id", "")
    shown = name if len(name) <= _LONGEST else f"{name[:_LONGEST]}..."
    return f" {printable(shown)}".replace('"', "%22") if shown else ""
