"""The router process: warm-up, bind, and the end of requests in flight."""

from __future__ import annotations

import asyncio
import ipaddress
import signal
import sys
from collections.abc import Mapping

from aiohttp import web

from .backend import Backend
from .faults import Behaviour
from .generate import Generate
from .hub import Hub
from .infer import Infer
from .log import CLIENT, SERVER, V3, V3_MAIN, Log
from .metrics import Metrics
from .server import Server
from .settings import Settings, has_flash, own_context, prefill_budget
from .validation import Limits, Validation

VERSION = "3.3.6-dev0"
"""The version that the image of 3.3.7 reports."""

_SHA, _LABEL = "dfb3fbe78e0d1d69251bd33065591c61bafdfaa8", "sha-dfb3fbe"
_BATCH_TOTAL_TOKENS = 197_529
_WARMUP_SHARE = 0.2
_TOKENIZER_SHARE = 0.1
_LONG = 1e6
_BUSY = "Address already in use"


class RouterFailed(Exception):
    """The failure of the router process; the message is its standard error."""


class Router:
    """The router of one launcher."""

    def __init__(
        self,
        settings: Settings,
        behaviour: Behaviour,
        hub: Hub,
        log: Log,
        *,
        flash: bool,
        shards: int,
    ) -> None:
        self._settings = settings
        self._behaviour = behaviour
        self._hub = hub
        self._log = log
        self._flash = flash
        self._shards = shards
        self._limits = _limits(settings, flash)
        self._metrics = Metrics()
        self.backend = Backend(
            behaviour, self._metrics, log, flash=flash, max_batch_size=settings.max_batch_size
        )
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Start to serve. Raises RouterFailed."""
        load_seconds = self._behaviour.load_seconds
        if self._settings.max_batch_size == 0:
            raise _bad_argument("`max_batch_size` must be > 0")
        await self.backend.shards.connect(self._settings.shard_uds_path, self._shards)
        self._log.router(V3, 142, "Warming up model")
        await asyncio.sleep(load_seconds * _WARMUP_SHARE)
        self._warm_up()
        self._test_budgets()
        self._read_tokenizer()
        await asyncio.sleep(load_seconds * _TOKENIZER_SHARE)
        await self._listen(self._address())

    def _warm_up(self) -> None:
        log, settings, limits = self._log, self._settings, self._limits
        self._prefill()
        if self._flash:
            log.launcher(f"KV-cache blocks: {_BATCH_TOTAL_TOKENS}, size: 1")
            if settings.cuda_graphs != (0,):
                log.launcher("Cuda Graphs are enabled for sizes [32, 16, 8, 4, 2, 1]")
        else:
            message = "Model does not support automatic max batch total tokens"
            log.router(V3, 86, message, level="WARN")
        log.router(V3, 153, f"Setting max batch total tokens to {self._batch_total()}")
        log.router(V3, 183, "Using backend V3")
        if settings.max_input_tokens is None and settings.max_input_length is None:
            log.router(V3_MAIN, 162, f"Maximum input tokens defaulted to {limits.input_tokens}")
        if settings.max_total_tokens is None:
            log.router(V3_MAIN, 168, f"Maximum total tokens defaulted to {limits.total_tokens}")

    def _prefill(self) -> None:
        """Prefill the longest prompt, and reserve the rest of the context for its text.

        The router subtracts the one from the other without a sign, so that a prompt beyond the
        context asks for 4 GiB of tokens.
        """
        total, budget = self._settings.max_total_tokens, prefill_budget(self._settings)
        most = _most_input(self._settings)
        if total is None or (budget if most is None else min(most, budget)) <= total:
            return
        error = (
            "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate "
            f"memory: you tried to allocate {8 * (2**32 + total)} bytes. Error code 12 (Cannot "
            "allocate memory)"
        )
        trace = f"Traceback (most recent call last):\nRuntimeError: {error}"
        self._log.launcher(f"Method Warmup encountered an error.\n{trace}", "ERROR")
        self._log.router(CLIENT, 45, f"Server error: {error}", level="ERROR", span="warmup")
        raise RouterFailed(f'Error: Backend(Warmup(Generation("{error}")))')

    def _batch_total(self) -> int:
        if self._flash:
            return _BATCH_TOTAL_TOKENS
        given = self._settings.max_batch_total_tokens
        budget = prefill_budget(self._settings)
        return max(16_000, self._limits.total_tokens, budget) if given is None else given

    def _test_budgets(self) -> None:
        limits, batch = self._limits, self._batch_total()
        budget, most, total = (
            prefill_budget(self._settings),
            limits.input_tokens,
            limits.total_tokens,
        )
        if self._flash and total > batch:
            raise RouterFailed(f"Error: Backend(NotEnoughMemory({total}))")
        if most >= total:
            raise _bad_argument("`max_input_tokens` must be < `max_total_tokens`")
        if most > budget and not self._flash:
            raise _bad_argument(
                "`max_batch_prefill_tokens` must be >= `max_input_tokens`. "
                f"Given: {budget} and {most}"
            )
        for name, count in (("max_batch_prefill_tokens", budget), ("max_total_tokens", total)):
            if count > batch:
                raise _bad_argument(
                    f"`{name}` must be <= `max_batch_total_tokens`. Given: {count} and {batch}"
                )

    def _read_tokenizer(self) -> None:
        log, name = self._log, self._settings.model_id
        log.router(SERVER, 1586, "Using the Hugging Face API")
        log.router(SERVER, 2345, f"Serving revision {self._hub.sha} of model {name}")
        log.router(SERVER, 1742, "Using config None")

    def _address(self) -> str:
        """Return the address to listen on; a name is not looked up."""
        try:
            return str(ipaddress.ip_address(self._settings.hostname))
        except ValueError:
            self._log.router(SERVER, 1909, "Invalid hostname, defaulting to 0.0.0.0", "WARN")
            return "0.0.0.0"

    async def _listen(self, host: str) -> None:
        settings = self._settings
        self._runner = web.AppRunner(
            self._server().app(),
            access_log=None,
            handler_cancellation=True,
            keepalive_timeout=3600,
            shutdown_timeout=_LONG,
        )
        await self._runner.setup()
        self._log.router(SERVER, 2302, "Connected")
        try:
            await web.TCPSite(self._runner, host, settings.port, backlog=1024).start()
        except OSError:
            await self._runner.cleanup()
            message = f"Failed to bind to {host}:{settings.port}: {_BUSY} (os error 98)"
            self._log.router(SERVER, 2325, message, "ERROR")
            cause = f'Os {{ code: 98, kind: AddrInUse, message: "{_BUSY}" }}'
            raise RouterFailed(f"Error: WebServer(Axum({cause}))") from None

    def _server(self) -> Server:
        validation = Validation(self._settings, self._limits)
        permits = self._settings.max_concurrent_requests
        infer = Infer(self.backend, validation, permits)
        generation = Generate(self._behaviour, infer, self._log)
        return Server(
            settings=self._settings,
            generation=generation,
            healthy=self.backend.healthy,
            metrics=self._metrics,
            info=self._info(),
            bos=self._limits.bos,
        )

    def _info(self) -> dict[str, object]:
        settings = self._settings
        return {
            "model_id": settings.model_id,
            "model_sha": self._hub.sha,
            "model_pipeline_tag": "text-generation",
            "max_concurrent_requests": settings.max_concurrent_requests,
            "max_best_of": settings.max_best_of,
            "max_stop_sequences": settings.max_stop_sequences,
            "max_input_tokens": self._limits.input_tokens,
            "max_total_tokens": self._limits.total_tokens,
            "validation_workers": settings.validation_workers,
            "max_client_batch_size": settings.max_client_batch_size,
            "router": "text-generation-router",
            "version": VERSION,
            "sha": _SHA,
            "docker_label": _LABEL,
        }

    async def stop(self) -> None:
        """Stop accepting, and wait for requests in flight."""
        self._log.router(SERVER, 2399, "signal received, starting graceful shutdown")
        if self._runner is not None:
            await self._runner.cleanup()


async def run(
    settings: Settings, behaviour: Behaviour, environ: Mapping[str, str], shards: int
) -> int:
    """Serve until SIGTERM, and return the exit status."""
    log, flash = Log(settings.json_output), has_flash(environ)
    hub = Hub(settings, behaviour, environ)
    router = Router(settings, behaviour, hub, log, flash=flash, shards=shards)
    try:
        await router.start()
    except RouterFailed as error:
        sys.stderr.write(f"{error}\n")
        return 1
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    watch = asyncio.create_task(router.backend.watch())
    await stop.wait()
    await router.stop()
    watch.cancel()
    return 0


def _bad_argument(message: str) -> RouterFailed:
    return RouterFailed(f'Error: ArgumentValidation("{message}")')


def _most_input(settings: Settings) -> int | None:
    most = settings.max_input_tokens
    return settings.max_input_length if most is None else most


def _limits(settings: Settings, flash: bool) -> Limits:
    """Return the limits of the settings, else those of the model's context.

    On a CPU the limit is that of the warm-up's prompt.
    """
    name = settings.model_id
    own = own_context(name) if flash else prefill_budget(settings)
    total = own if settings.max_total_tokens is None else settings.max_total_tokens
    most = _most_input(settings)
    return Limits(total - 1 if most is None else most, total, bos="gpt2" not in name.lower())
