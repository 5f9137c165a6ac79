"""The launcher: configure, download, load, warm up, serve, drain."""

from __future__ import annotations

import asyncio
import math
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from .children import Child, start_router, start_shard
from .faults import Behaviour
from .hub import DownloadFailed, Hub
from .log import Log
from .settings import Settings, describe, has_flash, prefill_budget, visible_gpus
from .shard import CRASH

_SHARD_SHARE = 0.7
_ENGINE_TRACE = (
    "Traceback (most recent call last):\n"
    '  File "/usr/src/server/text_generation_server/server.py", line 268, in serve_inner\n'
    "    model = get_model_with_lora_adapters(\n"
)
_NO_FLASH = "NotImplementedError: Sharded Llama requires Flash Attention enabled models."


class LauncherError(Exception):
    """The failure of the launcher; the message is the variant that it prints on standard error."""


class Stopped(Exception):
    """The end by a signal."""


class Launcher:
    """One run of the launcher."""

    def __init__(
        self, settings: Settings, behaviour: Behaviour, environ: Mapping[str, str]
    ) -> None:
        self._settings = settings
        self._behaviour = behaviour
        self._environ = environ
        self._log = Log(settings.json_output)
        self._hub = Hub(settings, behaviour, environ)
        self._stop = asyncio.Event()
        self._flash = has_flash(environ)
        self._count = 1
        self._shards: list[Child] = []

    async def run(self) -> int:
        """Go from the configuration to the end, and return the exit status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._stop.set)
        try:
            self._configure()
            await self._download()
            await self._load()
            await self._serve()
        except Stopped:
            return 0
        except LauncherError as error:
            sys.stderr.write(f"Error: {error}\n")
            return 1
        return 0

    async def _pause(self, seconds: float) -> None:
        """Wait, unless a signal comes first. Raises Stopped."""
        timeout = None if math.isinf(seconds) else seconds
        try:
            await asyncio.wait_for(self._stop.wait(), timeout)
        except TimeoutError:
            return
        raise Stopped

    def _configure(self) -> None:
        settings, log = self._settings, self._log
        log.launcher(describe(settings))
        attention = ("flashinfer", "true") if self._flash else ("paged", "0")
        log.launcher("Using attention {} - Prefix caching {}".format(*attention))
        self._count = _shard_count(settings, visible_gpus(self._environ))
        if self._count > 1:
            log.launcher(f"Sharding model on {self._count} processes")
        most, total = settings.max_input_tokens, settings.max_total_tokens
        if most is not None and settings.max_input_length is not None:
            raise _bad_argument(
                f"Both `max_input_tokens` ({most}) and `max_input_length` "
                f"({settings.max_input_length}) are set."
            )
        if settings.max_batch_prefill_tokens is None:
            log.launcher(f"Default `max_batch_prefill_tokens` to {prefill_budget(settings)}")
        most = settings.max_input_length if most is None else most
        if most is not None and total is not None and most >= total:
            raise _bad_argument(f"`max_input_tokens`({most}) must be < `max_total_tokens`({total})")
        if settings.cuda_graphs is None:
            log.launcher("Using default cuda graphs [1, 2, 4, 8, 16, 32]")
        if settings.validation_workers == 0:
            raise _bad_argument("`validation_workers` must be > 0")
        batch = settings.max_batch_total_tokens
        if total is not None and batch is not None and total > batch:
            raise _bad_argument(
                "`max_total_tokens` must be <= `max_batch_total_tokens`. "
                f"Given: {total} and {batch}"
            )

    async def _download(self) -> None:
        model, log = self._settings.model_id, self._log
        log.launcher(f"Starting check and download process for {model}", span="download")
        try:
            await self._hub.download(log.launcher, self._pause)
        except DownloadFailed as error:
            log.launcher(f"Download encountered an error: {error}", "ERROR", "download")
            raise LauncherError("DownloadError") from None
        except Stopped:
            for message in (
                "Terminating download",
                "Waiting for download to gracefully shutdown",
                "download terminated",
            ):
                log.launcher(message, span="download")
            raise
        log.launcher(f"Successfully downloaded weights for {model}", span="download")

    async def _load(self) -> None:
        log, start, load_seconds = self._log, time.monotonic(), self._behaviour.load_seconds
        uds = self._settings.shard_uds_path
        for rank in range(self._count):
            log.launcher("Starting shard", span="shard-manager", rank=rank)
            self._shards.append(await start_shard(f"{uds}-{rank}", load_seconds * _SHARD_SHARE))
        log.launcher(f"Using prefix caching = {self._flash}")
        log.launcher(f"Using Attention = {'flashinfer' if self._flash else 'paged'}")
        try:
            await self._load_faults()
            for rank, shard in enumerate(self._shards):
                while not Path(f"{uds}-{rank}").exists():
                    if shard.ended:
                        await self._shard_died(await shard.errors())
                    await self._pause(0.01)
        except Stopped:
            await self._shut_down_shards()
            raise
        log.launcher(f"Using prefill chunking = {self._flash}")
        for rank in range(self._count):
            log.launcher(f"Server started at unix://{uds}-{rank}")
            took = time.monotonic() - start
            log.launcher(f"Shard ready in {took:.9f}s", span="shard-manager", rank=rank)

    async def _load_faults(self) -> None:
        fault = self._behaviour.fault
        if fault == "oom_kill":
            await self._pause(self._behaviour.load_seconds * _SHARD_SHARE)
            await self._outgrow()
        error = CRASH if fault == "cuda_oom" else _NO_FLASH
        if fault == "cuda_oom" or (self._count > 1 and not self._flash):
            await self._pause(self._behaviour.load_seconds * _SHARD_SHARE)
            trace = f"{_ENGINE_TRACE}{error}"
            self._log.launcher(f"Error when initializing model\n{trace}", "ERROR")
            await self._shard_died(trace)

    async def _outgrow(self) -> None:
        hog = Path(__file__).with_name("hog.py")
        child = await asyncio.create_subprocess_exec(sys.executable, str(hog))
        status = await child.wait()
        await self._shard_died("", -status)

    async def _shard_died(self, errors: str, number: int = 0) -> None:
        self._log_end(errors, number)
        self._log.launcher("Shard 0 failed to start", "ERROR")
        self._log.launcher("Shutting down shards")
        await asyncio.gather(*(shard.terminate(1) for shard in self._shards))
        raise LauncherError("ShardCannotStart")

    def _log_end(self, errors: str, number: int) -> None:
        """Log the end of the first shard, by a signal where `number` is not 0."""
        span = "shard-manager"
        message = f"Shard complete standard error output:\n\n{errors}"
        self._log.launcher(message, "ERROR", span, rank=0)
        if number:
            message = f"Shard process was signaled to shutdown with signal {number}"
            self._log.launcher(message, "ERROR", span, rank=0)

    async def _serve(self) -> None:
        self._log.launcher("Starting Webserver")
        router = await start_router(self._count)
        waits = [asyncio.create_task(child.wait()) for child in (router, *self._shards)]
        stop = asyncio.create_task(self._stop.wait())
        await asyncio.wait({stop, *waits}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        ended, *deaths = (wait.result() if wait.done() else None for wait in waits)
        number = next((number for number in deaths if number is not None), None)
        if number is not None and not self._stop.is_set():
            dead = next(shard for shard in self._shards if shard.ended)
            self._log_end(await dead.errors(), number)
            self._log.launcher("Shard 0 crashed", "ERROR")
        elif ended is not None and not self._stop.is_set():
            await self._webserver_crashed(router, ended)
        await self._drain(router)
        if number is not None:
            raise LauncherError("ShardFailed")
        raise Stopped

    async def _webserver_crashed(self, router: Child, number: int) -> None:
        """Give up. A shard whose router was killed does not end before it is killed too."""
        for line in (await router.errors()).splitlines():
            self._log.raw(line)
        self._log.launcher("Webserver Crashed", "ERROR")
        await self._shut_down_shards(deaf=bool(number))
        raise LauncherError("WebserverFailed")

    async def _drain(self, router: Child) -> None:
        await self._terminate(router, "webserver")
        await self._shut_down_shards()

    async def _shut_down_shards(self, *, deaf: bool = False) -> None:
        self._log.launcher("Shutting down shards")
        for rank, shard in enumerate(self._shards):
            if not shard.ended:
                await self._terminate(shard, "shard", "shard-manager", deaf=deaf, rank=rank)

    async def _terminate(
        self, child: Child, name: str, span: str | None = None, deaf: bool = False, **values: int
    ) -> None:
        log = self._log
        log.launcher(f"Terminating {name}", "INFO", span, **values)
        log.launcher(f"Waiting for {name} to gracefully shutdown", "INFO", span, **values)
        timeout = self._settings.graceful_termination_timeout
        if await child.terminate(timeout, deaf=deaf):
            log.launcher(f"{name} terminated", "INFO", span, **values)
        else:
            log.launcher(f"Killing {name}", "INFO", span, **values)
            log.launcher(f"{name} killed", "INFO", span, **values)


def _bad_argument(message: str) -> LauncherError:
    return LauncherError(f'ArgumentValidation("{message}")')


def _shard_count(settings: Settings, gpus: int) -> int:
    found = max(gpus, 1)
    count = settings.num_shard
    if settings.sharded and count is None:
        if found <= 1:
            raise LauncherError(
                f'NotEnoughCUDADevices("`sharded` is true but only found {found} CUDA devices")'
            )
        return found
    if settings.sharded and count is not None and count <= 1:
        raise _bad_argument("`sharded` is true but `num_shard` <= 1")
    if count is None:
        return 1 if settings.sharded is False else found
    if count < 1:
        raise _bad_argument("`num_shard` cannot be < 1")
    return count
