"""The health of the service and of each model: `grpc.health.v1`.

The servicer of the library writes to a watcher under the lock of its name, so that one watcher that
reads nothing silences the others, and the shutdown waits for it. Here nothing is held over a write.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any
from weakref import WeakValueDictionary

from grpc_health.v1 import health_pb2, health_pb2_grpc

from inference_service.errors import ModelNotFound
from inference_service.lifecycle import State
from inference_service.serving.models import Shown
from inference_service.serving.view import Removed

Answer = health_pb2.HealthCheckResponse
_health_pb2: Any = health_pb2  # the stubs of its types have no `List`


class Health(health_pb2_grpc.HealthServicer):
    """The statuses by name: "" and the service's own name, and the id of each model."""

    def __init__(self) -> None:
        self._statuses: dict[str, Any] = {}
        self._is_down = False
        # An event lives as long as somebody watches its name, which may be of no model.
        self._changes: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()

    def up(self, services: Iterable[str], model_ids: Iterable[str]) -> None:
        """Report that the services serve, and no model yet."""
        for name in services:
            self._set(name, Answer.SERVING)
        for model_id in model_ids:
            self._set(model_id, Answer.NOT_SERVING)

    def changed(self, shown: Shown) -> None:
        """Report whether a model serves."""
        if self._is_down:
            return
        if isinstance(shown, Removed):
            self._set(shown.id, None)
        else:
            ready = shown.status.state is State.READY
            self._set(shown.id, Answer.SERVING if ready else Answer.NOT_SERVING)

    def down(self) -> None:
        """Report that nothing serves any more."""
        self._is_down = True
        for name in self._statuses:
            self._set(name, Answer.NOT_SERVING)

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Any) -> Answer:
        status = self._statuses.get(request.service)
        if status is None:
            raise ModelNotFound(request.service, None, filter(None, self._statuses))
        return Answer(status=status)

    async def List(self, request: Any, context: Any) -> Any:
        statuses = {name: Answer(status=status) for name, status in self._statuses.items()}
        return _health_pb2.HealthListResponse(statuses=statuses)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:
        """Write the status at first, and the newest one whenever the watcher has read the last."""
        name, written = request.service, None
        while True:
            change = self._changes.setdefault(name, asyncio.Event())
            status = self._statuses.get(name, Answer.SERVICE_UNKNOWN)
            if status == written:
                await change.wait()
            else:
                await context.write(Answer(status=status))
                written = status

    def _set(self, name: str, status: Any) -> None:
        if status is not None:
            self._statuses[name] = status
        else:
            self._statuses.pop(name, None)
        if (change := self._changes.pop(name, None)) is not None:
            change.set()
