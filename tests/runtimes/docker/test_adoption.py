"""The adoption of engines that an earlier service left."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from inference_service.capacity.claims import GpuShare
from inference_service.runtimes.base import Exit, Running
from inference_service.runtimes.command import Launch
from tests.docker.daemon import Daemon
from tests.runtimes.beds import KEYS, MIB, DockerBed, ask
from tests.runtimes.docker.beds import Open
from tests.waiting import PROMPTLY, within

pytestmark = pytest.mark.docker


@asynccontextmanager
async def abandoned(
    bed: DockerBed, launch: Launch, gpus: GpuShare | None = None
) -> AsyncGenerator[Running]:
    """Run an engine of a killed service: its `run` is left only after the test."""
    run = bed.runtime.run(launch, gpus)
    running = await run.__aenter__()
    await bed.serves(running)
    yield running
    await run.__aexit__(None, None, None)


async def test_an_engine_that_fits_is_adopted(open_bed: Open) -> None:
    killed, heir = open_bed(), open_bed()
    launch = killed.launch()
    async with abandoned(killed, launch) as before:
        old = killed.inspect(before)["Id"]
        await killed.write(before, "before")
        async with heir.running() as after:
            assert heir.inspect(after)["Id"] == old
            assert after.instance.port == before.instance.port
            await heir.write(after, "after")
            await heir.end(after, 3)

            assert await after.wait() == Exit(3)
            assert after.tail(9) == ("serving", "before", "after")


@pytest.mark.parametrize("changes", [{"env": {"COLOUR": "blue"}}, {"memory_bytes": 65 * MIB}])
async def test_an_engine_that_does_not_fit_is_replaced(
    open_bed: Open, changes: dict[str, Any]
) -> None:
    killed, heir = open_bed(), open_bed()
    async with abandoned(killed, killed.launch()) as before:
        old = killed.inspect(before)["Id"]
        async with heir.running(**changes) as after:
            assert heir.inspect(after)["Id"] != old
            async with within(PROMPTLY, "the end of the engine was not reported"):
                assert isinstance(await before.wait(), Exit)


async def test_an_engine_whose_key_is_lost_is_replaced(open_bed: Open) -> None:
    killed, heir = open_bed(), open_bed()
    launch = killed.launch()
    async with abandoned(killed, launch) as before:
        old = killed.inspect(before)["Id"]
        keys = Path(KEYS.name)
        (keys / str(launch.key)).unlink()
        async with heir.running() as after:
            assert heir.inspect(after)["Id"] != old
            kept = (keys / str(launch.key)).read_text()
    assert len(kept) == 32
    assert [*keys.iterdir()] == []


async def test_a_survivor_whose_key_is_lost_is_removed(open_bed: Open) -> None:
    killed, heir = open_bed(), open_bed()
    launch = killed.launch()
    async with abandoned(killed, launch):
        (Path(KEYS.name) / str(launch.key)).write_text("not a key")
        commands = {launch.key.model_id: launch.command(heir.runtime.seat)}
        assert await heir.runtime.survivors(commands) == {}
        assert killed.left(launch) == []
    (Path(KEYS.name) / f"{launch.key}.damaged").unlink()


async def test_the_token_is_not_in_what_docker_shows(
    open_bed: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_my_own_token")
    bed = open_bed()
    async with bed.running(reads_token_file=True) as running:
        shown = bed.inspect(running)
        assert "hf_my_own_token" not in str(shown)
        assert {"Name": "core", "Soft": 0, "Hard": 0} in shown["HostConfig"]["Ulimits"]
        assert await ask(running, "/env/HF_TOKEN") == ""
        assert await ask(running, "/file/HF_TOKEN_PATH") == "hf_my_own_token"
        await bed.write(running, "hf_my_own_token")
        await bed.end(running, 0)
        await running.wait()
        assert running.tail(1) == ("***",)


async def test_an_engine_that_has_ended_is_replaced(open_bed: Open) -> None:
    killed, heir = open_bed(), open_bed()
    async with abandoned(killed, killed.launch()) as before:
        await killed.end(before, 0)
        await before.wait()
        async with heir.running() as after:
            assert await ask(after, "/env/ENGINE_PORT") == "80"


async def test_survivors_are_those_that_fit_and_others_are_removed(open_bed: Open) -> None:
    killed, heir = open_bed(), open_bed()
    one, two, three = (killed.launch(which) for which in ("one", "two", "three"))
    launches = (one, heir.launch("two", env={"COLOUR": "blue"}))
    changed = {launch.key.model_id: launch.command(heir.runtime.seat) for launch in launches}
    async with abandoned(killed, one), abandoned(killed, two), abandoned(killed, three):
        assert await heir.runtime.survivors(changed) == {one.key: ()}
        assert killed.left(one)
        assert killed.left(two) == killed.left(three) == []


async def test_survivors_are_adopted_only_on_their_own_gpus(open_bed: Open, daemon: Daemon) -> None:
    killed, heir, third = (open_bed(url=daemon.url) for _ in range(3))
    launch = killed.launch(gpus="all")
    here, there = GpuShare(("GPU-b", "GPU-a"), 1.0), GpuShare(("GPU-b",), 1.0)
    async with abandoned(killed, launch, here) as before:
        old = killed.inspect(before)["Id"]
        commands = {launch.key.model_id: launch.command(heir.runtime.seat)}
        kept = await heir.runtime.survivors(commands)
        assert {key: {*ids} for key, ids in kept.items()} == {launch.key: {"GPU-a", "GPU-b"}}
        heir.runtime.leave()
        async with heir.runtime.run(launch, here) as after:
            assert heir.inspect(after)["Id"] == old
        async with third.runtime.run(launch, there) as after:
            assert third.inspect(after)["Id"] != old


async def test_engines_can_be_left_to_the_next_service(open_bed: Open) -> None:
    first, heir = open_bed(), open_bed()
    launch = first.launch()
    async with first.runtime.run(launch) as before:
        await first.serves(before)
        old = first.inspect(before)["Id"]
        first.runtime.leave()
    assert first.left(launch)

    async with heir.running() as after:
        assert heir.inspect(after)["Id"] == old
