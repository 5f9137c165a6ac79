"""All models of the catalog: finds the supervisor of one, and ends them all."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, aclosing

from inference_service import failures
from inference_service.admission import Admission
from inference_service.catalog import Catalog, ModelSpec
from inference_service.engines.base import Engine
from inference_service.errors import ServiceError
from inference_service.history import Change, History
from inference_service.lifecycle import Status
from inference_service.runtimes.base import Runtime
from inference_service.supervisor import Lease, Supervisor, Timing

log = logging.getLogger(__name__)

Told = tuple[Supervisor, Status]  # a model, and its status after a change
Place = Callable[[ModelSpec], tuple[Runtime, Engine]]


class Manager:
    """The models by id. `place` says where, and by which engine, a model runs."""

    def __init__(
        self,
        catalog: Catalog,
        place: Place,
        timing: Timing,
        admission: Admission,
        changed: Callable[[Supervisor], None] = lambda _: None,
    ) -> None:
        def tell(supervisor: Supervisor) -> None:
            self._history.append((supervisor, supervisor.status))
            changed(supervisor)

        self._history: History[Told] = History()
        self._catalog = catalog
        self.admission = admission
        self._supervisors = {
            spec.id: Supervisor(spec, *place(spec), timing, admission, tell) for spec in catalog
        }

    def models(self) -> list[Supervisor]:
        """Every model, in the catalog's order."""
        return list(self._supervisors.values())

    def find(self, model_id: str) -> Supervisor:
        """The model of this id. Raises ModelNotFound."""
        return self._supervisors[self._catalog.find(model_id).id]

    def lease(
        self, model_id: str, idle_timeout: float | None = None, caller: str = ""
    ) -> AbstractAsyncContextManager[Lease]:
        """See `Supervisor.lease`."""
        return self.find(model_id).lease(idle_timeout, caller)

    async def adopt(self) -> None:
        """Take over the engines that an earlier run of this service has left."""
        for runtime in {id(s.runtime): s.runtime for s in self.models()}.values():
            launches = {s.model_id: s.launch for s in self.models() if s.runtime is runtime}
            for model_id, gpu_ids in (await runtime.survivors(launches)).items():
                self.admission.keep(model_id, gpu_ids)
                self._begin(self._supervisors[model_id])

    def preload(self) -> None:
        """Start the models that the catalog says to start with the service."""
        for supervisor in self._supervisors.values():
            if supervisor.spec.preload:
                self._begin(supervisor)

    def starting(self, model_id: str) -> AsyncGenerator[Status]:
        """See `Supervisor.starting`."""
        return self.find(model_id).starting()

    def _begin(self, supervisor: Supervisor) -> None:
        """Start a model that nobody asked for: what keeps it from that keeps nothing else."""
        try:
            supervisor.begin()
        except ServiceError as error:
            log.error("%s is not started with the service: %s", supervisor.model_id, error.message)

    async def watch(self, after: int) -> AsyncGenerator[Change[Told | None]]:
        """Yield changes after a revision, preceded by a snapshot where they are not known.

        The snapshot ends with None in place of a change. Raises ShuttingDown at the end.
        """
        while True:
            if after == 0 or not self._history.keeps(after):
                after = self._history.revision
                for supervisor in self.models():
                    yield Change(after, (supervisor, supervisor.status))
                yield Change(after, None)
            async with aclosing(self._history.after(after)) as changes:
                async for change in changes:
                    after = change.revision
                    yield Change(after, change.item)
            if self._history.closed:
                raise failures.shutting_down()

    async def close(self, drain: float) -> None:
        """Refuse callers, give running requests `drain` seconds, and stop every model.

        Called again meanwhile, it can only shorten the drain.
        """
        async with asyncio.TaskGroup() as group:
            for supervisor in self._supervisors.values():
                group.create_task(supervisor.close(drain))
        self._history.close()
