"""Engines that somebody else runs."""

from __future__ import annotations

import asyncio

import pytest

from inference_service.errors import LaunchError
from inference_service.key import Key
from inference_service.runtimes.base import Exit
from inference_service.runtimes.command import Command, Launch, Needs
from inference_service.runtimes.remote import RemoteRuntime
from tests.waiting import PROMPTLY, within

COMMAND = Command(
    model="theirs",
    needs=Needs(0),
    url="https://engines.example/base",
    headers={"authorization": "Bearer secret"},
)


async def test_an_instance_has_the_address_and_the_headers_of_its_command() -> None:
    runtime = RemoteRuntime()
    async with runtime.run(Launch(Key("mine"), lambda _: COMMAND)) as running:
        instance = running.instance
        assert (instance.name, instance.url) == ("tgi-mine", "https://engines.example/base")
        assert (instance.port, instance.model) == (0, "theirs")
        assert instance.headers == {"authorization": "Bearer secret"}
        assert "secret" not in repr(instance)
        assert running.tail(9) == ()
        assert await running.disk_usage(["/"]) is None


async def test_whoever_waits_for_its_end_or_its_log_waits_until_the_run_is_left() -> None:
    runtime = RemoteRuntime()
    async with runtime.run(Launch(Key("mine"), lambda _: COMMAND)) as running:
        end = asyncio.create_task(running.wait())
        line = asyncio.create_task(anext(running.logs(), None))
        await asyncio.sleep(0)
        assert not end.done()
        assert not line.done()

    async with within(PROMPTLY, "a wait did not end"):
        assert await end == await running.wait() == Exit(None)
        assert await line is None
    assert not runtime.removal_pending(Key("mine"))
    assert await runtime.survivors({"mine": COMMAND}) == {}


async def test_a_command_without_an_address_is_refused() -> None:
    command = Command(model="mine", needs=Needs(1), program=("serve",))
    with pytest.raises(LaunchError, match="serve has no `url`"):
        async for _ in RemoteRuntime().pull(command):
            pass
