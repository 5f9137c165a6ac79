"""The router process: warm-up, bind, and the end of requests in flight."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable

from aiohttp import web

from .backend import Backend
from .faults import Behaviour
from .generate import Generate
from .hub import Hub
from .infer import Infer
from .log import SERVER, V3, V3_MAIN, Log
from .metrics import Metrics
from .server import Server
from .settings import Settings
from .validation import Limits, Validation

VERSION = "3.3.6-dev0"
"""The version that the image of 3.3.7 reports."""

_SHA, _LABEL = "dfb3fbe78e0d1d69251bd33065591c61bafdfaa8", "sha-dfb3fbe"
_CONTEXTS = {"gpt2": 1024, "mistral": 4096, "llama-2": 4096}
_DEFAULT_CONTEXT = 2048
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
    ) -> None:
        self._settings = settings
        self._behaviour = behaviour
        self._hub = hub
        self._log = log
        self._limits = _limits(settings)
        self._metrics = Metrics()
        self._backend = Backend(behaviour, self._metrics, settings.max_batch_size)
        self._runner: web.AppRunner | None = None

    @property
    def crashed(self) -> asyncio.Event:
        """The event of the shard's death."""
        return self._backend.crashed

    async def start(self, pause: Callable[[float], Awaitable[None]]) -> None:
        """Start to serve. Only `pause` waits, and it may raise. Raises RouterFailed."""
        load_seconds = self._behaviour.load_seconds
        self._log.router(V3, 142, "Warming up model")
        await pause(load_seconds * _WARMUP_SHARE)
        self._warm_up()
        self._read_tokenizer()
        await pause(load_seconds * _TOKENIZER_SHARE)
        await self._listen(self._address())

    def _warm_up(self) -> None:
        log, settings, limits = self._log, self._settings, self._limits
        log.launcher(f"KV-cache blocks: {_BATCH_TOTAL_TOKENS}, size: 1")
        if settings.cuda_graphs != (0,):
            log.launcher("Cuda Graphs are enabled for sizes [32, 16, 8, 4, 2, 1]")
        log.router(V3, 153, f"Setting max batch total tokens to {_BATCH_TOTAL_TOKENS}")
        log.router(V3, 183, "Using backend V3")
        if settings.max_input_tokens is None and settings.max_input_length is None:
            log.router(V3_MAIN, 162, f"Maximum input tokens defaulted to {limits.input_tokens}")
        if settings.max_total_tokens is None:
            log.router(V3_MAIN, 168, f"Maximum total tokens defaulted to {limits.total_tokens}")
        if limits.input_tokens >= limits.total_tokens:
            message = "`max_input_tokens` must be < `max_total_tokens`"
            raise RouterFailed(f'Error: ArgumentValidation("{message}")')

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
        infer = Infer(self._backend, validation, permits)
        generation = Generate(self._behaviour, infer, self._log)
        return Server(
            settings=self._settings,
            generation=generation,
            healthy=self._backend.healthy,
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

    async def stop(self) -> bool:
        """Stop accepting, and wait for requests in flight. Returns False when the time ran out."""
        self._log.router(SERVER, 2399, "signal received, starting graceful shutdown")
        if self._runner is None:
            return True
        ending = asyncio.create_task(self._runner.cleanup())
        timeout = self._settings.graceful_termination_timeout
        finished, _ = await asyncio.wait({ending}, timeout=timeout)
        return bool(finished)


def _limits(settings: Settings) -> Limits:
    """Return the limits of the settings, else those of the model's context."""
    name = settings.model_id.lower()
    context = next((size for part, size in _CONTEXTS.items() if part in name), _DEFAULT_CONTEXT)
    total = context if settings.max_total_tokens is None else settings.max_total_tokens
    most = settings.max_input_tokens
    most = settings.max_input_length if most is None else most
    return Limits(total - 1 if most is None else most, total, bos="gpt2" not in name)
