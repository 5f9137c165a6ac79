"""Engines that are processes: groups, sessions, signals."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import pytest

from inference_service.errors import LaunchError
from inference_service.runtimes.base import Exit
from inference_service.runtimes.ports import Ports
from tests.docker.images import REPOSITORY
from tests.runtimes import processes
from tests.runtimes.beds import MIB, ProcessBed, ask
from tests.waiting import PROMPTLY, SLOWLY, until, within

# A service for one engine, whose output it repeats.
SERVICE = """
import asyncio, sys
from functools import partial
from inference_service.engines import kinds
from inference_service.engines.llamacpp.engine import Llamacpp
from inference_service.key import Key
from inference_service.runtimes.command import Launch
from inference_service.runtimes.ports import Ports
from inference_service.runtimes.process import ProcessRuntime

async def main():
    spec = kinds.catalog().find("story-mini")
    launch = Launch(Key("story-mini"), partial(Llamacpp("").command, spec))
    port = int(sys.argv[1])
    async with ProcessRuntime(Ports(port, port)).run(launch) as running:
        async for line in running.logs():
            print(line, flush=True)

asyncio.run(main())
"""


@pytest.fixture
async def bed(ports: Ports) -> AsyncGenerator[ProcessBed]:
    bed = ProcessBed(ports)
    yield bed
    await bed.close()


def children(pid: int) -> list[int]:
    """List the children of a process, zombies too."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def ends(pid: int, seconds: float) -> bool:
    """Return whether the process ends in that time."""
    descriptor = os.pidfd_open(pid)
    try:
        return bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_an_engine_ends_with_the_service(ports: Ports, number: signal.Signals) -> None:
    with ports.claim() as port:
        service = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", SERVICE, str(port)),
            cwd=REPOSITORY,
            stdout=asyncio.subprocess.PIPE,
        )
        assert service.stdout is not None
        async with within(SLOWLY, "the engine did not serve"):
            async for line in service.stdout:
                if b'"serving"' in line:
                    break
        (engine,) = children(service.pid)
        service.send_signal(number)
        ended = await asyncio.to_thread(ends, engine, 10)
        await service.communicate()

    assert ended, "the engine outlived the service by 10 s"
    assert service.returncode == -number


async def test_a_group_that_ignores_sigterm_is_killed_whole(bed: ProcessBed) -> None:
    launch = bed.launch(env={"ENGINE_STUBBORN": "1"}, stop_grace=0.2)
    async with bed.runtime.run(launch) as running:
        await bed.serves(running)
        await ask(running, "/fork")
        await until(lambda: len(bed.left(launch)) == 2, "the engine made no child")
        processes = bed.left(launch)
    for pid in processes:
        assert not Path("/proc", pid).exists() or await asyncio.to_thread(ends, int(pid), 5)


@pytest.mark.parametrize("cancels", [1, 2])
async def test_a_stop_that_is_cancelled_has_reaped_the_engine(
    bed: ProcessBed, cancels: int
) -> None:
    launch = bed.launch(env={"ENGINE_STUBBORN": "1"}, stop_grace=60)
    leaving = asyncio.Event()

    async def run() -> None:
        async with bed.runtime.run(launch) as running:
            await bed.serves(running)
            leaving.set()

    task = asyncio.create_task(run())
    await leaving.wait()
    for _ in range(cancels):
        task.cancel()
        await asyncio.sleep(0)
    await asyncio.wait([task], timeout=SLOWLY)

    assert task.done(), "the stop that was cancelled did not end"
    assert task.cancelled()
    assert children(os.getpid()) == []


async def test_an_engine_has_a_session_of_its_own(bed: ProcessBed) -> None:
    """Ctrl-C in the terminal is for the service alone, which then stops the engine."""
    launch = bed.launch()
    async with bed.runtime.run(launch) as running:
        await bed.serves(running)
        (engine,) = bed.left(launch)

        assert os.getsid(int(engine)) == int(engine)


async def test_twenty_runs_leave_no_zombie_and_no_descriptor(bed: ProcessBed) -> None:
    async def run(number: int) -> None:
        async with bed.running(f"number-{number}") as running:
            if number % 2:
                await bed.end(running, 3)
                await running.wait()

    await run(0)
    before = os.listdir("/proc/self/fd")
    for number in range(0, 20, 4):
        await asyncio.gather(*(run(number + more) for more in range(4)))

    assert children(os.getpid()) == []
    assert len(os.listdir("/proc/self/fd")) == len(before)


async def test_a_line_that_is_too_long_is_dropped(bed: ProcessBed) -> None:
    async with bed.running() as running, aclosing(running.logs()) as lines:
        await ask(running, f"/long/{5 * MIB}")
        await bed.write(running, "after")
        async with within(SLOWLY, "the line after the long one did not come"):
            async for line in lines:
                assert len(line) <= MIB
                if line == "after":
                    break


