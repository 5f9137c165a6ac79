"""The limits of a text, what counts as sent, and what its order passes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from inference_service.catalog import ModelSpec
from inference_service.engines.base import Chunk, Finish, FinishReason, Prompt
from inference_service.errors import DeadlineTooShort, EngineLost, GenerationTimeout, ModelStopped
from inference_service.lifecycle import Phase
from inference_service.runtimes.base import Instance
from inference_service.serving.generation import Generation, Order, Resumption
from inference_service.serving.start_times import StartTimes
from tests.build import idle_in, timing
from tests.build import model as make_model
from tests.fakes import FakeEngine, FakeRuntime, broken, spec

PROMPT = Prompt("once", max_new_tokens=3)


class Scripted(FakeEngine):
    """Makes these chunks; a number is a pause before the next one, an error ends an attempt."""

    def __init__(self, *script: Chunk | float | Exception) -> None:
        super().__init__()
        self.script = list(script)

    async def generate(
        self, instance: Instance, spec: ModelSpec, prompt: Prompt, *, whole: bool = False
    ) -> AsyncGenerator[Chunk]:
        while self.script:
            match self.script.pop(0):
                case Chunk() as chunk:
                    yield chunk
                case Exception() as error:
                    raise error
                case seconds:
                    await asyncio.sleep(seconds)


END = Chunk("", 0, Finish(FinishReason.LENGTH, 1, 2))


class Bed:
    """A model over a script, and the chunks that were written."""

    def __init__(self, *script: Chunk | float | Exception) -> None:
        self.engine, self.runtime, self.start_times = Scripted(*script), FakeRuntime(), StartTimes()
        self.model = make_model(
            spec(), self.runtime, self.engine, timing(idle=900), start_times=self.start_times
        )
        self.written: list[str] = []

    async def write(self, chunk: Chunk) -> None:
        self.written.append(chunk.text)

    async def resumed(self, resumption: Resumption) -> None:
        pass


@asynccontextmanager
async def made(*script: Chunk | float | Exception) -> AsyncGenerator[Bed]:
    bed = Bed(*script)
    try:
        yield bed
    finally:
        await bed.model.close(0)


async def test_a_silence_after_the_first_token_is_too_long_too() -> None:
    async with made(Chunk(" a", 1), 3600.0) as bed:
        text = Generation(bed.model, Order(PROMPT, 0.05))

        with pytest.raises(GenerationTimeout) as late:
            await text.stream(bed.write, bed.resumed)
        assert late.value.metadata["sent_token_count"] == "1"


async def test_the_time_until_the_model_is_ready_is_no_silence() -> None:
    async with made(Chunk(" a", 1), END) as bed:
        bed.engine.may_answer.clear()
        text = asyncio.create_task(Generation(bed.model, Order(PROMPT, 0.05)).whole())
        await asyncio.sleep(0.1)
        assert not text.done()
        bed.engine.may_answer.set()

        assert await text == " a"


async def test_a_chunk_without_text_is_not_written() -> None:
    async with made(Chunk("", 1), Chunk(" a", 1), END) as bed:
        text = Generation(bed.model, Order(PROMPT, 60))

        await text.stream(bed.write, bed.resumed)

        assert bed.written == [" a"]
        assert text.outcome().finish.completion_token_count == 2


async def test_a_text_whose_tokens_are_not_counted_does_not_start_anew() -> None:
    async with made(Chunk(" a", 0), broken(), Chunk(" a", 0), END) as bed:
        with pytest.raises(EngineLost) as lost:
            await Generation(bed.model, Order(PROMPT, 60)).stream(bed.write, bed.resumed)

        assert bed.written == [" a"]
        assert lost.value.metadata["sent_token_count"] == "0"


async def test_what_a_cut_kept_from_the_caller_was_not_sent() -> None:
    async with made(Chunk(" a", 1), Chunk(" b", 1), END) as bed:
        blocked = asyncio.Event()

        async def write(chunk: Chunk) -> None:
            if bed.written:
                blocked.set()
                await asyncio.Event().wait()
            bed.written.append(chunk.text)

        text = asyncio.create_task(
            Generation(bed.model, Order(PROMPT, 60)).stream(write, bed.resumed)
        )
        await blocked.wait()
        await bed.model.stop(0)

        with pytest.raises(ModelStopped) as cut:
            await text
        assert cut.value.metadata["sent_token_count"] == "1"


async def test_the_times_of_a_text_that_goes_on_are_those_of_its_first_attempt() -> None:
    async with made(Chunk(" a", 1), 0.05, broken(), Chunk(" b", 1), END) as bed:
        text = Generation(bed.model, Order(PROMPT, 60, resumes=True))

        await text.stream(bed.write, bed.resumed)

        outcome = text.outcome()
        assert outcome.first_token is not None
        assert outcome.first_token >= 0
        assert outcome.start + 0.05 <= outcome.total


async def test_a_time_limit_of_the_reader_goes_through() -> None:
    async with made(Chunk(" a", 1), END) as bed:

        async def write(chunk: Chunk) -> None:
            raise TimeoutError("the reader's own")

        with pytest.raises(TimeoutError, match="the reader's own"):
            await Generation(bed.model, Order(PROMPT, 60)).stream(write, bed.resumed)


async def test_an_order_sets_the_idle_timeout_and_the_deadline_of_its_lease() -> None:
    async with made(END) as bed:
        await Generation(bed.model, Order(PROMPT, 60, idle_timeout=3600)).whole()
        assert 3590 < idle_in(bed.model) <= 3600
        await bed.model.stop()

        bed.start_times.record(bed.model.entry.start_key, {Phase.LOADING_WEIGHTS: 50.0})
        deadline = asyncio.get_running_loop().time() + 10
        with pytest.raises(DeadlineTooShort):
            await Generation(bed.model, Order(PROMPT, 60, deadline=deadline)).whole()
