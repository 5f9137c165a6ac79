"""A request that is passed on at once, and what becomes of it when that does not last."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from typing import Any

import pytest

from inference_service.engines.exchange import Head, Request, Sink, Source
from inference_service.errors import EngineLost, GenerationTimeout, ModelStopped, NotRead
from inference_service.runtimes.base import Instance
from inference_service.serving import reading
from inference_service.serving.attempts import Attempts, Lost
from inference_service.serving.model import Model
from inference_service.serving.passing import Passing
from inference_service.serving.reading import Readers
from tests.build import model as make_model
from tests.build import timing
from tests.fakes import FakeEngine, FakeSource
from tests.waiting import PROMPTLY, until, within

WORDS = Request("POST", "/words")
HEAD = Head(200, {b"content-type": b"text/plain"})


class Warm(FakeEngine):
    """An engine that has a connection; `sinks` wait for its answers."""

    def __init__(self, concurrency: int = 8) -> None:
        super().__init__(concurrency)
        self.sinks: list[Sink] = []
        self.sources: list[FakeSource] = []
        self.has_connection = True

    def ask_now(self, instance: Instance, request: Request, sink: Sink) -> Source | None:
        if not self.has_connection:
            return None
        self.sinks.append(sink)
        self.sources.append(FakeSource())
        return self.sources[-1]


class Taker:
    """A sink that may get an end without a head."""

    def __init__(self) -> None:
        self.head_: Head | None = None
        self.source: Source | None = None
        self.body = b""
        self.ends: list[Exception | None] = []
        self.ended = asyncio.Event()

    def head(self, head: Head, source: Source) -> None:
        self.head_, self.source = head, source

    def data(self, data: bytes) -> None:
        self.body += data

    def end(self, error: Exception | None) -> None:
        self.ends.append(error)
        self.ended.set()


class Bed:
    def __init__(self, model: Model, engine: Warm) -> None:
        self.model = model
        self.engine = engine
        self.readers = Readers(60)
        self.released = 0
        self.asked: list[Lost | None] = []

    def begin(self, silence: float = 60) -> tuple[Passing, Taker]:
        sink = Taker()
        passing = Passing(self.readers, sink, silence)

        def ask(lost: Lost | None) -> Coroutine[Any, Any, None]:
            self.asked.append(lost)
            return Attempts(self.model, silence).ask(WORDS, passing, None, passing, lost)

        def release() -> None:
            self.released += 1

        passing.begin(self.model, WORDS, ask, release)
        return passing, sink

    def free(self) -> None:
        assert self.model.view().active_count == 0
        assert self.released == 1


@pytest.fixture
async def bed() -> AsyncGenerator[Bed]:
    engine = Warm()
    model = make_model(engine=engine, timing=timing(drain=0.0))
    await model.start()
    yield Bed(model, engine)
    await model.close(0)


async def ended(sink: Taker) -> Exception | None:
    async with within(PROMPTLY, "the sink got no end"):
        await sink.ended.wait()
    assert len(sink.ends) == 1
    return sink.ends[0]


async def test_a_request_is_passed_on_at_once(bed: Bed) -> None:
    tasks = asyncio.all_tasks()
    _, sink = bed.begin()
    assert asyncio.all_tasks() == tasks
    assert bed.model.view().active_count == 1
    [engine] = bed.engine.sinks
    engine.head(HEAD, bed.engine.sources[0])
    engine.data(b"a ")
    engine.data(b"word")
    engine.end(None)
    assert (sink.head_, sink.body, sink.ends) == (HEAD, b"a word", [None])
    assert bed.asked == []
    bed.free()


async def test_without_a_connection_a_task_asks(bed: Bed) -> None:
    bed.engine.has_connection = False
    _, sink = bed.begin()
    assert await ended(sink) is None
    assert sink.body == b" word" * 200
    assert bed.asked == [None]
    bed.free()


async def test_a_connection_that_has_just_closed_costs_nothing(bed: Bed) -> None:
    _, sink = bed.begin()
    bed.engine.sinks[0].end(ConnectionResetError())
    assert await ended(sink) is None
    assert sink.body == b" word" * 200
    assert bed.asked == [None]
    bed.free()


async def test_an_engine_that_breaks_off_before_the_head_is_asked_again(bed: Bed) -> None:
    _, sink = bed.begin()
    bed.engine.sinks[0].end(ConnectionAbortedError("nonsense"))
    assert await ended(sink) is None
    assert sink.body == b" word" * 200
    [lost] = bed.asked
    assert lost is not None
    assert isinstance(lost.error, EngineLost)
    bed.free()


async def test_an_engine_that_breaks_off_after_the_head_is_an_error(bed: Bed) -> None:
    _, sink = bed.begin()
    bed.engine.sinks[0].head(HEAD, bed.engine.sources[0])
    bed.engine.sinks[0].end(ConnectionAbortedError("nonsense"))
    error = await ended(sink)
    assert isinstance(error, EngineLost)
    assert error.metadata["model_id"] == "tiny"
    bed.free()


@pytest.mark.parametrize("begun", [False, True])
async def test_a_cancel_closes_the_connection(bed: Bed, begun: bool) -> None:
    passing, sink = bed.begin()
    if begun:
        bed.engine.sinks[0].head(HEAD, bed.engine.sources[0])
    passing.cancel()
    passing.cancel()
    assert bed.engine.sources[0].closed
    assert sink.ends == []
    bed.free()


async def test_a_cancel_ends_the_task(bed: Bed) -> None:
    bed.engine.has_connection = False
    bed.engine.may_speak.clear()
    passing, sink = bed.begin()
    await until(lambda: bed.model.view().active_count == 1, "the request did not begin")
    passing.cancel()
    await until(lambda: bed.model.view().active_count == 0, "the slot is held")
    assert sink.ends == []
    bed.free()


async def test_what_still_comes_after_a_cancel_is_dropped(bed: Bed) -> None:
    passing, sink = bed.begin()
    engine = bed.engine.sinks[0]
    passing.cancel()
    engine.head(HEAD, bed.engine.sources[0])
    engine.data(b"late")
    engine.end(None)
    assert (sink.head_, sink.body, sink.ends) == (None, b"", [])
    bed.free()


async def test_a_stop_of_the_model_ends_the_request(bed: Bed) -> None:
    _, sink = bed.begin()
    bed.engine.sinks[0].head(HEAD, bed.engine.sources[0])
    await bed.model.stop(0)
    assert isinstance(await ended(sink), ModelStopped)
    assert bed.engine.sources[0].closed
    assert bed.released == 1


async def test_a_silent_engine_is_given_up(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "LOOK", 0.01)
    _, sink = bed.begin(silence=0.05)
    error = await ended(sink)
    assert isinstance(error, GenerationTimeout)
    assert bed.engine.sources[0].closed
    bed.free()


async def test_a_reader_that_is_slow_stops_no_clock_of_others(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Expect no silence while the client reads nothing, and the end where others wait."""
    monkeypatch.setattr(reading, "LOOK", 0.01)
    monkeypatch.setattr(reading, "SOON", 0.02)
    passing, sink = bed.begin(silence=0.05)
    bed.engine.sinks[0].head(HEAD, bed.engine.sources[0])
    assert sink.source is not None
    sink.source.pause()
    assert not bed.engine.sources[0].flows.is_set()
    await asyncio.sleep(0.2)
    assert sink.ends == []
    passing.patience = 0.0
    passing.held = Contended()
    assert isinstance(await ended(sink), NotRead)
    bed.free()


class Contended:
    contended = True


async def test_a_full_engine_is_waited_for(bed: Bed) -> None:
    taken = [bed.model.take_now() for _ in range(8)]
    assert bed.model.take_now() is None
    _, sink = bed.begin()
    assert bed.asked == [None]
    for each in taken:
        assert each is not None
        each.give()
    assert await ended(sink) is None
    bed.free()


async def test_a_model_that_does_not_run_has_no_lease_now(bed: Bed) -> None:
    await bed.model.stop(0)
    assert bed.model.take_now() is None
    await bed.model.start()
    taken = bed.model.take_now()
    assert taken is not None
    taken.give()
    await bed.model.close(0)
    assert bed.model.take_now() is None
