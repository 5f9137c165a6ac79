"""The composition of the service: built from its settings, run, and ended in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
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
from inference_service.capacity import memory
from inference_service.capacity.admission import Admission
from inference_service.capacity.nodes import LOCAL, Node
from inference_service.catalog import Catalog, ModelSpec
from inference_service.engines import kinds
from inference_service.errors import NetworkUnusable, RuntimeUnavailable
from inference_service.runtimes import identity
from inference_service.runtimes.base import Runtime
from inference_service.runtimes.docker import endpoint
from inference_service.runtimes.ports import Ports
from inference_service.runtimes.process import ProcessRuntime
from inference_service.runtimes.remote import RemoteRuntime
from inference_service.serving.entry import Entry
from inference_service.serving.models import Models, Reload
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
class Runtimes:
    """The runtimes of a service by name, and the choice between them."""

    by_name: Mapping[str, Runtime]
    choice: RuntimeChoice


@dataclass(frozen=True, slots=True)
class Service:
    """A service that runs. `rest_url` is None when REST is off; `reload` raises CatalogInvalid."""

    models: Models
    choice: RuntimeChoice
    target: str
    rest_url: str | None
    reload: Callable[[], Awaitable[Reload]]


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
        if runtimes is None:
            runtimes = await stack.enter_async_context(_runtimes(settings, ports))
        health = Health()
        models = _models(settings, catalog, runtimes, health, stack, count)

        reloading = asyncio.Lock()  # the file that is read last is in force last

        async def reload() -> Reload:
            async with reloading:
                # 1,000 entries take a third of a second to read.
                catalog = await asyncio.to_thread(_catalog, settings)
                return await models.reload(catalog)

        proxies = Proxies(settings.trusted_proxy)
        servicer = _servicer(settings, models, runtimes.choice, reload, proxies)
        reflection = Reflection()
        services = listener.services(servicer, health, reflection)
        health.up(("", SERVICE), [spec.id for spec in catalog], models.refusal)
        calls = Calls(proxies)
        pings = Pings(settings.ping_interval, settings.client_ping_interval)
        serving = listener.serving(
            settings.host,
            settings.grpc_port,
            services,
            calls,
            settings.max_body,
            pings,
            access_log=settings.access_log,
        )
        target = await stack.enter_async_context(serving)
        stack.callback(reflection.down)
        rest_url = None
        if settings.rest:
            rest_url = await stack.enter_async_context(
                _rest(settings, services, servicer.forwarder, target)
            )
        stack.callback(health.end)
        stack.push_async_callback(models.close, settings.drain_timeout)
        for runtime in runtimes.by_name.values():
            stack.callback(runtime.hurry)
            if settings.leave_containers:
                stack.callback(runtime.leave)
        stack.callback(health.down)
        await models.adopt()
        models.preload()
        yield Service(models, runtimes.choice, target, rest_url, reload)


def _servicer(
    settings: Settings,
    models: Models,
    choice: RuntimeChoice,
    reload: Callable[[], Awaitable[Reload]],
    proxies: Proxies,
) -> ModelService:
    limits = Limits(
        settings.generation_timeout, settings.max_idle_timeout, settings.answer_timeout, proxies
    )
    readers = Readers(settings.write_timeout)
    return ModelService(models, choice, limits, reload, readers, Prompts(proxies))


def _models(
    settings: Settings,
    catalog: Catalog,
    runtimes: Runtimes,
    health: Health,
    stack: AsyncExitStack,
    count: int,
) -> Models:
    engines = kinds.engines(settings.images)
    for engine in engines.values():
        stack.push_async_callback(engine.aclose)
    docker = runtimes.by_name.get("docker")
    has_docker, has_gpu = docker is not None, docker is not None and docker.seat.has_gpu

    def entry(spec: ModelSpec) -> Entry:
        placed = place(spec, settings.runtime, settings.engine, has_docker, has_gpu)
        runtime, engine = runtimes.by_name[placed.runtime], engines[placed.engine]
        return Entry.of(spec, runtime, engine, placed.reason)

    nodes = [node for runtime in runtimes.by_name.values() for node in runtime.nodes]
    admission = Admission(nodes)
    start_times = StartTimes(settings.state_path / f"start-times-{settings.service_name}.json")
    return Models(catalog, entry, _timing(settings), admission, start_times, health.changed, count)


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
async def _runtimes(settings: Settings, ports: Ports | None) -> AsyncGenerator[Runtimes]:
    """Give the runtimes that the settings ask for, and that this machine has."""
    if ports is None:
        ports = Ports(*settings.port_range, offset=identity.first_port(settings.service_name))
    own_memory = settings.memory or memory.usable()
    always: dict[str, Runtime] = {
        "process": ProcessRuntime(ports, Node(LOCAL, own_memory)),
        "url": RemoteRuntime(),
    }
    if settings.runtime == "process":
        yield Runtimes(always, RuntimeChoice("process", "it was asked for"))
        return
    try:
        endpoint.look()
        # Imported here: the Docker SDK has 7 MB, which a service without Docker need not hold.
        from inference_service.runtimes.docker import runtime

        docker = await runtime.connect(
            ports,
            service=settings.service_name,
            volume=settings.volume,
            pull_policy=settings.pull_policy,
            memory_bytes=settings.memory,
            keys=settings.state_path / f"keys-{settings.service_name}",
            gpu_limits=settings.gpu_limits,
            network=settings.docker_network,
        )
    except NetworkUnusable:
        raise
    except RuntimeUnavailable as error:
        if settings.runtime == "docker":
            raise
        yield Runtimes(always, _without_docker(settings, error.message))
        return
    reason = "it was asked for" if settings.runtime == "docker" else "a Docker daemon answers"
    choice = RuntimeChoice("docker", f"{reason}; {docker.describe()}")
    async with AsyncExitStack() as stack:
        stack.push_async_callback(docker.aclose)
        stack.enter_context(identity.alone(settings.service_name, docker.daemon_id))
        yield Runtimes({**always, "docker": docker}, choice)


def _without_docker(settings: Settings, why: str) -> RuntimeChoice:
    kind = kinds.KINDS.get(settings.engine)
    if kind is not None and kind.is_image:
        why += f"; {settings.engine} runs in Docker alone, so other engines run what they can"
    return RuntimeChoice("process", why)


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
