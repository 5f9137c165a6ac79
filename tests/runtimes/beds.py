"""Beds: a runtime each, with engines that a test controls."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, urlsplit

from docker import DockerClient
from docker.errors import NotFound

from inference_service.capacity.claims import GpuNeed
from inference_service.catalog import Gpus
from inference_service.key import Key
from inference_service.runtimes import environment
from inference_service.runtimes.base import Exit, Running, Runtime
from inference_service.runtimes.command import Command, Launch, Mount, Needs, Seat
from inference_service.runtimes.docker.calls import Calls
from inference_service.runtimes.docker.connection import Connection
from inference_service.runtimes.docker.endpoint import Endpoint
from inference_service.runtimes.docker.reach import OnThisMachine
from inference_service.runtimes.docker.runtime import DockerRuntime
from inference_service.runtimes.ports import Ports
from inference_service.runtimes.process import ProcessRuntime
from tests.docker import building, images
from tests.docker.building import ROOT
from tests.fakes import FakeRuntime
from tests.runtimes import processes
from tests.waiting import SLOWLY, until, within

MIB = 2**20
_RUN = f"tests-{os.getpid()}"
_PROGRAM = Path(__file__).with_name("engine_program.py")
_MARK = "ENGINE_NAME"  # a variable of each engine, by which its processes are found
NOTHING: Mapping[str, Any] = {}
KEYS = tempfile.TemporaryDirectory()  # of all beds, for an engine may be adopted by the next
_SOON = 10.0  # seconds in which a killed process is gone, on a busy machine too


def engine_image(client: DockerClient) -> str:
    """Build `engine_program` as an image."""
    dockerfile = f"""\
