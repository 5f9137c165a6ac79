"""The health of the service and of each model: `grpc.health.v1`.

The servicer of the library writes to a watcher under the lock of its name, so that one watcher that
reads nothing silences the others, and the shutdown waits for it. Here nothing is held over a write.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any
from weakref import WeakValueDictionary

from grpc_health.v1 import health_pb2, health_pb2_grpc

from inference_service.api.statuses import retry_helps
from inference_service.api.writer import Writer
from inference_service.errors import ModelNotFound, ServiceError, ShuttingDown
from inference_service.serving.models import Shown
from inference_service.serving.view import Removed

Answer = health_pb2.HealthCheckResponse
_health_pb2: Any = health_pb2  # the stubs of its types have no `List`

Refusal = Callable[[str], ServiceError | None]  # of a call for the model with this id


def _no_refusal(_: str) -> None:
    return None


class Health(health_pb2_grpc.HealthServicer):
    """The statuses by name: "" and the service's own name, and the id of each model.

    A model serves where a call is served or starts the model. Else a channel that checks the health
    of its model would hold back the call that starts it.
    """

    def __init__(self) -> None:
        self._statuses: dict[str, Any] = {}
        self._refusal: Refusal = _no_refusal
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._is_down = self._is_over = False
        # An event lives as long as somebody watches its name, which may be of no model.
        self._changes: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()

    def up(
        self, services: Iterable[str], model_ids: Iterable[str], refusal: Refusal = _no_refusal
    ) -> None:
        """Report that the services serve, and those models that `refusal` does not refuse."""
        self._refusal = refusal
        for name in services:
            self._set(name, Answer.SERVING)
        for model_id in model_ids:
            self._look(model_id)

    def changed(self, shown: Shown) -> None:
        """Report whether a model serves."""
        if self._is_down:
            return
        if isinstance(shown, Removed):
            self._keep_timer(shown.id, None)
            self._set(shown.id, None)
        else:
            self._look(shown.id)

    def down(self) -> None:
        """Report that nothing serves any more."""
        self._is_down = True
        for name in self._statuses:
            self._keep_timer(name, None)
            self._set(name, Answer.NOT_SERVING)

    def end(self) -> None:
        """End the watches, with the error of a service that shuts down."""
        self._is_over = True
        for change in self._changes.values():
            change.set()

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
        writer = Writer(context)
        while not self._is_over:
            change = self._changes.setdefault(name, asyncio.Event())
            status = self._statuses.get(name, Answer.SERVICE_UNKNOWN)
            if status == written:
                await change.wait()
            else:
                await writer.write(Answer(status=status))
                written = status
        raise ShuttingDown

    def _look(self, model_id: str) -> None:
        """Set the status of a model, and look again when its back-off is over."""
        error = self._refusal(model_id)
        self._set(model_id, Answer.SERVING if error is None else Answer.NOT_SERVING)
        wait = error.retry_after if error is not None and retry_helps(error) else None
        self._keep_timer(model_id, wait)

    def _keep_timer(self, model_id: str, wait: float | None) -> None:
        if (timer := self._timers.pop(model_id, None)) is not None:
            timer.cancel()
        if wait is not None:
            loop = asyncio.get_running_loop()
            self._timers[model_id] = loop.call_later(wait, self._look, model_id)

    def _set(self, name: str, status: Any) -> None:
        if status is not None:
            self._statuses[name] = status
        else:
            self._statuses.pop(name, None)
        if (change := self._changes.pop(name, None)) is not None:
            change.set()
