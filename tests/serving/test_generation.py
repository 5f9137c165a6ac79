"""One text, over the loss of its engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from inference_service.engines.base import Chunk, Finish, FinishReason, Prompt
from inference_service.errors import (
    EngineFailed,
    EngineLost,
    EngineOverloaded,
    GenerationTimeout,
    ModelStopped,
    PromptTooLong,
    Unlaunchable,
)
from inference_service.lifecycle import State, Status
from inference_service.runtimes.base import Instance
from inference_service.serving.generation import Generation, Order, Resumption
from tests.build import timing
from tests.fakes import broken
from tests.serving.mortal import mortal

PROMPT = Prompt("once upon", max_new_tokens=6)


class Reader:
    """The reader of a stream, with the texts, resumptions and states that came."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.resumptions: list[Resumption] = []
        self.states: list[State] = []
        self.has_resumed = asyncio.Event()

    async def write(self, chunk: Chunk) -> None:
        self.texts.append(chunk.text)

    async def resumed(self, resumption: Resumption) -> None:
        assert resumption.token_count == len(self.texts)
        self.resumptions.append(resumption)
        self.has_resumed.set()

    async def notify(self, status: Status, position: int) -> None:
        self.states.append(status.state)

    async def read(self, generation: Generation) -> str:
        await generation.stream(self.write, self.resumed, self.notify)
        return "".join(self.texts)


async def test_the_caller_does_not_see_that_an_engine_was_lost_before_the_first_token() -> None:
    async with mortal(0) as (model, runtime, engine):
        reader, text = Reader(), Generation(model, Order(PROMPT, 60))

        assert await reader.read(text) == " word" * 6
        assert runtime.started == ["tgi-tiny"] * 2
        assert engine.prompts == [PROMPT] * 2
        assert engine.wholes == [False] * 2
        assert text.outcome().first_token is not None
        assert (reader.resumptions, text.outcome().resumptions) == ([], ())
        assert text.outcome().finish.completion_token_count == 6


async def test_tokens_without_text_at_the_end_are_counted_in_a_chunk() -> None:
    """As that which ends a text, where it comes later than the last word."""
    async with mortal() as (model, _, engine):
        finish = Finish(FinishReason.STOP, 2, 3)

        async def words(*_: object, **__: object) -> AsyncGenerator[Chunk]:
            yield Chunk(" word", 1)
            yield Chunk("", 2, finish)

        engine.generate = words  # type: ignore[method-assign]
        chunks: list[Chunk] = []

        async def write(chunk: Chunk) -> None:
            chunks.append(chunk)

        text = Generation(model, Order(PROMPT, 60))
        await text.stream(write, Reader().resumed)

        assert [(chunk.text, chunk.token_count) for chunk in chunks] == [(" word", 1), ("", 2)]
        assert text.outcome().finish == finish


async def test_an_engine_whose_connection_broke_is_asked_again() -> None:
    async with mortal(0, dies=False) as (model, runtime, _):
        assert await Reader().read(Generation(model, Order(PROMPT, 60))) == " word" * 6
        assert runtime.started == ["tgi-tiny"]


async def test_a_second_loss_before_the_first_token_is_an_error() -> None:
    async with mortal(0, 0) as (model, _, _engine):
        reader = Reader()
        with pytest.raises(EngineLost) as lost:
            await reader.read(Generation(model, Order(PROMPT, 60, resumes=True)))
        assert "sent_token_count" not in lost.value.metadata
        assert reader.texts == []


async def test_a_whole_text_starts_anew_and_has_no_token_twice() -> None:
    async with mortal(4) as (model, runtime, engine):
        text = Generation(model, Order(PROMPT, 60))
        assert await text.whole() == " word" * 6
        assert runtime.started == ["tgi-tiny"] * 2
        assert engine.prompts == [PROMPT] * 2
        assert engine.wholes == [True] * 2
        assert text.outcome().first_token is None
        assert text.outcome().finish.completion_token_count == 6


async def test_a_whole_text_starts_anew_only_once() -> None:
    async with mortal(4, 4) as (model, _, _engine):
        with pytest.raises(EngineLost):
            await Generation(model, Order(PROMPT, 60)).whole()


async def test_a_stream_without_resumptions_ends_with_its_engine() -> None:
    async with mortal(4) as (model, runtime, _):
        reader = Reader()
        with pytest.raises(EngineLost) as lost:
            await reader.read(Generation(model, Order(PROMPT, 60)))
        assert lost.value.metadata["sent_token_count"] == "4"
        assert len(reader.texts) == 4
        assert runtime.started == ["tgi-tiny"]


async def test_a_stream_with_resumptions_goes_on_after_the_text_that_was_sent() -> None:
    async with mortal(4) as (model, runtime, engine):
        reader, text = Reader(), Generation(model, Order(PROMPT, 60, resumes=True))

        assert await reader.read(text) == " word" * 6
        assert runtime.started == ["tgi-tiny"] * 2
        assert engine.prompts[1] == Prompt("once upon word word word word", max_new_tokens=2)
        outcome = text.outcome()
        assert reader.resumptions == list(outcome.resumptions) == [Resumption(4, broken().message)]
        assert outcome.finish.reason is FinishReason.LENGTH
        assert outcome.finish.prompt_token_count == 2
        assert outcome.finish.completion_token_count == 6
        assert State.STARTING in reader.states


