"""The composition root: builds the service from its settings, runs it, and ends it in order."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from inference_service.api.convert import Limits
from inference_service.api.in_process import Channel
from inference_service.api.methods import Handlers, guarded, handlers
from inference_service.api.servicer import ModelService, RuntimeChoice
from inference_service.capacity.admission import Admission
from inference_service.capacity.claims import place
from inference_service.capacity.gpus import find
from inference_service.catalog import Catalog, ModelSpec
from inference_service.engines.base import Engine
from inference_service.engines.llamacpp import Llamacpp
from inference_service.engines.tgi.engine import Tgi
from inference_service.errors import RuntimeUnavailable
from inference_service.lifecycle import State
from inference_service.runtimes import identity
from inference_service.runtimes.base import Runtime
from inference_service.runtimes.docker import endpoint
from inference_service.runtimes.ports import Ports
from inference_service.runtimes.process import ProcessRuntime
from inference_service.serving.model import Supervisor, Timing
from inference_service.serving.models import Manager, Reload
from inference_service.serving.start_times import StartTimes
from inference_service.settings import Settings
from inference_service.v1 import model_service_pb2 as pb
from inference_service.v1 import model_service_pb2_grpc as pb_grpc

SERVICE = pb.DESCRIPTOR.services_by_name["ModelService"].full_name

_LONGEST_PROBE = 15.0  # seconds between two looks at an engine that is READY

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class BindError(Exception):
    """An address of the settings cannot be listened on."""


@dataclass(frozen=True, slots=True)
class Service:
    """A service that runs. `rest_url` is None when REST is off; `reload` raises CatalogInvalid."""

    manager: Manager
    choice: RuntimeChoice
    target: str
    rest_url: str | None
    reload: Callable[[], Reload]


@asynccontextmanager
async def running(settings: Settings, ports: Ports | None = None) -> AsyncGenerator[Service]:
    """Run the service; leaving drains and stops every model, then the servers.

    Engines are given `ports`, by default those of the settings. Raises CatalogInvalid, BindError,
    GpuError, NameTaken when a service of this name uses the Docker Engine, or RuntimeUnavailable
    when `runtime` is docker and none answers.
    """
    catalog = _catalog(settings)
    async with AsyncExitStack() as stack:
        ports = ports or Ports(
            *settings.port_range, offset=identity.first_port(settings.service_name)
        )
        runtimes, choice = await _runtimes(settings, ports, stack)
        engines: dict[str, Engine] = {
            "tgi": Tgi(settings.tgi_image),
            "llamacpp": Llamacpp(settings.llamacpp_image),
        }
        for engine in engines.values():
            stack.push_async_callback(engine.aclose)

        def placed(spec: ModelSpec) -> tuple[Runtime, Engine]:
            where, how = place(spec, settings.runtime, settings.engine, "docker" in runtimes)
            return runtimes[where], engines[how]

        beacon = Beacon()
        timing = Timing(
            stall=settings.start_stall_timeout,
            drain=settings.drain_timeout,
            idle=settings.idle_timeout,
            residency=settings.min_residency,
            queue_size=settings.queue_size,
            probe=min(_LONGEST_PROBE, settings.hang_timeout / 8),
            hang=settings.hang_timeout,
        )
        gpus = await find(settings.gpu_limits) if "docker" in runtimes else ()
        admission = Admission(settings.memory or _memory(), gpus)
        learnt = StartTimes(settings.state_path / f"start-times-{settings.service_name}.json")
        manager = Manager(catalog, placed, timing, admission, beacon.changed, learnt)
        limits = Limits(settings.generation_timeout, settings.max_idle_timeout)

        def reload() -> Reload:
            return manager.reload(_catalog(settings))

        services = _handlers(ModelService(manager, choice, limits, reload), beacon)
        port = await stack.enter_async_context(_grpc(settings, services, beacon, catalog))
        target = _address(settings.host, port)
        rest_url = None
        if settings.rest:
            rest_url = await stack.enter_async_context(_rest(settings, services, target))
        stack.push_async_callback(manager.close, settings.drain_timeout)
        if settings.leave_containers:
            for runtime in runtimes.values():
                stack.callback(runtime.leave)
        stack.push_async_callback(beacon.down)
        await manager.adopt()
        manager.preload()
        yield Service(manager, choice, target, rest_url, reload)


class Beacon:
    """grpc.health.v1: "" and the service's own name, and one name for each model."""

    def __init__(self) -> None:
        self.servicer = health.aio.HealthServicer()
        self._updates: set[asyncio.Task[None]] = set()

    async def up(self, catalog: Catalog) -> None:
        """Say that the service serves, and no model yet."""
        for name in ("", SERVICE):
            await self.servicer.set(name, _SERVING)
        for spec in catalog:
            await self.servicer.set(spec.id, _NOT_SERVING)

    def changed(self, model: Supervisor) -> None:
        """Say whether a model serves."""
        serves = _SERVING if model.status.state is State.READY else _NOT_SERVING
        status = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN if model.gone else serves
        update = asyncio.ensure_future(self.servicer.set(model.spec.id, status))
        self._updates.add(update)
        update.add_done_callback(self._updates.discard)

    async def down(self) -> None:
        """Say that nothing serves any more."""
        await self.servicer.enter_graceful_shutdown()


