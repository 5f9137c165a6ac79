"""Readers of streams that read nothing, and the texts that are taken ahead for them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Any

import pytest

from inference_service.engines.base import Chunk, Prompt
from inference_service.errors import ModelStopped, NotRead
from inference_service.runtimes.base import Instance
from inference_service.serving import reading as module
from inference_service.serving.generation import Generation, Order
from inference_service.serving.model import Model
from inference_service.serving.reading import Readers, Reading
from tests.build import idle_in
from tests.build import model as make_model
from tests.fakes import FakeEngine, FakeRuntime, broken, spec
from tests.waiting import PROMPTLY, until, within


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look a hundred times as often, and be as much less patient."""
    for name in ("LOOK", "SOON", "SHORT_PATIENCE", "PATIENCE"):
        monkeypatch.setattr(module, name, getattr(module, name) / 100)


@dataclass
class Held:
    contended: bool


async def never(_: object) -> None:
    await asyncio.Event().wait()


async def at_once(_: object) -> None:
    """Read it."""


async def test_a_write_that_takes_too_long_ends_the_block() -> None:
    readers = Readers(0.05)
    with pytest.raises(NotRead, match=r"setting `write_timeout`"), readers.reading() as reading:
        await reading.write(never, "a")
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()


async def test_a_reader_who_reads_slowly_may_take_any_time() -> None:
    readers = Readers(0.05)
    with readers.reading(Held(False)) as reading:
        for _ in range(5):
            await reading.write(lambda _: asyncio.sleep(0.03), "a")
    assert reading.waited > 0.05


async def test_a_writer_with_a_limit_of_its_own_has_none_here_unless_others_wait() -> None:
    readers = Readers(0.05)
    with readers.reading(Held(False), bounded=True) as reading:
        await reading.write(lambda _: asyncio.sleep(0.2), "a")
    with (
        pytest.raises(NotRead, match="while others wait"),
        readers.reading(Held(True), bounded=True) as reading,
    ):
        await reading.write(never, "a")


async def test_nobody_looks_when_no_stream_is_open() -> None:
    readers = Readers(60)
    with readers.reading() as reading:
        await reading.write(at_once, "a")
    await asyncio.sleep(0.03)
    assert readers._timer is None


async def test_while_others_wait_all_the_time_counts() -> None:
    readers = Readers(60)
    written = 0
    with pytest.raises(NotRead, match="while others wait"), readers.reading(Held(True)) as reading:
        while True:
            await reading.write(lambda _: asyncio.sleep(0.015), "a")
            written += 1
    assert written > 0


async def test_who_leaves_at_the_same_moment_has_left() -> None:
    readers = Readers(60)

    async def stream() -> None:
        with readers.reading() as reading:
            reading_of.append(reading)
            await reading.write(never, "a")

    reading_of: list[Reading] = []
    task = asyncio.create_task(stream())
    await asyncio.sleep(0)
    reading_of[0].stop(NotRead(1, others=False))
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def test_another_end_at_the_same_moment_wins() -> None:
    readers = Readers(60)
    with pytest.raises(ModelStopped), readers.reading() as reading:
        try:
            reading.stop(NotRead(1, others=False))
            await asyncio.sleep(1)
        except asyncio.CancelledError:
            raise ModelStopped("m") from None
    await asyncio.sleep(0)  # and no cancel is left


class Bed:
    """A model with one slot, and a text for a reader who does not read."""

    def __init__(self, tokens: int = 50) -> None:
        self.engine: FakeEngine = FakeEngine(concurrency=1)
        self.model: Model = make_model(spec(), FakeRuntime(), self.engine)
        self.readers = Readers(60)
        self.reads = asyncio.Event()
        self.text = ""
        self.order = Order(Prompt("once", max_new_tokens=tokens), 60)
        self.generation: Any = None

    async def write(self, chunk: Chunk) -> None:
        await self.reads.wait()
        self.text += chunk.text

    async def stream(self) -> None:
        with self.readers.reading(self.model) as reading:
            self.generation = Generation(self.model, self.order, reading)
            await self.generation.stream(self.write, at_once)

    async def unread(self) -> asyncio.Task[None]:
        """Begin the stream; return when it has the slot."""
        task = asyncio.create_task(self.stream())
        await until(lambda: self.engine.open, "the engine was not asked")
        return task

    async def other(self) -> str:
        """Ask for a text and read it."""
        generation = Generation(self.model, Order(Prompt("once", max_new_tokens=2), 60))
        async with within(PROMPTLY, "the slot was held"):
            return await generation.whole()