FROM {images.python_base(client)}
COPY {ROOT} /
ENTRYPOINT ["python", "/engine_program.py"]
"""
    place = ROOT / PurePosixPath("engine_program.py")
    inputs = [_PROGRAM.read_bytes()]
    return building.image(
        client, "engine", dockerfile, inputs, lambda archive: archive.add(_PROGRAM, place)
    )


async def ask(running: Running, path: str) -> str:
    """Send a request to `engine_program` and return the answer, empty if it ended meanwhile."""
    address = urlsplit(running.instance.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        answer = await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()
    return answer.decode().partition("\r\n\r\n")[2]


def connection(url: str | None) -> Connection:
    """Connect with the daemon at `url`, on this machine."""
    client = DockerClient(base_url=url, timeout=60)
    found = Endpoint(url or "")
    return Connection(found, client, client.info(), None, OnThisMachine(found), Calls(), None)


class Bed(ABC):
    """A runtime, and the means by which a test controls its engines."""

    runtime: Runtime

    image = ""
    program: tuple[str, ...] = ()

    def launch(
        self,
        which: str = "one",
        *,
        number: int = 1,
        env: Mapping[str, str] = NOTHING,
        files: Mapping[str, Path] = NOTHING,
        memory_bytes: int = 64 * MIB,
        gpus: Gpus = "none",
        **changes: Any,
    ) -> Launch:
        """Make a launch with a name of these tests; `changes` are fields of its command.

        `files` are mounted, and their paths are in the variables of these names.
        """
        key = Key(f"{_RUN}-{which}", number)

        def command(seat: Seat) -> Command:
            variables = {_MARK: self.runtime.container_name(key), **env}
            variables |= {"ENGINE_HOST": seat.host, "ENGINE_PORT": str(seat.port)}
            variables |= {name: seat.path(file) for name, file in files.items()}
            plain, secrets, hub = environment.variables(variables)
            made = Command(
                model=key.model_id,
                image=self.image,
                program=self.program,
                watches_input=True,
                env=plain,
                secrets=secrets,
                hub=hub,
                mounts=tuple(Mount(file, seat.path(file)) for file in files.values()),
                needs=Needs(memory_bytes, GpuNeed() if seat.gives(gpus) else None),
                port=seat.port,
                stop_grace=5,
            )
            return replace(made, **changes)

        return Launch(key, command)

    def name(self, launch: Launch) -> str:
        """Return the name that the container of this launch has or would have."""
        return self.runtime.container_name(launch.key)

    @asynccontextmanager
    async def running(self, which: str = "one", **changes: Any) -> AsyncGenerator[Running]:
        """Run an engine that serves; after the block nothing may be left of it."""
        launch = self.launch(which, **changes)
        async with self.runtime.run(launch) as running:
            await self.serves(running)
            yield running
        assert self.left(launch) == []

    def address(self, running: Running) -> str:
        """Return the host and the port at which the engine is reached."""
        return f"127.0.0.1:{running.instance.port}"

    async def serves(self, running: Running) -> None:
        """Return when the engine serves."""
        serves = within(SLOWLY, f"{running.instance.name} did not serve")
        async with serves, aclosing(running.logs()) as lines:
            async for line in lines:
                if line == "serving":
                    await running.listens()
                    return
        raise AssertionError(f"the engine {await running.wait()}: {running.tail(20)}")

    async def write(self, running: Running, line: str) -> None:
        """Make the engine write a line."""
        await ask(running, f"/write/{quote(line)}")

    async def end(self, running: Running, code: int) -> None:
        """Make the engine end by itself."""
        await ask(running, f"/exit/{code}")

    @abstractmethod
    async def kill(self, running: Running) -> Exit:
        """Kill the engine from outside; return the exit that `wait` has to return."""

    def left(self, launch: Launch) -> list[str]:
        """List the processes and containers of this launch."""
        return [str(pid) for pid in processes.with_variable(f"{_MARK}={self.name(launch)}")]

    async def close(self) -> None:
        """Remove everything that a failed test may have left."""
        await self.runtime.aclose()


class FakeBed(Bed):
    """The fake runtime, which has no engines: the test plays them."""

    image = "fake"

    def __init__(self) -> None:
        self.runtime = self._fake = FakeRuntime()

    async def serves(self, running: Running) -> None:
        await self.write(running, "serving")

    async def write(self, running: Running, line: str) -> None:
        self._fake.running[running.instance.name].log.append(line)

    async def end(self, running: Running, code: int) -> None:
        self._fake.running[running.instance.name].die(Exit(code))

    async def kill(self, running: Running) -> Exit:
        self._fake.running[running.instance.name].die(Exit(-9))
        return Exit(-9)

    def left(self, launch: Launch) -> list[str]:
        return [name for name in self._fake.running if name == self.name(launch)]


class ProcessBed(Bed):
    """Processes of this interpreter."""

    program = (sys.executable, str(_PROGRAM))

    def __init__(self, ports: Ports) -> None:
        self.runtime = ProcessRuntime(ports)

    async def kill(self, running: Running) -> Exit:
        for pid in processes.with_variable(f"{_MARK}={running.instance.name}"):
            os.kill(pid, signal.SIGKILL)
        return Exit(-signal.SIGKILL)

    async def close(self) -> None:
        for pid in processes.with_variable(f"{_MARK}=tgi-{_RUN}-"):
            os.kill(pid, signal.SIGKILL)
        if tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(tasks, timeout=_SOON)
        await super().close()


class DockerBed(Bed):
    """Containers of `image` on the daemon at `url`, by default that of the machine.

    The runtime has its own client, as in the service: that of `connected`, or one for `url`.
    `changes` are options of the runtime.
    """

    def __init__(
        self,
        image: str,
        ports: Ports,
        url: str | None = None,
        connected: Connection | None = None,
        **changes: Any,
    ) -> None:
        self.url = url or os.environ.get("DOCKER_HOST")
        self.image = image
        self.client = DockerClient(base_url=self.url)
        self._threads = set(threading.enumerate())
        self._closed = False
        options: dict[str, Any] = {"service": _RUN, "volume": _RUN, "pull_policy": "never"}
        options |= {"daemon_id": "", "has_gpu": False, "keys": Path(KEYS.name)}
        options |= {"removal_interval": 600}  # no retry, except in tests of retries
        self.connection = connected or connection(self.url)
        self.runtime = DockerRuntime(self.connection, ports, **{**options, **changes})

    def address(self, running: Running) -> str:
        networks = self.inspect(running)["NetworkSettings"]["Networks"]
        return f"{networks[self.connection.reach.network]['IPAddress']}:80"

    def inspect(self, running: Running) -> Any:
        """Inspect the container of an running."""
        return self.client.api.inspect_container(running.instance.name)

    def processes(self, running: Running) -> list[int]:
        """List the processes in the container of an running, by their ids outside."""
        return processes.with_variable(f"{_MARK}={running.instance.name}")

    async def kill(self, running: Running) -> Exit:
        self.client.api.kill(running.instance.name)
        return Exit(137)

    def left(self, launch: Launch) -> list[str]:
        return [*super().left(launch), *self._containers(name=f"^/{self.name(launch)}$")]

    async def close(self) -> None:
        if self._closed:  # the test closed the bed before it removed the daemon
            return
        self._closed = True
        for container in self._containers(name=f"{_RUN}-"):
            self.client.api.remove_container(container, force=True, v=True)
        with suppress(NotFound):
            self.client.api.remove_volume(_RUN)
        self.client.close()
        await super().close()
        await until(lambda: not self._followers(), "the threads of the runtime did not end")

    def _containers(self, **filters: str) -> list[str]:
        found = self.client.api.containers(all=True, filters=filters)
        return [str(container["Id"]) for container in found]

    def _followers(self) -> list[str]:
        new = set(threading.enumerate()) - self._threads
        return [thread.name for thread in new if thread.name.startswith(("follow-", "docker-"))]
