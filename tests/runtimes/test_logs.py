"""The log of an engine, for any number of readers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from inference_service.runtimes.logs import LogBuffer
from tests.waiting import PROMPTLY, within


def filled(size: int, count: int) -> LogBuffer:
    log = LogBuffer(size=size)
    for number in range(count):
        log.append(str(number))
    return log


async def read(lines: AsyncGenerator[str]) -> list[str]:
    """Read a log to its end."""
    async with within(PROMPTLY, "the log did not end"):
        return [line async for line in lines]


async def take(lines: AsyncGenerator[str], count: int = 1) -> list[str]:
    """Read the next lines of a log."""
    async with within(PROMPTLY, "the next line did not come"):
        return [await anext(lines) for _ in range(count)]


async def test_a_reader_gets_the_kept_lines_and_the_new_ones_until_the_end() -> None:
    log = filled(10, 2)
    lines = log.follow()

    assert await take(lines, 2) == ["0", "1"]
    log.append("2")
    log.append("3")
    log.close()

    assert await read(lines) == ["2", "3"]


async def test_a_reader_waits_for_a_line() -> None:
    log = LogBuffer()
    reader = asyncio.create_task(take(log.follow()))
    await asyncio.wait([reader], timeout=0)
    assert not reader.done()

    log.append("here")

    assert await reader == ["here"]


async def test_a_waiting_reader_ends_with_the_log() -> None:
    log = LogBuffer()
    reader = asyncio.create_task(read(log.follow()))
    await asyncio.wait([reader], timeout=0)

    log.close()

    assert await reader == []


async def test_every_reader_gets_every_line() -> None:
    log = LogBuffer()
    readers = [asyncio.create_task(read(log.follow())) for _ in range(10)]
    for number in range(100):
        log.append(str(number))
        if number % 7 == 0:
            await asyncio.sleep(0)
    log.close()

    assert await asyncio.gather(*readers) == [[str(number) for number in range(100)]] * 10


async def test_a_late_reader_gets_the_kept_lines() -> None:
    log = filled(3, 5)
    log.close()

    assert await read(log.follow()) == ["2", "3", "4"]


async def test_a_slow_reader_gets_the_lines_that_came_meanwhile() -> None:
    log = filled(10, 1)
    lines = log.follow()
    assert await take(lines) == ["0"]

    log.append("1")
    assert await take(lines) == ["1"]
    log.append("2")
    log.close()

    assert await read(lines) == ["2"]


async def test_a_reader_that_is_too_slow_loses_only_the_oldest_lines() -> None:
    log = filled(3, 1)
    lines = log.follow()
    assert await take(lines) == ["0"]
    for number in range(1, 11):
        log.append(str(number))
    log.close()

    assert await read(lines) == ["8", "9", "10"]


async def test_a_fast_reader_loses_nothing_to_a_slow_one() -> None:
    log = LogBuffer(size=2)
    slow, fast = log.follow(), log.follow()
    log.append("0")
    assert await take(slow) == ["0"]
    seen = await take(fast)
    for number in range(1, 6):
        log.append(str(number))
        seen += await take(fast)

    assert seen == ["0", "1", "2", "3", "4", "5"]
    assert await take(slow, 2) == ["4", "5"]


@pytest.mark.parametrize(
    ("last", "lines"), [(0, []), (1, ["4"]), (3, ["2", "3", "4"]), (99, ["2", "3", "4"])]
)
async def test_a_reader_can_begin_with_the_last_lines(last: int, lines: list[str]) -> None:
    log = filled(3, 5)
    reader = log.follow(last)
    waiting = asyncio.create_task(read(reader))
    await asyncio.wait([waiting], timeout=0)
    log.append("new")
    log.close()

    assert await waiting == [*lines, "new"]


async def test_a_line_that_is_drawn_again_takes_the_place_of_the_last() -> None:
    log = filled(3, 2)
    lines = log.follow()
    assert await take(lines, 2) == ["0", "1"]

    log.append(" 10%")
    assert await take(lines) == [" 10%"]
    for percent in (20, 30, 40):
        log.append(f" {percent}%", redrawn=True)
    assert log.tail(9) == ("0", "1", " 40%")
    log.append("2")
    log.close()

    assert await read(lines) == [" 40%", "2"]
    assert await read(log.follow()) == ["1", " 40%", "2"]


async def test_a_log_of_long_lines_is_bounded() -> None:
    log = LogBuffer()
    for number in range(1000):
        log.append(f"{number} " + "x" * 100_000)
    log.append("last", redrawn=True)
    log.close()

    assert sum(map(len, log.tail(1000))) <= 1 << 23
    assert log.tail(1) == ("last",)
    assert (await read(log.follow()))[0] == log.tail(1000)[0]


def test_control_characters_stand_as_escapes() -> None:
    log = LogBuffer(["sec\x1bret"])
    log.append("one\rtwo\x1b[2J sec\x1bret")

    assert log.tail(1) == (r"one\rtwo\x1b[2J ***",)


async def test_a_reader_may_leave() -> None:
    log = filled(10, 3)
    lines = log.follow()
    await take(lines)
    await lines.aclose()

    assert log.tail(3) == ("0", "1", "2")


@pytest.mark.parametrize(
    ("count", "lines"),
    [(1, ("4",)), (2, ("3", "4")), (3, ("2", "3", "4")), (9, ("2", "3", "4")), (0, ())],
)
def test_the_tail_is_the_last_lines_oldest_first(count: int, lines: tuple[str, ...]) -> None:
    assert filled(3, 5).tail(count) == lines


def test_an_empty_log_has_no_tail() -> None:
    assert LogBuffer().tail(5) == ()


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("api_key: Some(s3cret), s3cret", "api_key: Some(***), ***"),
        ("Bearer p@ss.word", "Bearer ***"),
        ("token=hf_abcdefghijklmnopqrst", "token=***"),
        ("a/hf_model, hf_short, xhf_abcdefghijklmnopqrst", None),
        ("pass.word secret", None),
    ],
)
async def test_no_line_shows_a_secret(line: str, shown: str | None) -> None:
    log = LogBuffer(["s3cret", "p@ss.word"])
    log.append(line)
    log.close()

    assert log.tail(1) == (shown or line,)
    assert await read(log.follow()) == [shown or line]
