"""The launcher: configure, download, load, warm up, serve, drain."""

from __future__ import annotations

import asyncio
import math
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from .faults import Behaviour
from .hub import DownloadFailed, Hub
from .log import Log
from .router import Router, RouterFailed
from .settings import Settings, describe

_SHARD_SHARE = 0.7
_ENGINE_TRACE = (
    "Traceback (most recent call last):\n"
    '  File "/usr/src/server/text_generation_server/server.py", line 268, in serve_inner\n'
    "    model = get_model_with_lora_adapters(\n"
)
_CUDA_OOM = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 172.00 MiB. GPU 0 "
    "has a total capacity of 14.74 GiB of which 62.12 MiB is free."
)


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
        self._shards = 1

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
        log.launcher("Using attention flashinfer - Prefix caching true")
        self._shards = _shard_count(settings, self._environ)
        if self._shards > 1:
            log.launcher(f"Sharding model on {self._shards} processes")
        most, total = settings.max_input_tokens, settings.max_total_tokens
        if most is not None and settings.max_input_length is not None:
            raise _bad_argument(
                f"Both `max_input_tokens` ({most}) and `max_input_length` "
                f"({settings.max_input_length}) are set."
            )
        if settings.max_batch_prefill_tokens is None:
            log.launcher("Default `max_batch_prefill_tokens` to 4096")
        most = settings.max_input_length if most is None else most
        if most is not None and total is not None and most >= total:
            raise _bad_argument(f"`max_input_tokens`({most}) must be < `max_total_tokens`({total})")
        if settings.cuda_graphs is None:
            log.launcher("Using default cuda graphs [1, 2, 4, 8, 16, 32]")
        if settings.validation_workers == 0:
            raise _bad_argument("`validation_workers` must be > 0")

    async def _download(self) -> None:
        model, log = self._settings.model_id, self._log
        log.launcher(f"Starting check and download process for {model}", span="download")
        try:
            await self._hub.download(log.launcher, self._pause)
        except DownloadFailed as error:
            log.launcher(f"Download encountered an error: {error}", "ERROR", "download")
            raise LauncherError("DownloadError") from None
        except Stopped:
            self._terminated("download", "download")
            raise
        log.launcher(f"Successfully downloaded weights for {model}", span="download")

    async def _load(self) -> None:
        log, start = self._log, time.monotonic()
        self._each_shard("Starting shard")
        log.launcher("Using prefix caching = True")
        log.launcher("Using Attention = flashinfer")
        try:
            await self._pause(self._behaviour.load_seconds * _SHARD_SHARE)
        except Stopped:
            self._shut_down_shards()
            raise
        if self._behaviour.fault == "oom_kill":
            await self._outgrow()
        if self._behaviour.fault == "cuda_oom":
            trace = f"{_ENGINE_TRACE}{_CUDA_OOM}"
            log.launcher(f"Error when initializing model\n{trace}", "ERROR")
            self._shard_died(trace)
        log.launcher("Using prefill chunking = True")
        uds = self._settings.shard_uds_path
        for rank in range(self._shards):
            log.launcher(f"Server started at unix://{uds}-{rank}")
        self._each_shard(f"Shard ready in {time.monotonic() - start:.9f}s")

    async def _outgrow(self) -> None:
        hog = Path(__file__).with_name("hog.py")
        child = await asyncio.create_subprocess_exec(sys.executable, str(hog))
        status = await child.wait()
        self._shard_died("", -status)

    def _shard_died(self, errors: str, number: int = 0) -> None:
        span = "shard-manager"
        message = f"Shard complete standard error output:\n\n{errors}"
        self._log.launcher(message, "ERROR", span, rank=0)
        if number:
            message = f"Shard process was signaled to shutdown with signal {number}"
            self._log.launcher(message, "ERROR", span, rank=0)
        self._log.launcher("Shard 0 failed to start", "ERROR")
        self._log.launcher("Shutting down shards")
        raise LauncherError("ShardCannotStart")

    def _each_shard(self, message: str) -> None:
        for rank in range(self._shards):
            self._log.launcher(message, span="shard-manager", rank=rank)

    async def _serve(self) -> None:
        self._log.launcher("Starting Webserver")
        router = Router(self._settings, self._behaviour, self._hub, self._log)
        try:
            await router.start(self._pause)
        except RouterFailed as error:
            self._log.raw(str(error))
            self._log.launcher("Webserver Crashed", "ERROR")
            self._shut_down_shards()
            raise LauncherError("WebserverFailed") from None
        except Stopped:
            await self._drain(router)
            raise
        waits = {asyncio.create_task(event.wait()) for event in (self._stop, router.crashed)}
        _, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in pending:
            wait.cancel()
        if router.crashed.is_set():
            message = f"Shard complete standard error output:\n\n{_CUDA_OOM}"
            self._log.launcher(message, "ERROR", "shard-manager", rank=0)
            self._log.launcher("Shard 0 crashed", "ERROR")
        await self._drain(router)
        if router.crashed.is_set():
            raise LauncherError("ShardFailed")

    async def _drain(self, router: Router) -> None:
        log = self._log
        log.launcher("Terminating webserver")
        log.launcher("Waiting for webserver to gracefully shutdown")
        if await router.stop():
            log.launcher("webserver terminated")
        else:
            log.launcher("Killing webserver")
            log.launcher("webserver killed")
        self._shut_down_shards()

    def _shut_down_shards(self) -> None:
        self._log.launcher("Shutting down shards")
        for rank in range(self._shards):
            self._terminated("shard", "shard-manager", rank=rank)

    def _terminated(self, name: str, span: str, **values: int) -> None:
        for message in (
            f"Terminating {name}",
            f"Waiting for {name} to gracefully shutdown",
            f"{name} terminated",
        ):
            self._log.launcher(message, "INFO", span, **values)


def _bad_argument(message: str) -> LauncherError:
    return LauncherError(f'ArgumentValidation("{message}")')


def _shard_count(settings: Settings, environ: Mapping[str, str]) -> int:
    devices = environ.get("CUDA_VISIBLE_DEVICES", environ.get("NVIDIA_VISIBLE_DEVICES", ""))
    found = 1 if devices.strip() in ("", "all", "void") else len(devices.split(","))
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
