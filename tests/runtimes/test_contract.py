"""The contract of `inference_service/runtimes/base.py`, for every runtime and the fake."""

from __future__ import annotations

import asyncio
import itertools
import types
from collections.abc import Coroutine, Generator
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any

import pytest

from inference_service.errors import LaunchError
from inference_service.lifecycle import Phase, Progress
from inference_service.runtimes.base import Exit, Running
from tests.runtimes.beds import Bed, ask
from tests.waiting import PROMPTLY, SLOWLY, until, within


async def cancelled_at(
    coroutine: Coroutine[Any, Any, None], wait: int, begun: asyncio.Event
) -> None:
    """Run a coroutine as a whole task, cancelled at its `wait`th wait since `begun`."""
    await _driven(coroutine, wait, begun)


@types.coroutine
def _driven(
    coroutine: Coroutine[Any, Any, None], wait: int, begun: asyncio.Event
) -> Generator[Any, Any, None]:
    task = asyncio.current_task()
    assert task is not None
    error: BaseException | None = None
    count = 0
    while True:
        try:
            future = coroutine.send(None) if error is None else coroutine.throw(error)
        except StopIteration:
            return
        count += begun.is_set()
        if count == wait:
            task.cancel()
        try:
            error = None
            yield future
        except BaseException as raised:
            error = raised


async def read(running: Running) -> list[str]:
    """Read the log of an running to its end."""
    ends = within(SLOWLY, f"the log of {running.instance.name} did not end")
    async with ends, aclosing(running.logs()) as lines:
        return [line async for line in lines]


async def test_an_instance_has_a_name_a_port_and_a_url(bed: Bed) -> None:
    launch = bed.launch()
    async with bed.running() as running:
        assert running.instance.name == bed.name(launch)
        assert running.instance.name.endswith(f"tgi-{launch.key}")
        assert running.instance.port
        assert running.instance.url == f"http://{bed.address(running)}"


async def test_the_engine_is_reachable_and_then_gone(real: Bed) -> None:
    async with real.running(env={"COLOUR": "blue"}) as running:
        assert await ask(running, "/env/COLOUR") == "blue"

    with pytest.raises(OSError):
        await ask(running, "/env/COLOUR")


async def test_a_model_can_run_again_with_the_same_name_and_port(bed: Bed) -> None:
    runs = []
    for _ in range(2):
        async with bed.running() as running:
            runs.append((running.instance.name, running.instance.port))

    assert runs[0] == runs[1]


async def test_two_models_have_two_ports_and_end_apart(bed: Bed) -> None:
    async with bed.running("one") as one:
        async with bed.running("two") as two:
            ports = {one.instance.port, two.instance.port}
        assert bed.left(bed.launch("one"))
        async with bed.running("two") as again:
            assert {one.instance.port, again.instance.port} == ports

    assert len(ports) == 2


async def test_two_runs_of_one_model_have_two_names_and_end_apart(bed: Bed) -> None:
    async with bed.running(number=1) as one:
        async with bed.running(number=2) as two:
            assert two.instance.name == f"{one.instance.name}.R2"
            assert one.instance.port != two.instance.port
            assert bed.left(bed.launch(number=1))
        assert bed.left(bed.launch(number=1))
        assert not bed.left(bed.launch(number=2))


async def test_a_port_is_not_given_twice(bed: Bed) -> None:
    async with AsyncExitStack() as first:
        await first.enter_async_context(bed.running("one"))
        async with bed.running("two") as two:
            await first.aclose()
            async with bed.running("three") as three:
                assert three.instance.port != two.instance.port


async def test_an_engine_gets_files(real: Bed, tmp_path: Path) -> None:
    file = tmp_path / "weights.gguf"
    file.write_text("so heavy")

    async with real.running(files={"WEIGHTS": file}) as running:
        assert await ask(running, "/file/WEIGHTS") == "so heavy"


