"""The methods that the service does not have."""

from __future__ import annotations

from functools import partial
from typing import Any

import grpc

from inference_service.api.access import log_of
from inference_service.api.methods import Context, Door, gate
from inference_service.errors import MethodNotOffered


class Unknown(grpc.GenericRpcHandler):
    """The handler of every call that no other takes; gRPC itself would give no reason."""

    def __init__(self, door: Door, *, access_log: bool = False) -> None:
        self._door = door
        self._access_log = access_log

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        """Return a handler for calls of any kind, since the kind is not known."""
        path = details.method
        refuse = partial(_refuse, path)
        handle = partial(gate, path, refuse, door=self._door)
        handler: Any = grpc.stream_stream_rpc_method_handler(handle)
        return log_of(path, handler) if self._access_log else handler


async def _refuse(path: str, _: object, __: Context) -> None:
    raise MethodNotOffered(path)
