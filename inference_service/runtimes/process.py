"""Engines as subprocesses of this service: for machines without Docker.

The memory limit of the catalog is not enforced here, because the kernel limits the memory of a
process only for root. The engine watches the pipe on its standard input and ends when the pipe
closes, so that a killed service leaves no engine behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager

from inference_service.capacity.claims import GpuShare
from inference_service.errors import LaunchError
from inference_service.lifecycle import Progress
from inference_service.runtimes import identity
from inference_service.runtimes.base import Exit, Launch
from inference_service.runtimes.completion import completed
from inference_service.runtimes.logs import KEPT_LINES, LogBuffer
from inference_service.runtimes.ports import Ports

_LINE_LIMIT = 1 << 20


class ProcessRuntime:
    """The runtime of processes: each runs `python -m <launch.module>`."""

    name = "process"

    def __init__(self, ports: Ports) -> None:
        self._ports = ports

    def container_name(self, launch: Launch) -> str:
        """Return the name without that of the service: names of processes cannot clash."""
        return identity.container_name(identity.DEFAULT, launch.model_id)

    async def pull(self, launch: Launch) -> AsyncGenerator[Progress]:
        """Refuse a launch for containers only. Otherwise fetch nothing: the engine is a package."""
        if launch.module is None:
            raise LaunchError(
                f"{launch.model_id} runs in a container only; start Docker, or give it a "
                "`llamacpp` section in the catalog"
            )
        return
        yield  # makes this a generator

    def gives_gpus(self, launch: Launch) -> bool:
        """Return False: the llama.cpp that is installed here computes on the CPU."""
        return False

    @asynccontextmanager
    async def run(
        self, launch: Launch, gpus: GpuShare | None = None
    ) -> AsyncGenerator[ProcessInstance]:
        """Run the engine as the leader of its own process group."""
        assert launch.module is not None, "pull() refuses such a launch"
        with self._ports.claim() as port:
            loop = asyncio.get_running_loop()
            try:
                transport, protocol = await loop.subprocess_exec(
                    lambda: _Protocol(loop),
                    *(sys.executable, "-m", launch.module),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.STDOUT,
                    env=_environment(launch, port),
                    start_new_session=True,  # Ctrl-C in a terminal is for the service alone
                )
            except OSError as error:
                raise LaunchError(f"the engine could not be started: {error}") from None
            process = asyncio.subprocess.Process(transport, protocol, loop)
            instance = ProcessInstance(
                self.container_name(launch), launch, port, process, protocol.exited
            )
            grace = launch.stop_grace
            try:
                yield instance
            except Exception:
                grace = 0
                raise
            finally:
                await instance.stop(grace)

    def removal_pending(self, launch: Launch) -> bool:
        """Return False: a process cannot refuse SIGKILL."""
        return False

    async def survivors(self, launches: Mapping[str, Launch]) -> dict[str, tuple[str, ...]]:
        """Find none: processes end with the service."""
        return {}

    def leave(self) -> None:
        """Do nothing: processes end with the service."""

    async def aclose(self) -> None:
        """Do nothing: this runtime holds nothing itself."""


def _environment(launch: Launch, port: int) -> dict[str, str]:
    host_env, port_env = launch.address_env
    env = {**os.environ, **launch.cpu_env, **launch.process_env, **launch.env}
    env |= {host_env: "127.0.0.1", port_env: str(port)}
    return env | {variable: str(path) for variable, path in launch.files.items()}


class _Protocol(asyncio.subprocess.SubprocessStreamProtocol):
    """The output of a process, with an event for its exit.

    `Process.wait` of Python 3.11 waits for the pipes too, which a child of the engine may hold.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(limit=_LINE_LIMIT, loop=loop)
        self.exited = asyncio.Event()

    def process_exited(self) -> None:
        super().process_exited()
        self.exited.set()


class ProcessInstance:
    """The instance of an engine that is a process."""

    def __init__(
        self,
        name: str,
        launch: Launch,
        port: int,
        process: asyncio.subprocess.Process,
        exited: asyncio.Event,
    ) -> None:
        self.name = name
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._process = process
        self._log = LogBuffer(launch.secrets())
        self._exited = exited
        self._reader = asyncio.create_task(self._read())
        self._killer = asyncio.create_task(self._end_group())

    async def wait(self) -> Exit:
        await asyncio.shield(self._reader)
        return Exit(await self._process.wait())

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

    async def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            while True:
                try:
                    line = await self._process.stdout.readline()
                except ValueError:  # a line beyond the limit, which the reader has dropped
                    continue
                if not line:
                    return
                self._log.append(line.decode(errors="replace").rstrip())
        finally:
            self._log.close()