async def test_a_pull_reports_only_images_and_never_goes_back(bed: Bed) -> None:
    last: Progress | None = None
    async with aclosing(bed.runtime.pull(bed.launch().command(bed.runtime.seat))) as pull:
        async for progress in pull:
            assert progress.phase is Phase.PULLING_IMAGE
            assert progress == progress.after(last)
            last = progress


async def test_a_pull_for_a_launch_that_cannot_run_is_refused(bed: Bed) -> None:
    with pytest.raises(LaunchError):
        command = bed.launch(image="", program=()).command(bed.runtime.seat)
        async for _ in bed.runtime.pull(command):
            pass


async def test_an_error_in_the_block_leaves_nothing(bed: Bed) -> None:
    launch = bed.launch()
    with pytest.raises(ZeroDivisionError):
        async with bed.runtime.run(launch):
            _ = 1 / 0

    assert bed.left(launch) == []


async def test_a_start_leaves_nothing_wherever_it_is_cancelled(bed: Bed) -> None:
    launch = bed.launch()
    begun, runs = asyncio.Event(), asyncio.Event()
    begun.set()

    async def run() -> None:
        async with bed.runtime.run(launch) as running:
            runs.set()
            await running.wait()

    for wait in itertools.count(1):
        task = asyncio.create_task(cancelled_at(run(), wait, begun))
        with pytest.raises(asyncio.CancelledError):
            async with within(SLOWLY, f"a start that was cancelled at wait {wait} did not end"):
                await task
        assert bed.left(launch) == [], f"cancelled at wait {wait}"
        if runs.is_set():
            return


async def test_a_stop_leaves_nothing_wherever_it_is_cancelled(bed: Bed) -> None:
    """Cancel as a loop does that ends while its tasks clean up."""
    launch = bed.launch(env={"ENGINE_STUBBORN": "1"}, stop_grace=1)

    async def run(leaving: asyncio.Event) -> None:
        async with bed.runtime.run(launch) as running:
            await bed.serves(running)
            leaving.set()

    for wait in itertools.count(1):
        leaving = asyncio.Event()
        task = asyncio.create_task(cancelled_at(run(leaving), wait, leaving))
        await asyncio.wait([task], timeout=SLOWLY)
        assert task.done(), f"a stop that was cancelled at wait {wait} did not end"
        assert leaving.is_set()
        assert bed.left(launch) == [], f"cancelled at wait {wait}"
        if not task.cancelled():
            await task
            return


@pytest.mark.parametrize("code", [0, 3])
async def test_all_who_wait_get_the_end_of_an_engine(bed: Bed, code: int) -> None:
    async with bed.running() as running:
        first, left = (asyncio.create_task(running.wait()) for _ in range(2))
        await asyncio.sleep(0)
        left.cancel()
        await bed.end(running, code)

        async with within(SLOWLY, "the end of the engine was not reported to all"):
            assert await first == Exit(code)
            assert await asyncio.gather(*(running.wait() for _ in range(20))) == [Exit(code)] * 20
        assert left.cancelled()


async def test_an_engine_that_is_killed_from_outside_is_reported(bed: Bed) -> None:
    async with bed.running() as running:
        waiting = asyncio.create_task(running.wait())
        exit = await bed.kill(running)

        async with within(SLOWLY, "the end of the engine was not reported"):
            assert await waiting == exit


async def test_a_wait_returns_when_the_run_is_left(bed: Bed) -> None:
    async with bed.running() as running:
        waiting = asyncio.create_task(running.wait())
        await asyncio.sleep(0)

    async with within(PROMPTLY, "the end of the engine was not reported"):
        assert await waiting == await running.wait()


async def test_the_end_of_an_engine_is_the_end_of_its_children(real: Bed) -> None:
    async with real.running() as running:
        await ask(running, "/fork")
        await real.end(running, 3)

        async with within(PROMPTLY, "the end of the engine was not reported"):
            assert await running.wait() == Exit(3)


