"""The double as a process on loopback, for tests without a container."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

_PACKAGE = __name__.rpartition(".")[0]
_ROOT = Path(__file__).resolve().parents[_PACKAGE.count(".") + 1]
_QUICK = {"DOUBLE_LOAD_SECONDS": "0.02", "DOUBLE_DOWNLOAD_SECONDS": "0.02"}
_LIMIT_SECONDS = 25.0  # of each wait; a start or an end takes a second on a busy machine


class TgiProcess:
    """A running double: its address, its log, and its end."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, mark: str) -> None:
        self.process = process
        self._mark = mark.encode()  # a variable that only its processes have
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.lines: list[str] = []
        self.errors = ""
        self._grown = asyncio.Condition()
        self._readers = [
            asyncio.create_task(self._read_lines()),
            asyncio.create_task(self._read_errors()),
        ]

    async def _read_lines(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            async with self._grown:
                self.lines.append(line.decode().rstrip("\n"))
                self._grown.notify_all()
        async with self._grown:
            self._grown.notify_all()

    async def _read_errors(self) -> None:
        assert self.process.stderr is not None
        self.errors = (await self.process.stderr.read()).decode()

    def _find(self, part: str) -> str | None:
        return next((line for line in self.lines if part in line), None)

    def _fault(self, what: str) -> AssertionError:
        return AssertionError("\n".join([f"{what}:", *self.lines, self.errors]))

    async def logged(self, part: str) -> str:
        """Wait for a line with this text. Raises AssertionError if none comes."""
        try:
            async with asyncio.timeout(_LIMIT_SECONDS), self._grown:
                await self._grown.wait_for(lambda: self._find(part) or self._readers[0].done())
        except TimeoutError:
            raise self._fault(f"no line with {part!r} in {_LIMIT_SECONDS:g} s") from None
        line = self._find(part)
        if line is None:
            raise self._fault(f"the log ended without a line with {part!r}")
        return line

    async def ready(self) -> None:
        """Wait until the port accepts connections, a moment after the line `Connected`."""
        await self.logged("Connected")
        while self.process.returncode is None:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except ConnectionRefusedError:
                await asyncio.sleep(0.005)
            else:
                writer.close()
                await writer.wait_closed()
                return
        raise self._fault(f"the double ended with {self.process.returncode} before it was ready")

    def kill(self) -> None:
        """Kill the launcher, the router and the shards, as the end of a container does."""
        if self.process.returncode is None:
            self.process.kill()
        for pid in self.children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def children(self, part: str = "") -> list[int]:
        """Find the router and the shards, or those with this text in their command."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # the process has ended
                pid = int(path.name)
                words = (path / "cmdline").read_bytes().decode()
                ours = self._mark in (path / "environ").read_bytes().split(b"\0")
                if ours and pid != self.process.pid and part in words:
                    found.append(pid)
        return found

    def signal(self, number: int = signal.SIGTERM) -> None:
        """Send a signal to the process, as Docker's daemon does."""
        self.process.send_signal(number)

    async def exit_status(self) -> int:
        """Wait for the end of the process and of its output."""
        try:
            async with asyncio.timeout(_LIMIT_SECONDS):
                status = await self.process.wait()
                await asyncio.gather(*self._readers)
        except TimeoutError:
            raise self._fault(f"the double did not end in {_LIMIT_SECONDS:g} s") from None
        return status


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def started(
    environ: Mapping[str, str] | None = None, *, ready: bool = True
) -> AsyncIterator[TgiProcess]:
    """Start the double with these variables and no others; kill it at the end.

    Unless `environ` has other values, the double listens on a free port of 127.0.0.1, loads in a
    moment, logs JSON, and keeps its weights in a folder of its own. With `ready=False` the double
    may still start, or fail to.
    """
    port = _free_port()
    async with AsyncExitStack() as stack:
        home = stack.enter_context(tempfile.TemporaryDirectory(prefix="tgi-double-"))
        values = {
            "PATH": os.environ.get("PATH", ""),
            "PYTHONPATH": str(_ROOT),
            "HF_HOME": home,
            "SHARD_UDS_PATH": f"{home}/shard",
            "HOSTNAME": "127.0.0.1",
            "PORT": str(port),
            "JSON_OUTPUT": "true",
            **_QUICK,
            **(environ or {}),
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", _PACKAGE),
            env=values,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=2**20,
        )
        mark = f"SHARD_UDS_PATH={values['SHARD_UDS_PATH']}"
        tgi = TgiProcess(process, int(values["PORT"]), mark)
        try:
            if ready:
                await tgi.ready()
            yield tgi
        finally:
            tgi.kill()
            await tgi.exit_status()