def _catalog(settings: Settings) -> Catalog:
    return Catalog.load(*filter(None, [settings.catalog]))


async def _runtimes(
    settings: Settings, ports: Ports, stack: AsyncExitStack
) -> tuple[dict[str, Runtime], RuntimeChoice]:
    runtimes: dict[str, Runtime] = {}
    if settings.runtime != "docker":
        runtimes["process"] = ProcessRuntime(ports)
    if settings.runtime == "process":
        return runtimes, RuntimeChoice("process", "it was asked for")
    try:
        endpoint.look()
        # Imported here: the Docker SDK has 7 MB, which a service without Docker need not hold.
        from inference_service.runtimes.docker import runtime as docker

        runtime = await docker.connect(
            ports,
            service=settings.service_name,
            volume=settings.volume,
            pull_policy=settings.pull_policy,
        )
    except RuntimeUnavailable as error:
        if settings.runtime == "docker":
            raise
        return runtimes, RuntimeChoice("process", error.message)
    stack.push_async_callback(runtime.aclose)
    stack.enter_context(identity.alone(settings.service_name, runtime.engine_id))
    runtimes["docker"] = runtime
    reason = "it was asked for" if settings.runtime == "docker" else "a Docker Engine answers"
    return runtimes, RuntimeChoice("docker", f"{reason}; {runtime.describe()}")


@asynccontextmanager
async def _grpc(
    settings: Settings, services: Mapping[str, Handlers], beacon: Beacon, catalog: Catalog
) -> AsyncGenerator[int]:
    server = grpc.aio.server(
        options=[
            # Two services on one port would each get some of the calls.
            ("grpc.so_reuseport", 0),
            # gRPC cancels, with no reason, what a busy process has not accepted after 30 seconds.
            ("grpc.server_max_unrequested_time_in_server", 3600),
        ],
    )
    for name, methods in services.items():
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, methods),))
    await beacon.up(catalog)
    _listener("gRPC", settings.host, settings.grpc_port).close()  # its own error says little
    port = server.add_insecure_port(_address(settings.host, settings.grpc_port))
    await server.start()
    try:
        yield port
    finally:
        await server.stop(grace=1)


def _handlers(servicer: ModelService, beacon: Beacon) -> dict[str, Handlers]:
    """All that is served, by the name of the service.

    Reflection is there as v1alpha, which the library has, and as v1, which has the same messages.
    """
    names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflected = handlers(
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server,
        reflection.aio.ReflectionServicer(names),
    )
    return {
        SERVICE: guarded(handlers(pb_grpc.add_ModelServiceServicer_to_server, servicer)),
        health.SERVICE_NAME: handlers(
            health_pb2_grpc.add_HealthServicer_to_server, beacon.servicer
        ),
        reflection.SERVICE_NAME: reflected,
        "grpc.reflection.v1.ServerReflection": reflected,
    }


@asynccontextmanager
async def _rest(
    settings: Settings, services: Mapping[str, Handlers], target: str
) -> AsyncGenerator[str]:
    # Imported here: FastAPI and uvicorn have 13 MB, which a service without REST need not hold.
    import uvicorn

    from rest_bridge.app import create_app
    from rest_bridge.server import Embedded
    from rest_bridge.settings import Settings as BridgeSettings

    channel = Channel(services)
    app = create_app(channel, BridgeSettings(target=target))
    config = uvicorn.Config(
        app, access_log=False, server_header=False, lifespan="off", log_level="warning"
    )
    server = Embedded(config)
    with _listener("REST", settings.host, settings.rest_port) as listener:
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            await server.up.wait()
            if task.done():
                await task  # raises why it does not serve
            yield f"http://{_address(settings.host, listener.getsockname()[1])}"
        finally:
            server.stop()
            await task
            await channel.close()


def _listener(name: str, host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        cause = os.strerror(error.errno) if error.errno else str(error)
        raise BindError(
            f"{name} cannot listen on {_address(host, port)} ({cause}); "
            f"choose another --{name.lower()}-port"
        ) from None
    # Else the body of an answer waits 40 ms for the client's delayed acknowledgement of its head:
    # asyncio sets it only on sockets that say IPPROTO_TCP, which `create_server` does not.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _memory() -> int:
    """What models can have of this machine: nine tenths of its memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 9 // 10


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
