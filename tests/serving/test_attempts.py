"""The attempts at a request for bytes: its lease, its limits, and a loss of its engine."""

from __future__ import annotations

import asyncio

import pytest

from inference_service.engines.exchange import Head, Request, Sink
from inference_service.errors import EngineLost, GenerationTimeout, ModelStopped
from inference_service.runtimes.base import Instance
from inference_service.serving.attempts import Attempts
from tests.fakes import FakeSource
from tests.serving.mortal import mortal
from tests.sinks import Kept

WORDS = Request("POST", "/words")


async def test_an_answer_has_a_lease_until_its_end() -> None:
    async with mortal() as (model, _, engine):
        counts = []
        sink = Kept(on_data=lambda _: counts.append(model.view().active_count))

        await Attempts(model, 60, idle_timeout=30).ask(WORDS, sink)

        assert (sink.body, sink.ends) == (b" word" * 200, [None])
        assert set(counts) == {1}
        assert model.view().active_count == 0
        assert engine.asked == 1


async def test_an_engine_that_is_lost_before_the_head_is_replaced_unnoticed() -> None:
    async with mortal(0) as (model, runtime, engine):
        sink = Kept()
        await Attempts(model, 60).ask(WORDS, sink)

        assert (len(sink.heads), sink.body, sink.ends) == (1, b" word" * 200, [None])
        assert runtime.started == ["tgi-tiny"] * 2
        assert engine.asked == 2


async def test_a_second_loss_before_the_head_is_an_error() -> None:
    async with mortal(0, 0) as (model, _, engine):
        sink = Kept()
        with pytest.raises(EngineLost):
            await Attempts(model, 60).ask(WORDS, sink)
        assert (sink.heads, sink.ends, engine.asked) == ([], [], 2)


async def test_an_engine_that_is_lost_after_the_head_is_an_error() -> None:
    async with mortal(3) as (model, runtime, engine):
        sink = Kept()
        with pytest.raises(EngineLost):
            await Attempts(model, 60).ask(WORDS, sink)

        assert sink.body == b" word" * 3
        assert isinstance(sink.ends[0], EngineLost)
        assert engine.asked == 1
        assert runtime.started == ["tgi-tiny"]


async def test_an_engine_whose_end_is_not_noticed_within_the_patience_is_not_replaced() -> None:
    async with mortal(0) as (model, runtime, engine):
        runtime.patience = 0.0
        runtime.may_leave.clear()
        try:
            with pytest.raises(EngineLost):
                await Attempts(model, 60).ask(WORDS, Kept())
        finally:
            runtime.may_leave.set()
        assert engine.asked == 1


@pytest.mark.parametrize("begun", [False, True], ids=["before the head", "within the body"])
async def test_a_silence_is_a_timeout(begun: bool) -> None:
    async with mortal() as (model, _, engine):

        async def silent(instance: Instance, request: Request, sink: Sink) -> None:
            await asyncio.Event().wait()

        if begun:
            engine.may_speak.clear()
        else:
            engine.ask = silent  # type: ignore[method-assign]
        sink = Kept()
        with pytest.raises(GenerationTimeout, match=r"for 0\.05 s"):
            await Attempts(model, 0.05).ask(WORDS, sink)
        engine.may_speak.set()
        assert (len(sink.heads), sink.pieces, sink.ends) == (begun, [], [])
        assert model.view().active_count == 0


async def test_a_slow_sink_is_no_silence() -> None:
    async with mortal() as (model, _, engine):
        engine.routes["/words"] = [b" word"] * 3

        def slow(sink: Kept) -> None:
            sink.source.pause()
            asyncio.get_running_loop().call_later(0.3, sink.source.resume)

        sink = Kept(on_head=slow, on_data=slow)
        await Attempts(model, 0.2).ask(WORDS, sink)
        assert (sink.body, sink.ends) == (b" word" * 3, [None])


async def test_a_piece_of_the_same_read_does_not_end_the_pause() -> None:
    async with mortal() as (model, _, engine):

        async def eager(instance: Instance, request: Request, sink: Sink) -> None:
            source = FakeSource()
            sink.head(Head(200, {}), source)
            sink.data(b"read with the head")
            await source.flows.wait()
            sink.end(None)

        engine.ask = eager  # type: ignore[method-assign]

        def slow(sink: Kept) -> None:
            sink.source.pause()
            asyncio.get_running_loop().call_later(0.2, sink.source.resume)

        sink = Kept(on_head=slow)
        await Attempts(model, 0.1).ask(WORDS, sink)
        assert sink.ends == [None]


async def test_a_sink_that_closes_its_source_ends_the_request_without_an_error() -> None:
    async with mortal() as (model, _, _engine):
        sink = Kept(on_data=lambda sink: sink.source.close())
        await Attempts(model, 60).ask(WORDS, sink)
        assert (len(sink.pieces), sink.ends) == (1, [])
        assert model.view().active_count == 0


async def test_a_stop_ends_an_answer() -> None:
    async with mortal() as (model, _, engine):
        engine.may_speak.clear()
        sink = Kept()
        asking = asyncio.create_task(Attempts(model, 60).ask(WORDS, sink))
        await sink.until(lambda sink: sink.heads, "the head")
        await model.stop(0)
        with pytest.raises(ModelStopped):
            await asking
        engine.may_speak.set()
        assert sink.ends == []