async def test_children_are_gone_after_a_stop_and_do_not_delay_it(real: Bed) -> None:
    loop = asyncio.get_running_loop()
    launch = real.launch(stop_grace=10)
    async with real.runtime.run(launch) as running:
        await real.serves(running)
        await ask(running, "/fork")
        began = loop.time()

    assert loop.time() - began < PROMPTLY
    await until(lambda: not real.left(launch), "the child of the engine did not end")


async def test_an_engine_that_ignores_sigterm_is_killed_after_its_grace(real: Bed) -> None:
    loop = asyncio.get_running_loop()
    launch = real.launch(env={"ENGINE_STUBBORN": "1"}, stop_grace=1)
    async with real.runtime.run(launch) as running:
        await real.serves(running)
        began = loop.time()

    assert 0.9 < loop.time() - began < 1 + PROMPTLY
    assert real.left(launch) == []


async def test_an_error_in_the_block_kills_the_engine_without_its_grace(real: Bed) -> None:
    """Spend no grace on an engine that hangs, for callers wait for the next one."""
    loop = asyncio.get_running_loop()
    launch = real.launch(env={"ENGINE_STUBBORN": "1"}, stop_grace=60)
    with pytest.raises(ZeroDivisionError):
        async with real.runtime.run(launch) as running:
            await real.serves(running)
            began = loop.time()
            _ = 1 / 0

    assert loop.time() - began < PROMPTLY
    assert real.left(launch) == []


async def test_a_log_is_followed_from_its_beginning_to_its_end(bed: Bed) -> None:
    async with bed.running() as running:
        await bed.write(running, "early")
        follows = within(SLOWLY, "the reader did not get all lines and the end of the log")
        async with follows, aclosing(running.logs()) as lines:
            seen = [await anext(lines), await anext(lines)]
            await bed.write(running, "late")
            seen.append(await anext(lines))
            await bed.write(running, "last")
            await bed.end(running, 0)
            seen += [line async for line in lines]

        assert seen == await read(running) == ["serving", "early", "late", "last"]
        assert await running.wait() == Exit(0)


async def test_a_log_is_complete_when_the_end_is_known(bed: Bed) -> None:
    async with bed.running() as running:
        for number in range(3):
            await bed.write(running, f"line {number}")
        await bed.end(running, 3)
        await running.wait()

        assert running.tail(2) == ("line 1", "line 2")
        assert running.tail(100) == ("serving", "line 0", "line 1", "line 2")


async def test_a_log_can_be_followed_from_its_last_lines(bed: Bed) -> None:
    async with bed.running() as running:
        await bed.write(running, "early")
        await bed.write(running, "late")
        await bed.end(running, 0)
        await running.wait()
        for last, lines in ((0, []), (2, ["early", "late"]), (9, ["serving", "early", "late"])):
            async with aclosing(running.logs(last)) as log:
                assert [line async for line in log] == lines


async def test_secrets_are_not_in_a_log(real: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "my-token")
    async with real.running(env={"API_KEY": "my-own-key", "PIN_KEY": "1"}) as running:
        assert await ask(running, "/env/HF_TOKEN") == "my-token"
        await real.write(running, "my-token and my-own-key, 1 of 11")
        await real.end(running, 0)
        await running.wait()

        assert running.tail(1) == ("*** and ***, 1 of 11",)  # one character hides nothing


async def test_the_reader_of_a_log_ends_when_the_run_is_left(bed: Bed) -> None:
    async with bed.running() as running:
        reading = asyncio.create_task(read(running))
        await asyncio.sleep(0)

    async with within(PROMPTLY, "the reader of the log did not end"):
        assert (await reading)[0] == "serving"


async def test_any_text_may_stand_in_a_log(real: Bed) -> None:
    async with real.running() as running:
        for line in ("größer 日本", "tab\tand blanks  ", ""):
            await real.write(running, line)
        await ask(running, "/long/100000")
        await real.end(running, 0)

        lines = await read(running)

    assert lines == ["serving", "größer 日本", "tab\tand blanks", "", "x" * 100_000]
