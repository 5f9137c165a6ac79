"""All models of the catalog: finds the supervisor of one, and ends them all."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from inference_service.capacity.admission import Admission
from inference_service.catalog import Catalog, ModelSpec
from inference_service.engines.base import Engine
from inference_service.errors import ServiceError, ShuttingDown
from inference_service.lifecycle import Status
from inference_service.runtimes.base import Runtime
from inference_service.serving.history import Change, History
from inference_service.serving.model import Supervisor, Timing
from inference_service.serving.start_times import StartTimes

log = logging.getLogger(__name__)

# A model, and its status after a change; None when it was removed from the catalog, and is gone.
Told = tuple[Supervisor, Status | None]
Place = Callable[[ModelSpec], tuple[Runtime, Engine]]


@dataclass(frozen=True, slots=True)
class Reload:
    """The ids of the models that another catalog has changed.

    `changed` go on as they are; `restarted` are drained and started anew, if they ran.
    """

    added: tuple[str, ...]
    changed: tuple[str, ...]
    restarted: tuple[str, ...]
    removed: tuple[str, ...]


class Manager:
    """The models by id. `place` says where, and by which engine, a model runs."""

    def __init__(
        self,
        catalog: Catalog,
        place: Place,
        timing: Timing,
        admission: Admission,
        changed: Callable[[Supervisor], None] = lambda _: None,
        start_times: StartTimes | None = None,
    ) -> None:
        self._history: History[Told] = History()
        self._catalog = catalog
        self._place = place
        self._timing = timing
        self.admission = admission
        self._on_change = changed
        self._start_times = start_times or StartTimes()
        self._supervisors = {spec.id: self._supervisor(spec) for spec in catalog}

    def _supervisor(self, spec: ModelSpec) -> Supervisor:
        where = self._place(spec)
        return Supervisor(spec, *where, self._timing, self.admission, self._tell, self._start_times)

    def _tell(self, supervisor: Supervisor) -> None:
        self._history.append((supervisor, supervisor.status))
        self._on_change(supervisor)
        if supervisor.gone:
            del self._supervisors[supervisor.model_id]
            self._history.append((supervisor, None))

    def models(self) -> list[Supervisor]:
        """Every model, in the catalog's order."""
        return [self._supervisors[spec.id] for spec in self._catalog]

    def find(self, model_id: str) -> Supervisor:
        """The model of this id. Raises ModelNotFound."""
        return self._supervisors[self._catalog.find(model_id).id]

    async def adopt(self) -> None:
        """Take over the engines that an earlier run of this service has left."""
        for runtime in {id(s.runtime): s.runtime for s in self.models()}.values():
            launches = {s.model_id: s.launch for s in self.models() if s.runtime is runtime}
            for model_id, gpu_ids in (await runtime.survivors(launches)).items():
                self.admission.keep(model_id, gpu_ids)
                self._begin(self._supervisors[model_id], adopts=True)

    def preload(self) -> None:
        """Start the models that the catalog says to start with the service."""
        for supervisor in self.models():
            if supervisor.spec.preload:
                self._begin(supervisor)

    def reload(self, catalog: Catalog) -> Reload:
        """Put another catalog into force, and return what that changes.

        A model whose entry is the same is not touched. Calls find the new entries at once, and wait
        for models that have to be drained and started again.
        """
        added: list[str] = []
        changed: list[str] = []
        restarted: list[str] = []
        old = {spec.id: spec for spec in self._catalog}
        self._catalog = catalog
        for spec in catalog:
            if old.get(spec.id) == spec:
                continue
            known = self._supervisors.get(spec.id)
            if known is None:
                known = self._supervisors[spec.id] = self._supervisor(spec)
                self._tell(known)
            elif known.change(spec, *self._place(spec)):
                restarted.append(spec.id)
                continue
            (changed if spec.id in old else added).append(spec.id)
            if spec.preload:
                self._begin(known)
        removed = [model_id for model_id in old if model_id not in catalog]
        for model_id in removed:
            self._supervisors[model_id].withdraw()
        return Reload(tuple(added), tuple(changed), tuple(restarted), tuple(removed))

    def _begin(self, supervisor: Supervisor, adopts: bool = False) -> None:
        """Start a model that nobody asked for: what keeps it from that keeps nothing else."""
        try:
            supervisor.begin(adopts)
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
                raise ShuttingDown()

    async def close(self, drain: float) -> None:
        """Refuse callers, give running requests `drain` seconds, and stop every model.

        Called again meanwhile, it can only shorten the drain.
        """
        async with asyncio.TaskGroup() as group:
            for supervisor in self._supervisors.values():
                group.create_task(supervisor.close(drain))
        self._history.close()
