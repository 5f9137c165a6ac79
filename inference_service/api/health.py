"""The health of the service and of each model: `grpc.health.v1`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from grpc_health.v1 import health, health_pb2

from inference_service.lifecycle import State
from inference_service.serving.models import Shown
from inference_service.serving.view import Removed, View

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_REMOVED = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


def _status(view: View) -> Any:
    return _SERVING if view.status.state is State.READY else _NOT_SERVING


class Health:
    """The statuses by name: "" and the service's own name, and the id of each model."""

    def __init__(self) -> None:
        self.servicer = health.aio.HealthServicer()
        self._updates: set[asyncio.Task[None]] = set()  # asyncio itself keeps no reference

    async def up(self, services: Iterable[str], model_ids: Iterable[str]) -> None:
        """Report that the services serve, and no model yet."""
        for name in services:
            await self.servicer.set(name, _SERVING)
        for model_id in model_ids:
            await self.servicer.set(model_id, _NOT_SERVING)

    def changed(self, shown: Shown) -> None:
        """Report whether a model serves."""
        status = _REMOVED if isinstance(shown, Removed) else _status(shown)
        update = asyncio.ensure_future(self.servicer.set(shown.id, status))
        self._updates.add(update)
        update.add_done_callback(self._updates.discard)

    async def down(self) -> None:
        """Report that nothing serves any more."""
        await self.servicer.enter_graceful_shutdown()