async def test_the_slot_goes_to_who_waits_and_the_text_stays_whole() -> None:
    bed = Bed()
    unread = await bed.unread()
    assert await bed.other() == " word word"
    assert await bed.other() == " word word"
    assert bed.text == ""
    assert idle_in(bed.model) is not None  # nobody uses the model

    bed.reads.set()
    async with within(PROMPTLY, "the text did not come"):
        await unread
    assert bed.text == " word" * 50
    assert bed.generation.outcome().finish.completion_token_count == 50
    assert bed.readers.store.size == 0
    await bed.model.close(0)


async def test_a_text_whose_last_token_is_not_read_has_its_end() -> None:
    bed = Bed(tokens=1)
    unread = await bed.unread()
    await bed.other()
    bed.reads.set()
    async with within(PROMPTLY, "the text did not come"):
        await unread
    assert bed.generation.outcome().finish.completion_token_count == 1
    await bed.model.close(0)


async def test_while_nobody_waits_the_engine_does() -> None:
    bed = Bed()
    unread = await bed.unread()
    await asyncio.sleep(0.2)
    assert (bed.model.view().active_count, bed.engine.open) == (1, 1)
    bed.reads.set()
    await unread
    assert bed.text == " word" * 50
    await bed.model.close(0)


async def test_who_leaves_before_reading_leaves_nothing() -> None:
    bed = Bed()
    unread = await bed.unread()
    await bed.other()
    unread.cancel()
    await asyncio.wait([unread])
    assert (bed.readers.store.size, bed.engine.open) == (0, 0)
    await bed.model.close(0)


async def test_an_engine_that_is_not_done_goes_on_for_who_does_not_read() -> None:
    """Patience is for readers who hold an engine up, and this one does not."""
    bed = Bed()
    unread = await bed.unread()
    bed.engine.may_speak.clear()
    other = asyncio.create_task(bed.other())
    await asyncio.sleep(0.3)
    assert not unread.done()
    bed.engine.may_speak.set()
    await other
    unread.cancel()
    await asyncio.wait([unread])
    await bed.model.close(0)


async def test_a_text_for_which_there_is_no_memory_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inference_service.serving.ahead.MOST", 20)
    bed = Bed()
    unread = await bed.unread()
    await bed.other()
    async with within(PROMPTLY, "the stream went on"):
        with pytest.raises(NotRead, match="while others wait"):
            await unread
    assert (bed.readers.store.size, bed.engine.open) == (0, 0)
    await bed.model.close(0)


async def test_the_tokens_that_were_read_are_in_the_error() -> None:
    bed = Bed()
    bed.readers = Readers(0.05)
    bed.reads.set()
    bed.engine.may_speak.set()

    async def write(chunk: Chunk) -> None:
        if len(bed.text) >= 3 * len(" word"):
            bed.reads.clear()
        await Bed.write(bed, chunk)

    bed.write = write  # type: ignore[method-assign]
    with pytest.raises(NotRead) as error:
        await bed.stream()
    assert error.value.metadata["sent_token_count"] == "3"
    await bed.model.close(0)


class Breaking(FakeEngine):
    """An engine that breaks off one text, after its tenth token."""

    breaks = True

    async def _speaks(self, instance: Instance) -> None:
        await super()._speaks(instance)
        self.spoken = getattr(self, "spoken", 0) + 1
        if self.breaks and self.spoken == 11:
            self.breaks = False
            raise broken()


async def test_a_text_whose_engine_is_lost_while_it_is_taken_ahead_goes_on() -> None:
    bed = Bed()
    engine = Breaking(concurrency=1)
    bed.model = make_model(spec(), FakeRuntime(), engine)
    bed.engine = engine
    bed.order = replace(bed.order, resumes=True)
    unread = await bed.unread()
    await bed.other()
    assert not engine.breaks

    bed.reads.set()
    async with within(PROMPTLY, "the text did not come"):
        await unread
    assert bed.text == " word" * 50
    (resumption,) = bed.generation.outcome().resumptions
    assert resumption.token_count == 10
    await bed.model.close(0)
