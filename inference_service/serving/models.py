"""All models of the catalog, by id."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from inference_service.capacity.admission import Admission
from inference_service.catalog import Catalog, ModelSpec
from inference_service.errors import ServiceError, ShuttingDown
from inference_service.key import Key
from inference_service.runtimes.base import Runtime
from inference_service.serving.entry import Entry
from inference_service.serving.history import NO_REVISION, Change, History
from inference_service.serving.model import Look, Model
from inference_service.serving.start_times import StartTimes
from inference_service.serving.timing import Timing
from inference_service.serving.view import Removed, View

log = logging.getLogger(__name__)

Shown = View | Removed
Place = Callable[[ModelSpec], Entry]
Item = TypeVar("Item")

_TURN = 50  # models that a reload changes without a pause, which takes 10 ms


@dataclass(frozen=True, slots=True)
class Reload:
    """The ids of the models that another catalog has changed.

    `changed` models go on running; `restarted` ones are drained and started again, if they ran.
    """

    added: tuple[str, ...]
    changed: tuple[str, ...]
    restarted: tuple[str, ...]
    removed: tuple[str, ...]


class Models:
    """The models by id. `place` chooses the runtime and the engine of a model.

    `notify` is called with each change, in order. `count` and `look` are those of `Model`.
    """

    def __init__(
        self,
        catalog: Catalog,
        place: Place,
        timing: Timing,
        admission: Admission,
        start_times: StartTimes,
        notify: Callable[[Shown], None] = lambda _: None,
        count: int = 1,
        look: Look | None = None,
    ) -> None:
        self._history: History[Shown] = History()
        self._catalog = catalog
        self._place = place
        self._timing = timing
        self._admission = admission
        self._start_times = start_times
        self._count = count
        self._look = look
        self._notify = notify
        self._closing = False
        self._models = {spec.id: self._model(place(spec)) for spec in catalog}

    def __iter__(self) -> Iterator[Model]:
        """Iterate over the models, in the catalog's order."""
        return iter([self._models[spec.id] for spec in self._catalog])

    def find(self, model_id: str) -> Model:
        """Return the model of this name. Raises ModelNotFound."""
        return self._models[self._catalog.find(model_id).id]

    def refusal(self, model_id: str) -> ServiceError | None:
        """Return the refusal of the model with this id; see `Model.refusal`."""
        return self._models[model_id].refusal()

    async def adopt(self) -> None:
        """Take over the engines that an earlier run of this service has left."""
        for runtime in {id(m.entry.runtime): m.entry.runtime for m in self}.values():
            commands = {m.id: m.entry.command for m in self if m.entry.runtime is runtime}
            self._adopt(await runtime.survivors(commands))

    def _adopt(self, survivors: Mapping[Key, tuple[str, ...]]) -> None:
        numbers: dict[str, list[int]] = {}
        for key, gpu_ids in survivors.items():
            self._admission.keep(key, gpu_ids)
            numbers.setdefault(key.model_id, []).append(key.number)
        for model_id, found in numbers.items():
            _attempt(model_id, partial(self._models[model_id].adopt, sorted(found)))

    async def take_in(self, runtime: Runtime, place: Place) -> None:
        """Take in a runtime that was found while the service runs, and which `place` may choose.

        Models that run stay where they are, and their next runs go where `place` says. Engines that
        an earlier run of this service has left there are taken over. No reload is allowed at the
        same time. Raises LaunchError, RuntimeUnavailable or ShuttingDown, and has changed nothing.
        """
        entries = {spec.id: place(spec) async for spec in self._in_turns(self._catalog)}
        idle = [entries[m.id] for m in self if not m.runs and entries[m.id].runtime is runtime]
        # Before anything is started there, which would be taken for what is to be removed.
        survivors = await runtime.survivors({entry.spec.id: entry.command for entry in idle})
        self._place = place
        for node in runtime.nodes:
            self._admission.add(node)
        lost = [model for model in self if not model.runs and not model.entry.reachable]
        for model in self:
            model.move(entries[model.id])
        free = [key for key in survivors if not self._models[key.model_id].runs]
        self._adopt({key: survivors[key] for key in free})
        self._preload(lost)

    def preload(self) -> None:
        """Start the models that the catalog says to start with the service."""
        self._preload(self)

    def _preload(self, models: Iterable[Model]) -> None:
        for model in models:
            if model.entry.spec.preload:
                _attempt(model.id, model.keep)

    async def reload(self, catalog: Catalog) -> Reload:
        """Put another catalog into force, and return what that changes.

        A model whose entry is the same is not touched. Calls find the new entries when this
        returns, and wait for models that have to be drained and started again. Two reloads at once
        are not allowed. Raises ShuttingDown.
        """
        added: list[str] = []
        changed: list[str] = []
        restarted: list[str] = []
        old = {spec.id: spec for spec in self._catalog}
        entries: dict[str, Entry] = {}
        async for spec in self._in_turns([spec for spec in catalog if old.get(spec.id) != spec]):
            entries[spec.id] = self._place(spec)
        self._models |= {id: self._model(e) for id, e in entries.items() if id not in self._models}
        self._catalog = catalog
        async for model_id in self._in_turns(entries):
            model, entry = self._models[model_id], entries[model_id]
            if model.entry is entry:
                self._record(model)
            elif model.change(entry):
                restarted.append(model_id)
                continue
            (changed if model_id in old else added).append(model_id)
            if entry.spec.preload:
                _attempt(model_id, model.keep)
        removed = [model_id for model_id in old if model_id not in catalog]
        async for model_id in self._in_turns(removed):
            self._models[model_id].remove()
        return Reload(tuple(added), tuple(changed), tuple(restarted), tuple(removed))

    async def _in_turns(self, items: Iterable[Item]) -> AsyncGenerator[Item]:
        """Yield the items, and serve others between them. Raises ShuttingDown once that begins."""
        for number, item in enumerate(items, 1):
            if self._closing:
                raise ShuttingDown
            yield item
            if number % _TURN == 0:
                await asyncio.sleep(0)

    async def watch(self, after: int, model_id: str = "") -> AsyncGenerator[Change[Shown | None]]:
        """Yield changes after a revision, after a snapshot where they are not kept any more.

        The snapshot ends with None in place of a change, which alone has the revision of the
        snapshot: a watcher that went on after one of its models would never get the others. With
        `model_id`, all of that is about one model. Raises ShuttingDown at the end.
        """
        while True:
            if after == 0 or not self._history.keeps(after):
                after = self._history.revision
                for view in self._snapshot(model_id):
                    yield Change(NO_REVISION, view)
                yield Change(after, None)
            async with aclosing(self._history.after(after)) as changes:
                async for change in changes:
                    after = change.revision
                    if model_id in ("", change.item.id):
                        yield Change(after, change.item)
            if self._history.closed:
                raise ShuttingDown

    def _snapshot(self, model_id: str) -> list[View]:
        """Return the models as they are at one moment."""
        return [model.view() for model in self if model_id in ("", model.id)]

    async def close(self, drain: float) -> None:
        """Refuse callers, give running requests `drain` seconds, and stop every model.

        Called again meanwhile, it can only shorten the drain.
        """
        self._closing = True
        async with asyncio.TaskGroup() as group:
            for model in self._models.values():
                group.create_task(model.close(drain))
        self._history.close()

    def _model(self, entry: Entry) -> Model:
        return Model(
            entry,
            self._timing,
            self._admission,
            self._start_times,
            self._record,
            self._count,
            self._look,
        )

    def _record(self, model: Model) -> None:
        self._append(model.view())
        if model.gone and model.id not in self._catalog:
            del self._models[model.id]
            self._append(Removed(model.id))

    def _append(self, shown: Shown) -> None:
        self._history.append(shown)
        self._notify(shown)


def _attempt(model_id: str, begin: Callable[[], None]) -> None:
    """Start a model without a caller. A failure is logged and does not stop the others."""
    try:
        begin()
    except ServiceError as error:
        log.error("%s is not started with the service: %s", model_id, error.message)
