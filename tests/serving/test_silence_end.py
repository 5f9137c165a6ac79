"""A limit on silence after its block."""

from __future__ import annotations

import asyncio

import pytest

from inference_service.serving.silence import SilenceLimit


async def test_nothing_is_left_of_a_limit_whose_block_has_ended(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with SilenceLimit(0.01) as limit:
        pass
    await asyncio.sleep(0.03)

    assert not limit.expired()
    assert caplog.text == ""  # a late timer would be a fault in a callback of the loop