async def test_a_text_has_at_most_three_resumptions() -> None:
    async with mortal(1, 1, 1) as (model, _, _engine):
        reader, text = Reader(), Generation(model, Order(PROMPT, 60, resumes=True))
        assert await reader.read(text) == " word" * 6
        assert [resumption.token_count for resumption in text.outcome().resumptions] == [1, 2, 3]
        assert text.outcome().finish.completion_token_count == 6

    async with mortal(1, 1, 1, 1) as (model, _, _engine):
        with pytest.raises(EngineLost) as lost:
            await Reader().read(Generation(model, Order(PROMPT, 60, resumes=True)))
        assert lost.value.metadata["sent_token_count"] == "4"


async def test_a_text_whose_engine_is_lost_after_the_last_token_is_whole() -> None:
    prompt = Prompt("once", max_new_tokens=3)
    async with mortal(3) as (model, runtime, engine):
        reader, text = Reader(), Generation(model, Order(prompt, 60, resumes=True))
        assert await reader.read(text) == " word" * 3
        assert len(engine.prompts) == 1
        assert runtime.started == ["tgi-tiny"]
        assert text.outcome().finish.completion_token_count == 3
        assert text.outcome().finish.prompt_token_count == 0


async def test_a_text_that_fills_the_context_at_its_resumption_is_whole() -> None:
    async with mortal(3) as (model, _, engine):

        def full(_: Instance) -> None:
            engine.failure = PromptTooLong("tiny", 128, "no room")

        engine.on_loss = full
        reader, text = Reader(), Generation(model, Order(PROMPT, 60, resumes=True))
        assert await reader.read(text) == " word" * 3
        assert text.outcome().finish.reason is FinishReason.LENGTH
        assert text.outcome().finish.completion_token_count == 3


async def test_a_text_for_which_no_engine_starts_ends_with_the_count_that_was_sent() -> None:
    async with mortal(2) as (model, runtime, _):
        await model.start()
        runtime.refusal = Unlaunchable("no space left")
        with pytest.raises(
            EngineFailed, match=r"connection; .* could not go on .* no space"
        ) as end:
            await Reader().read(Generation(model, Order(PROMPT, 60, resumes=True)))
        assert end.value.metadata["sent_token_count"] == "2"
        assert end.value.metadata["model_id"] == "tiny"


async def test_a_refusal_in_the_middle_of_a_text_is_passed_on_unchanged() -> None:
    async with mortal() as (model, _, engine):
        reader = Reader()

        async def write(chunk: Chunk) -> None:
            await reader.write(chunk)
            engine.failure = EngineOverloaded("tiny")

        with pytest.raises(EngineOverloaded) as refused:
            await Generation(model, Order(PROMPT, 60)).stream(write, reader.resumed)
        assert refused.value.metadata["sent_token_count"] == "1"


async def test_a_back_off_that_is_too_long_is_not_waited_for() -> None:
    async with mortal(0, times=timing(back_off=60)) as (model, runtime, _):
        runtime.patience = 0.05
        with pytest.raises(EngineLost):
            await Reader().read(Generation(model, Order(PROMPT, 60)))
        assert runtime.started == ["tgi-tiny"]


async def test_a_stop_ends_a_text_with_resumptions() -> None:
    async with mortal() as (model, _, engine):
        text = Generation(model, Order(PROMPT, 60, resumes=True))
        reading = asyncio.create_task(Reader().read(text))
        engine.may_speak.clear()
        await engine.generates()
        await model.stop(0)
        with pytest.raises(ModelStopped):
            await reading
        engine.may_speak.set()


async def test_a_model_that_is_stopped_gets_no_engine_for_a_resumption() -> None:
    async with mortal(2) as (model, runtime, engine):
        runtime.may_leave.clear()
        stops = []

        def stop(_: Instance) -> None:
            engine.may_answer.clear()
            stops.append(asyncio.create_task(model.stop(60)))

        engine.on_loss = stop
        try:
            with pytest.raises(ModelStopped):
                await Reader().read(Generation(model, Order(PROMPT, 60, resumes=True)))
        finally:
            runtime.may_leave.set()
        await stops[0]
        assert runtime.started == ["tgi-tiny"]


async def test_a_caller_that_leaves_while_its_engine_is_replaced_keeps_no_lease() -> None:
    async with mortal(2, times=timing(back_off=30)) as (model, _, _engine):
        reader = Reader()
        reading = asyncio.create_task(
            reader.read(Generation(model, Order(PROMPT, 60, resumes=True)))
        )
        await reader.has_resumed.wait()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert model.view().active_count == 0


async def test_a_silent_engine_is_a_timeout_and_a_slow_reader_is_not() -> None:
    async with mortal() as (model, _, engine):
        text = Generation(model, Order(Prompt("once", max_new_tokens=3), 0.05))
        slow = Reader()

        async def write(chunk: Chunk) -> None:
            await asyncio.sleep(0.1)
            slow.texts.append(chunk.text)

        await text.stream(write, slow.resumed)
        assert len(slow.texts) == 3

        engine.may_speak.clear()
        with pytest.raises(GenerationTimeout, match=r"for 0\.05 s"):
            await Reader().read(Generation(model, Order(PROMPT, 0.05)))
        engine.may_speak.set()