async def test_standard_error_is_in_the_log(bed: ProcessBed) -> None:
    program = (sys.executable, "-m", "tests.no_such_engine")
    async with bed.runtime.run(bed.launch(program=program)) as running:
        assert await running.wait() == Exit(1)
        assert "No module named tests.no_such_engine" in running.tail(1)[0]


@pytest.mark.parametrize(
    ("program", "cause"),
    [("/no/such/program", "no such file or directory"), ("/etc/passwd", "permission denied")],
)
async def test_a_program_that_cannot_be_run(bed: ProcessBed, program: str, cause: str) -> None:
    launch = bed.launch(program=(program,))
    with pytest.raises(LaunchError, match=f"the program '{program}' .* cannot be run: {cause}"):
        async with bed.runtime.run(launch):
            pass


async def test_the_address_is_the_runtimes_and_not_the_environments(
    bed: ProcessBed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGINE_PORT", "1")
    async with bed.running(env={"ENGINE_HOST": "127.0.0.2"}) as running:
        assert await ask(running, "/env/ENGINE_PORT") == str(running.instance.port)


# The guard of a program that does not watch its standard input.


async def test_a_guarded_program_ends_as_it_would_alone(bed: ProcessBed) -> None:
    async with bed.running(watches_input=False) as running:
        await bed.end(running, 3)
        assert await running.wait() == Exit(3)
    async with bed.running("two", watches_input=False) as running:
        program = max(int(pid) for pid in bed.left(bed.launch("two")))
        os.kill(program, signal.SIGSEGV)
        assert await running.wait() == Exit(-signal.SIGSEGV)


async def test_a_guarded_program_is_stopped_by_sigterm_and_then_killed(bed: ProcessBed) -> None:
    loop = asyncio.get_running_loop()
    stubborn = {"ENGINE_STUBBORN": "1"}
    for env, grace in (({}, 60.0), (stubborn, 0.2)):
        launch = bed.launch(env=env, watches_input=False, stop_grace=grace)
        async with bed.runtime.run(launch) as running:
            await bed.serves(running)
            await ask(running, "/fork")
            began = loop.time()
        assert loop.time() - began < PROMPTLY
        await until(lambda: bed.left(launch) == [], "a process of the group is left")  # noqa: B023


GUARDED = """
import asyncio, sys
from inference_service.key import Key
from inference_service.runtimes.command import Command, Launch, Needs
from inference_service.runtimes.ports import Ports
from inference_service.runtimes.process import ProcessRuntime

async def main():
    program, env = ("sleep", "600"), {"GUARDED": sys.argv[1]}
    command = Command(model="m", needs=Needs(1), program=program, env=env)
    async with ProcessRuntime(Ports(int(sys.argv[1]), int(sys.argv[1]))).run(
        Launch(Key("m"), lambda _: command)
    ):
        print("runs", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_a_guarded_program_does_not_outlive_a_service_that_is_killed(ports: Ports) -> None:
    with ports.claim() as port:
        service = await asyncio.create_subprocess_exec(
            sys.executable, "-c", GUARDED, str(port), stdout=asyncio.subprocess.PIPE
        )
        assert service.stdout is not None
        assert await service.stdout.readline() == b"runs\n"
        of_program = f"GUARDED={port}"
        await until(lambda: len(processes.with_variable(of_program)) == 2, "no program runs")

        service.kill()
        await service.wait()

        await until(lambda: not processes.with_variable(of_program), "the program outlives it")


async def test_an_engine_gets_no_secret_of_the_service(
    bed: ProcessBed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of the service")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    async with bed.running(env={"MY_TOKEN": "of the entry"}) as running:
        assert await ask(running, "/env/AWS_SECRET_ACCESS_KEY") == ""
        assert await ask(running, "/env/CUDA_VISIBLE_DEVICES") == "1"
        assert await ask(running, "/env/MY_TOKEN") == "of the entry"
        assert await ask(running, "/env/PATH")


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is that of Linux")
async def test_a_program_leaves_no_core_dump(bed: ProcessBed) -> None:
    async with bed.running(watches_input=False) as running:
        for pid in bed.left(bed.launch()):
            limits = Path("/proc", pid, "limits").read_text().splitlines()
            (core,) = (line for line in limits if line.startswith("Max core file size"))
            assert core.split()[4:6] == ["1", "1"]
        assert running.instance.port


async def test_a_password_in_a_url_is_not_in_a_log(bed: ProcessBed) -> None:
    async with bed.running() as running:
        await bed.write(running, "GET http://me:pass@word@hub.example/x?a=b@c is 404")
        await bed.end(running, 0)
        await running.wait()
        assert running.tail(1) == ("GET http://***@hub.example/x?a=b@c is 404",)
