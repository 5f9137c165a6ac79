"""The rest of a text, taken from its engine while its reader is slow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from inference_service.engines.base import Chunk, Finish, FinishReason
from inference_service.errors import EngineLost, GenerationTimeout, ServiceError
from inference_service.serving import ahead as module
from inference_service.serving.ahead import Ahead, Store
from tests.waiting import PROMPTLY, until, within

FINISH = Finish(FinishReason.STOP, 1, 3)


class Engine:
    """An engine that makes these chunks; a number is a pause, an error its end."""

    def __init__(self, *script: Chunk | float | Exception) -> None:
        self.store = Store()
        self.made = 0
        self.closed = False
        self.ends = 0
        self.chunks = self._chunks(script)

    def ahead(self, silence: float = 60) -> Ahead:
        return Ahead(self.store, self.chunks, lambda _: None, self._end, silence, self._timed_out)

    def _end(self) -> None:
        self.ends += 1

    @staticmethod
    def _timed_out() -> ServiceError:
        return GenerationTimeout("m", 1)

    async def _chunks(self, script: tuple[Chunk | float | Exception, ...]) -> AsyncGenerator[Chunk]:
        try:
            for step in script:
                match step:
                    case Chunk():
                        self.made += 1
                        yield step
                    case Exception():
                        raise step
                    case seconds:
                        await asyncio.sleep(seconds)
        finally:
            self.closed = True


async def rest(ahead: Ahead) -> list[Chunk]:
    pieces = []
    async with within(PROMPTLY, "the text did not end"):
        while (piece := await ahead.next()) is not None:
            pieces.append(piece)
    return pieces


async def test_the_engine_is_done_before_anything_is_read() -> None:
    engine = Engine(Chunk("a", 1), 0.0, Chunk("b", 1), Chunk("", 1), Chunk("c", 1, FINISH))
    ahead = engine.ahead()
    await until(lambda: engine.ends, "the engine waited for the reader")

    assert (engine.closed, engine.store.size, ahead.waits) == (True, 3, False)
    assert [(piece.text, piece.token_count) for piece in await rest(ahead)] == [("abc", 3)]
    assert (ahead.finish, engine.store.size) == (FINISH, 0)
    await ahead.stop()


async def test_a_message_is_not_too_large_for_a_slow_reader() -> None:
    engine = Engine(*[Chunk("x" * 1000, 1)] * 50, Chunk("", 0, FINISH))
    ahead = engine.ahead()
    await until(lambda: engine.ends, "the engine waited for the reader")
    pieces = await rest(ahead)

    assert sum(len(piece.text) for piece in pieces) == 50_000
    assert max(len(piece.text) for piece in pieces) < 18_000
    await ahead.stop()


@pytest.mark.parametrize(("most", "all_"), [(5000, 1 << 20), (1 << 20, 5000)])
async def test_memory_has_an_end_for_one_and_for_all(
    most: int, all_: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST", most)
    monkeypatch.setattr(module, "ALL", all_)
    engine = Engine(*[Chunk("x" * 1000, 1)] * 100, Chunk("", 0, FINISH))
    ahead = engine.ahead()
    await until(lambda: ahead.waits, "the engine did not wait")
    await asyncio.sleep(0.01)
    assert (engine.made, engine.ends) == (5, 0)

    assert sum(len(piece.text) for piece in await rest(ahead)) == 100_000
    assert engine.store.size == 0
    await ahead.stop()


async def test_the_end_of_an_engine_comes_after_its_text() -> None:
    engine = Engine(Chunk("a", 1), EngineLost("went"))
    ahead = engine.ahead()
    await until(lambda: engine.ends, "the engine waited for the reader")

    piece = await ahead.next()
    assert piece is not None
    assert piece.text == "a"
    with pytest.raises(EngineLost):
        await ahead.next()
    await ahead.stop()


async def test_silence_of_the_engine_ends_the_text() -> None:
    engine = Engine(Chunk("a", 1), 60)
    ahead = engine.ahead(silence=0.02)
    await until(lambda: engine.ends, "the silence did not end")

    await ahead.next()
    with pytest.raises(GenerationTimeout):
        await ahead.next()
    await ahead.stop()


@pytest.mark.parametrize("pause", [0, 0.01])
async def test_a_stop_closes_the_engine_and_keeps_nothing(pause: float) -> None:
    engine = Engine(Chunk("a", 1), 60)
    await anext(engine.chunks)
    ahead = engine.ahead()
    if pause:
        await asyncio.sleep(pause)
    await ahead.stop()

    assert (engine.closed, engine.store.size) == (True, 0)
