"""The composition of the service: built from its settings, run, and ended in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from inference_service.api import addresses, listener
from inference_service.api.calls import Calls
from inference_service.api.forwarder import Forwarder
from inference_service.api.health import Health
from inference_service.api.listener import SERVICE, Pings
from inference_service.api.methods import Handlers, by_path
from inference_service.api.prompts import Prompts
from inference_service.api.reflection import Reflection
from inference_service.api.requests import Limits
from inference_service.api.servicer import ModelService
from inference_service.capacity.admission import Admission
from inference_service.catalog import Catalog, ModelSpec
from inference_service.engines import kinds
from inference_service.lookout import Lookout, Runtimes
from inference_service.runtimes.base import Runtime
from inference_service.runtimes.ports import Ports
from inference_service.serving.entry import Entry
from inference_service.serving.models import Models, Place, Reload
from inference_service.serving.placement import RuntimeChoice, place
from inference_service.serving.reading import Readers
from inference_service.serving.start_times import StartTimes
from inference_service.serving.timing import Timing
from inference_service.settings import Settings
from rest_bridge.proxies import Proxies

_CLOSE = 1.0  # seconds in which clients of REST can read the last answers, when all models stopped
_LOOPBACK = "127.0.0.1"  # of REST beside a unix socket
_LONGEST_PROBE = 15.0  # seconds between two looks at an engine that is READY


@dataclass(frozen=True, slots=True)
class Service:
    """A service that runs. `rest_url` is None when REST is off; `reload` raises CatalogInvalid."""

    models: Models
    runtimes: Runtimes
    target: str
    rest_url: str | None
    reload: Callable[[], Awaitable[Reload]]

    @property
    def choice(self) -> RuntimeChoice:
        """The runtime that is chosen now, and why."""
        return self.runtimes.choice


@asynccontextmanager
async def running(
    settings: Settings,
    ports: Ports | None = None,
    runtimes: Runtimes | None = None,
    count: int = 1,
) -> AsyncGenerator[Service]:
    """Run the service; leaving drains and stops every model, then the servers.

    `ports` for engines and `runtimes` are by default those of the settings. `count` is the number
    of runs that a start makes of each model. Raises CatalogInvalid,
    BindError, GpuError, NameTaken when a service of this name uses the Docker daemon, or
    RuntimeUnavailable when `runtime` is docker and no daemon answers.
    """
    catalog = _catalog(settings)
    async with AsyncExitStack() as stack:
        lookout = Lookout(settings, ports)
        if runtimes is None:
            runtimes = await stack.enter_async_context(lookout)
        placing = _placing(settings, stack)
        health = Health()
        shown = (health.changed, count, lookout.look)
        models = Models(catalog, placing(runtimes.by_name), *_means(settings, runtimes), *shown)

        reloading = asyncio.Lock()  # the file that is read last is in force last

        async def reload() -> Reload:
            async with reloading:
                # 1,000 entries take a third of a second to read.
                catalog = await asyncio.to_thread(_catalog, settings)
                return await models.reload(catalog)

        async def take_in(docker: Runtime) -> None:
            async with reloading:
                place = placing({**runtimes.by_name, docker.name: docker})
                await models.take_in(docker, place)

        proxies = Proxies(settings.trusted_proxy)
        servicer = _servicer(settings, models, lambda: runtimes.choice, reload, proxies)
        reflection = Reflection()
        services = listener.services(servicer, health, reflection)
        health.up(("", SERVICE), [spec.id for spec in catalog], models.refusal)
        target = await stack.enter_async_context(_grpc(settings, services, Calls(proxies)))
        stack.callback(reflection.down)
        rest_url = None
        if settings.rest:
            rest_url = await stack.enter_async_context(
                _rest(settings, services, servicer.forwarder, target)
            )
        stack.callback(health.end)
        stack.push_async_callback(models.close, settings.drain_timeout)
        stack.callback(_leave, runtimes, settings.leave_containers)
        stack.callback(health.down)
        await models.adopt()
        models.preload()
        await stack.enter_async_context(lookout.watching(take_in))
        yield Service(models, runtimes, target, rest_url, reload)


def _means(settings: Settings, runtimes: Runtimes) -> tuple[Timing, Admission, StartTimes]:
    """Return the times, the memory and the past starts that models share."""
    nodes = [node for runtime in runtimes.by_name.values() for node in runtime.nodes]
    past = StartTimes(settings.state_path / f"start-times-{settings.service_name}.json")
    return _timing(settings), Admission(nodes), past


def _leave(runtimes: Runtimes, stays: bool) -> None:
    """Have the runtimes that there are by now end soon; with `stays` their engines run on."""
    for runtime in runtimes.by_name.values():
        runtime.hurry()
        if stays:
            runtime.leave()


def _grpc(
    settings: Settings, services: Mapping[str, Handlers], calls: Calls
) -> AbstractAsyncContextManager[str]:
    """Serve gRPC for the time of the block, and give the target. Raises BindError."""
    pings = Pings(settings.ping_interval, settings.client_ping_interval)
    place, log = (settings.host, settings.grpc_port), settings.access_log
    return listener.serving(*place, services, calls, settings.max_body, pings, access_log=log)


def _servicer(
    settings: Settings,
    models: Models,
    choice: Callable[[], RuntimeChoice],
    reload: Callable[[], Awaitable[Reload]],
    proxies: Proxies,
) -> ModelService:
    limits = Limits(
        settings.generation_timeout, settings.max_idle_timeout, settings.answer_timeout, proxies
    )
    readers = Readers(settings.write_timeout)
    return ModelService(models, choice, limits, reload, readers, Prompts(proxies))


def _placing(settings: Settings, stack: AsyncExitStack) -> Callable[[Mapping[str, Runtime]], Place]:
    """Return what makes the entries of models, of the runtimes that there are."""
    engines = kinds.engines(settings.images)
    for engine in engines.values():
        stack.push_async_callback(engine.aclose)

    def placing(runtimes: Mapping[str, Runtime]) -> Place:
        docker = runtimes.get("docker")
        has_docker, has_gpu = docker is not None, docker is not None and docker.seat.has_gpu

        def entry(spec: ModelSpec) -> Entry:
            placed = place(spec, settings.runtime, settings.engine, has_docker, has_gpu)
            runtime, engine = runtimes[placed.runtime], engines[placed.engine]
            return Entry.of(spec, runtime, engine, placed.reason)

        return entry

    return placing


def _timing(settings: Settings) -> Timing:
    return Timing(
        queue_size=settings.queue_size,
        queue_wait=settings.queue_timeout,
        stall=settings.start_stall_timeout,
        drain=settings.drain_timeout,
        idle=settings.idle_timeout,
        residency=settings.min_residency,
        hang=settings.hang_timeout,
        probe=min(_LONGEST_PROBE, settings.hang_timeout / 8),
    )


def _catalog(settings: Settings) -> Catalog:
    return kinds.catalog(*filter(None, [settings.catalog]))


@asynccontextmanager
async def _rest(
    settings: Settings, services: Mapping[str, Handlers], forwarder: Forwarder, target: str
) -> AsyncGenerator[str]:
    """Serve REST for the time of the block, and give the URL. Raises BindError."""
    # Imported here: FastAPI has 10 MB, which a service without REST need not hold.
    from rest_bridge.app import create_app, front
    from rest_bridge.http import Limits, Server
    from rest_bridge.local import LocalService
    from rest_bridge.settings import Settings as BridgeSettings

    bridge = BridgeSettings(
        target=target,
        allowed_host=settings.allowed_host,
        cors_origin=settings.cors_origin,
        trusted_proxy=settings.trusted_proxy,
        max_body=settings.max_body,
    )
    app = create_app(LocalService(by_path(services), forwarder, target), bridge)
    limits = Limits(idle_seconds=settings.idle_connection_timeout)
    server = Server(app, limits, access_log=settings.access_log, route=front(app).route)
    host = _LOOPBACK if settings.host.startswith(addresses.UNIX) else settings.host
    with addresses.bound("REST", host, settings.rest_port) as socket:
        url = f"http://{addresses.address(host, socket.getsockname()[1])}"
        server.start([socket])
        try:
            yield url
        finally:
            await server.close(_CLOSE)
