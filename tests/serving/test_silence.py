"""The limit on silence, with short times, and steps that take still less."""

from __future__ import annotations

import asyncio

import pytest

from inference_service.serving.silence import SilenceLimit


async def test_silence_ends_the_block() -> None:
    limit = SilenceLimit(0.05)

    with pytest.raises(TimeoutError):
        async with limit:
            await asyncio.Event().wait()

    assert limit.expired()


async def test_a_reset_counts_from_now_on() -> None:
    clock = asyncio.get_running_loop().time
    began = clock()
    reset = began
    limit = SilenceLimit(0.2)

    with pytest.raises(TimeoutError):
        async with limit:
            while clock() < began + 0.3:
                await asyncio.sleep(0.01)
                reset = clock()
                limit.reset()
            await asyncio.Event().wait()

    assert reset + 0.2 <= clock()


async def test_a_pause_is_no_silence() -> None:
    async with SilenceLimit(0.01) as limit:
        limit.pause()
        await asyncio.sleep(0.1)
        limit.reset()

    assert not limit.expired()


async def test_a_reset_ends_the_pause() -> None:
    with pytest.raises(TimeoutError):
        async with SilenceLimit(0.05) as limit:
            limit.pause()
            await asyncio.sleep(0)
            limit.reset()
            await asyncio.Event().wait()


async def test_a_block_that_ends_in_time_leaves_no_timer() -> None:
    async with SilenceLimit(0.01) as limit:
        pass
    await asyncio.sleep(0.05)

    assert not limit.expired()


async def test_an_error_of_the_block_is_passed_on() -> None:
    limit = SilenceLimit(10)

    with pytest.raises(KeyError):
        async with limit:
            raise KeyError

    assert not limit.expired()


async def test_nothing_is_left_of_a_limit_whose_block_has_ended(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with SilenceLimit(0.01) as limit:
        pass
    await asyncio.sleep(0.03)

    assert not limit.expired()
    assert caplog.text == ""  # a late timer would be a fault in a callback of the loop
