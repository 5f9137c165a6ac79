"""Engines as subprocesses of this service: for machines without Docker.

The engine, or a guard around it, watches the pipe on its standard input and ends when the pipe
closes, so that a killed service leaves no engine behind. An engine that takes much more memory than
it claims is killed (`memory.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager

from inference_service.capacity.claims import GpuShare
from inference_service.capacity.nodes import LOCAL, Node
from inference_service.errors import LaunchError, Unlaunchable
from inference_service.lifecycle import Progress
from inference_service.runtimes import guard as guard_program
from inference_service.runtimes import listeners
from inference_service.runtimes.base import Exit, Instance, StatelessRuntime
from inference_service.runtimes.command import Command, Launch, Seat, new_key
from inference_service.runtimes.completion import completed
from inference_service.runtimes.environment import inherited
from inference_service.runtimes.lines import Lines
from inference_service.runtimes.logs import KEPT_LINES, LogBuffer
from inference_service.runtimes.memory import MemoryLimit
from inference_service.runtimes.ports import Ports

_READ = 1 << 16  # bytes at once

# Seconds between two looks for the port of a program.
_LOOK = 0.01
_LONGEST_LOOK = 1.0

_ANY = Node(LOCAL, 1 << 62)  # a machine whose memory is not counted


class ProcessRuntime(StatelessRuntime):
    """The runtime of processes: each runs the words of `command.program`."""

    name = "process"
    creates = "starting the process"
    seat = Seat()
    patience = 10.0

    def __init__(self, ports: Ports, node: Node = _ANY) -> None:
        self.nodes = (node,)
        self._ports = ports

    async def pull(self, command: Command) -> AsyncGenerator[Progress]:
        """Refuse a command without a program. Otherwise fetch nothing."""
        if not command.program:
            raise Unlaunchable(
                f"{command.model} runs in a container only, by the engine that its entry has or "
                "names; start Docker, or let its entry in the catalog have an engine that runs as "
                "a process, such as `llamacpp`, and name no other"
            )
        return
        yield  # makes this a generator

    @asynccontextmanager
    async def run(
        self, launch: Launch, gpus: GpuShare | None = None
    ) -> AsyncGenerator[RunningProcess]:
        """Run the engine as the leader of its own process group."""
        with self._ports.claim() as port:
            ports = (self._ports.first, self._ports.last)
            command = launch.command(self.seat.taken(port, gpus, new_key(), ports))
            own = inherited(os.environ)
            env = {**own, **command.hub, **command.env, **command.secrets}
            loop = asyncio.get_running_loop()
            try:
                transport, protocol = await loop.subprocess_exec(
                    lambda: _Protocol(loop),
                    *_words(command, env),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.STDOUT,
                    env=env,
                    start_new_session=True,  # Ctrl-C in a terminal is for the service alone
                )
            except OSError as error:
                raise LaunchError(f"the engine could not be started: {error}") from None
            process = asyncio.subprocess.Process(transport, protocol, loop)
            instance = Instance.local(self.container_name(launch.key), port, command)
            running = RunningProcess(instance, command, process, protocol.exited)
            grace = command.stop_grace
            try:
                yield running
            except Exception:
                grace = 0
                raise
            finally:
                await running.stop(grace)


def _words(command: Command, env: Mapping[str, str]) -> tuple[str, ...]:
    """Return the words of the process. Raises Unlaunchable where there is no such program."""
    program = command.program[0]
    if shutil.which(program, path=env.get("PATH")) is None:
        cause = "permission denied" if os.path.exists(program) else "no such file or directory"
        raise Unlaunchable(f"the program {program!r} of its entry cannot be run: {cause}")
    guard = () if command.watches_input else (sys.executable, "-I", "-S", guard_program.__file__)
    return (*guard, *command.program, *command.args)


class _Protocol(asyncio.subprocess.SubprocessStreamProtocol):
    """The output of a process, with an event for its exit.

    `Process.wait` of Python 3.11 waits for the pipes too, which a child of the engine may hold.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(limit=_READ, loop=loop)
        self.exited = asyncio.Event()

    def process_exited(self) -> None:
        super().process_exited()
        self.exited.set()


class RunningProcess:
    """An engine that is a process."""

    def __init__(
        self,
        instance: Instance,
        command: Command,
        process: asyncio.subprocess.Process,
        exited: asyncio.Event,
    ) -> None:
        self.instance = instance
        self._command = command
        self._process = process
        self._log = LogBuffer(command.hidden)
        self._exited = exited
        self._reader = asyncio.create_task(self._read())
        self._memory = MemoryLimit(process.pid, command.needs.memory_bytes, command.concurrency)
        self._killer = asyncio.create_task(self._end_group())

    async def wait(self) -> Exit:
        await asyncio.shield(self._reader)
        code = await self._process.wait()
        limit = self._memory.exceeded(code)
        return Exit(code, oom_killed=limit is not None, limit=limit or "")

    async def listens(self) -> None:
        if self._command.port_in is not None:
            await self._says_its_port(self._command.port_in)
            return
        pause = _LOOK
        while (
            await asyncio.to_thread(listeners.held, self._process.pid, self.instance.port) is False
        ):
            await asyncio.sleep(pause)
            pause = min(pause * 1.1, _LONGEST_LOOK)

    async def _says_its_port(self, port_in: Callable[[str], int | None]) -> None:
        async with aclosing(self.logs()) as lines:
            async for line in lines:
                if (port := port_in(line)) is not None:
                    self.instance = Instance.local(self.instance.name, port, self._command)
                    return
        await asyncio.Event().wait()  # the engine has ended, which another task notes

    def logs(self, last: int = KEPT_LINES) -> AsyncGenerator[str]:
        return self._log.follow(last)

    def tail(self, count: int) -> tuple[str, ...]:
        return self._log.tail(count)

    async def disk_usage(self, paths: Sequence[str]) -> int | None:
        """Return None: engines that run as processes report their downloads in their log."""
        return None

    async def stop(self, grace: float) -> None:
        """Stop the engine: SIGTERM, `grace` seconds, then SIGKILL to the whole group.

        A cancelled stop kills at once, and ends when the process has been reaped.
        """
        try:
            if self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    self._process.terminate()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(grace):
                        await self._exited.wait()
        finally:
            if self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
            await completed(self._killer)
        await self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        await self._reader

    async def _end_group(self) -> None:
        """Kill the children of an engine that has ended, as Docker does."""
        await self._exited.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._memory.aclose()

    async def _read(self) -> None:
        assert self._process.stdout is not None
        lines = Lines()
        try:
            while data := await self._process.stdout.read(_READ):
                for line in lines.feed(data):
                    self._log.append(*line)
            for line in lines.end():
                self._log.append(*line)
        finally:
            self._log.close()
