"""Watches that break off anywhere: who comes back knows all models as they are."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pytest

from inference_service.v1 import model_service_pb2 as pb
from tests.field import catalogs
from tests.field.event_source import EventSource
from tests.service import Serving, free_ports, serving
from tests.waiting import PROMPTLY, within

BEFORE = {"one": "100MB", "two": "100MB", "three": "100MB"}
# What can happen while a watcher is away, or while a snapshot is on its way to a watcher.
CHANGES: dict[str, dict[str, str]] = {
    "nothing": {},
    "new model": {"four": "100MB"},
    "changed model": {"one": "200MB"},
    "removed model": {"one": ""},
    "all of them": {"four": "100MB", "one": "", "two": "300MB"},
}


@dataclass
class Known:
    """A client that keeps what a watch reports: a snapshot replaces all that was known."""

    models: dict[str, int] = field(default_factory=dict)
    complete: bool = False
    _snapshot: dict[str, int] | None = None

    def take(self, kind: str | None, value: Any, *, in_snapshot: bool) -> None:
        """Take a message: its kind, its model or id, and whether a snapshot is not over yet."""
        if kind == "snapshot_done":
            self.models = self._snapshot or {}
            self._snapshot, self.complete = None, True
        elif in_snapshot:
            model_id, memory = value
            self._snapshot = {**(self._snapshot or {}), model_id: memory}
        elif kind == "removed_model_id":
            self.models.pop(value, None)
        else:
            model_id, memory = value
            self.models[model_id] = memory

    def break_off(self) -> None:
        """Forget a snapshot that has not come whole."""
        self._snapshot = None


class Watcher(Protocol):
    """A client of one protocol, which takes messages one by one and comes back after a cut."""

    known: Known

    def messages(self) -> AsyncGenerator[None]:
        """Connect, and yield after each message."""


class GrpcWatcher:
    """A client that does as the proto says: the revision of the last message, always."""

    def __init__(self, service: Serving) -> None:
        self.known = Known()
        self._service = service
        self._revision = 0

    async def messages(self) -> AsyncGenerator[None]:
        self.known.break_off()
        request = pb.WatchModelsRequest(after_revision=self._revision)
        call = self._service.stub.WatchModels(request)
        try:
            async for message in call:
                kind = message.WhichOneof("event")
                model = (message.model.id, message.model.memory_bytes)
                value = message.removed_model_id if kind == "removed_model_id" else model
                self._revision = message.revision
                self.known.take(kind, value, in_snapshot=message.revision == 0)
                yield
        finally:
            call.cancel()


class RestWatcher:
    """A browser, which sends the last id that it has seen."""

    def __init__(self, service: Serving) -> None:
        assert service.service.rest_url is not None
        self.known = Known()
        self._source = EventSource(service.service.rest_url, "/models:watch")

    async def messages(self) -> AsyncGenerator[None]:
        self.known.break_off()
        await self._source.connect()
        seen = self._source.last_id
        try:
            async with aclosing(self._source.events()) as events:
                async for event in events:
                    data = event.json
                    value = (
                        (data["id"], int(data["memory_bytes"])) if event.name == "model" else data
                    )
                    in_snapshot = event.name == "model" and event.id == seen
                    seen = event.id
                    self.known.take(event.name, value, in_snapshot=in_snapshot)
                    yield
        finally:
            self._source.close()


async def follow(watcher: Watcher, count: int) -> None:
    """Take so many messages, then break off."""
    async with aclosing(watcher.messages()) as messages:
        for _ in range(count):
            await anext(messages)


async def catch_up(watcher: Watcher, expected: dict[str, int]) -> None:
    async with aclosing(watcher.messages()) as messages:
        while not watcher.known.complete or watcher.known.models != expected:
            await anext(messages)


async def present(service: Serving) -> dict[str, int]:
    listed = await service.stub.ListModels(pb.ListModelsRequest())
    return {model.id: model.memory_bytes for model in listed.models}


@pytest.mark.parametrize("watcher_of", [GrpcWatcher, RestWatcher])
@pytest.mark.parametrize("change", CHANGES)
async def test_a_watch_that_is_cut_after_any_message_loses_nothing(
    tmp_path: Path, watcher_of: Any, change: str
) -> None:
    path = tmp_path / "models.toml"
    catalogs.write(path, **BEFORE)
    after = {id: size for id, size in (BEFORE | CHANGES[change]).items() if size}
    async with serving(ports=free_ports(1), catalog=path) as service:
        total = len(await present(service)) + 1
        for cut in range(total + 1):
            watcher: Watcher = watcher_of(service)
            async with within(PROMPTLY, f"a watcher cut after {cut} messages did not catch up"):
                await follow(watcher, cut)
                catalogs.write(path, **after)
                await service.service.reload()
                await catch_up(watcher, await present(service))
                catalogs.write(path, **BEFORE)
                await service.service.reload()
                await catch_up(watcher, await present(service))


@pytest.mark.parametrize("watcher_of", [GrpcWatcher, RestWatcher])
async def test_models_that_change_while_their_snapshot_is_sent_are_not_lost(
    tmp_path: Path, watcher_of: Any
) -> None:
    path = tmp_path / "models.toml"
    catalogs.write(path, **BEFORE)
    async with serving(ports=free_ports(1), catalog=path) as service:
        for cut in range(len(await present(service)) + 1):
            watcher: Watcher = watcher_of(service)
            arrives = within(PROMPTLY, f"a change after {cut} messages did not arrive")
            async with arrives, aclosing(watcher.messages()) as messages:
                for _ in range(cut):
                    await anext(messages)
                catalogs.write(path, one=f"{200 + cut}MB", four="50MB")
                await service.service.reload()
                expected = await present(service)
                while not watcher.known.complete or watcher.known.models != expected:
                    await anext(messages)
            catalogs.write(path, **BEFORE)
            await service.service.reload()


@pytest.mark.parametrize("watcher_of", [GrpcWatcher, RestWatcher])
async def test_a_watcher_that_is_cut_twice_in_a_snapshot_gets_it_whole_at_last(
    tmp_path: Path, watcher_of: Any
) -> None:
    path = tmp_path / "models.toml"
    catalogs.write(path, **BEFORE)
    async with serving(ports=free_ports(1), catalog=path) as service:
        watcher: Watcher = watcher_of(service)
        async with within(PROMPTLY, "the watcher did not catch up"):
            for cut in (3, 1, 4):
                await follow(watcher, cut)
            await catch_up(watcher, await present(service))


async def test_a_browser_of_an_earlier_service_gets_all_models_from_the_next(
    tmp_path: Path,
) -> None:
    """Its last id is unknown to the next service, also where the snapshot breaks off again."""
    path = tmp_path / "models.toml"
    catalogs.write(path, **BEFORE)
    async with serving(ports=free_ports(1), catalog=path) as service:
        old = RestWatcher(service)
        await catch_up(old, await present(service))
        last_id = old._source.last_id
    async with serving(ports=free_ports(1), catalog=path) as service:
        watcher = RestWatcher(service)
        watcher._source.last_id = last_id
        async with within(PROMPTLY, "the watcher did not catch up"):
            await follow(watcher, 2)
            await catch_up(watcher, await present(service))


@pytest.mark.parametrize("last_id", ["0", "none", "-1", "1.5", "9" * 30, "٣", "1 2"])
async def test_an_id_that_is_none_of_ours_begins_with_all_models(last_id: str) -> None:
    async with serving(ports=free_ports(1)) as service:
        watcher = RestWatcher(service)
        watcher._source.last_id = last_id
        async with within(PROMPTLY, "the snapshot did not come"):
            await catch_up(watcher, await present(service))


async def test_the_last_id_of_a_browser_wins_over_the_revision_in_its_address(
    tmp_path: Path,
) -> None:
    """A browser comes back to the address that it was given, however old (eventsource#27)."""
    path = tmp_path / "models.toml"
    catalogs.write(path, **BEFORE)
    async with serving(ports=free_ports(1), catalog=path) as service:
        first = RestWatcher(service)
        await catch_up(first, await present(service))
        old = first._source.last_id
        for size in range(200, 205):
            catalogs.write(path, **BEFORE | {"one": f"{size}MB"})
            await service.service.reload()
        assert service.service.rest_url is not None
        source = EventSource(service.service.rest_url, f"/models:watch?after_revision={old}")
        for expected in (200, 201, 202, 203, 204):
            async with within(PROMPTLY, "a change did not come"):
                await source.connect()
                async with aclosing(source.events()) as events:
                    event = await anext(events)
            source.close()
            assert event.json["memory_bytes"] == f"{expected}000000"
