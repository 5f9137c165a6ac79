"""The gRPC server: the services that it has, and the address on which it listens."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2_grpc

from inference_service.api import unix
from inference_service.api.access import logged
from inference_service.api.addresses import UNIX, address, bound
from inference_service.api.calls import MOST, Calls, counted
from inference_service.api.health import Health
from inference_service.api.methods import Handlers, gated
from inference_service.api.reflection import NAMES, Reflection
from inference_service.api.servicer import ModelService
from inference_service.api.unknown import Unknown
from inference_service.v1 import model_service_pb2 as pb
from inference_service.v1 import model_service_pb2_grpc as pb_grpc

SERVICE = pb.DESCRIPTOR.services_by_name["ModelService"].full_name

_BESIDE_BODY = 64 << 10  # bytes of a message
_PENDING = 4 * MOST  # calls of all connections
_LONGEST_ANSWER = 20.0  # seconds until the answer to a ping
_GRACE = 1.0  # seconds in which the last answers are read, when all models stopped

OPTIONS = [
    # Two services on one port would each get some of the calls.
    ("grpc.so_reuseport", 0),
    # gRPC cancels, with no reason, what a busy process has not accepted after 30 seconds.
    ("grpc.server_max_unrequested_time_in_server", 3600),
    # By default gRPC refuses some calls above 8 KiB, and all above 16 KiB: keys can be longer.
    ("grpc.max_metadata_size", 64 * 1024),
    # A client that says nothing must not keep its connection; by default it may for 120 s.
    ("grpc.server_handshake_timeout_ms", 30_000),
    # Nor one without a call: its client connects again when it has one.
    ("grpc.max_connection_idle_ms", 300_000),
    # gRPC cancels calls that the loop has not taken yet, with no reason: some from 1,000 on,
    # all from 3,000 on, of whichever caller (src/core/util/random_early_detection.h).
    ("grpc.server.max_pending_requests", _PENDING),
    ("grpc.server.max_pending_requests_hard_limit", _PENDING),
    # One connection cannot fill that. Its client holds back what is more.
    ("grpc.max_concurrent_streams", MOST),
]


@dataclass(frozen=True, slots=True)
class Pings:
    """The pings of HTTP/2, of connections without calls too; times are in seconds.

    The server pings a client that is silent for `interval`, and clients may ping every `shortest`.
    """

    interval: float
    shortest: float

    @property
    def options(self) -> list[tuple[str, int]]:
        """The options of gRPC."""
        answer = round(min(self.interval, _LONGEST_ANSWER) * 1000)
        return [
            ("grpc.keepalive_time_ms", round(self.interval * 1000)),
            # In grpcio 1.85 the first alone closes nothing: the second is a minute by default.
            ("grpc.keepalive_timeout_ms", answer),
            ("grpc.http2.ping_timeout_ms", answer),
            ("grpc.keepalive_permit_without_calls", 1),
            # By default there are two pings at most until there is something to send.
            ("grpc.http2.max_pings_without_data", 0),
            # By default 5 min, and the third ping before that ends the connection with all of its
            # calls ("too_many_pings"). One ping may come late, and the next in time.
            ("grpc.http2.min_ping_interval_without_data_ms", round(self.shortest * 800)),
        ]


def services(servicer: ModelService, beacon: Health, reflection: Reflection) -> dict[str, Handlers]:
    """Return the methods of each service, by its full name."""
    added: list[tuple[str, Callable[..., None], object]] = [
        (SERVICE, pb_grpc.add_ModelServiceServicer_to_server, servicer),
        (health.SERVICE_NAME, health_pb2_grpc.add_HealthServicer_to_server, beacon),
        *(
            (name, reflection_pb2_grpc.add_ServerReflectionServicer_to_server, reflection)
            for name in NAMES
        ),
    ]
    return {name: gated(name, add, servicer) for name, add, servicer in added}


@asynccontextmanager
async def serving(
    host: str,
    port: int,
    services: Mapping[str, Handlers],
    calls: Calls,
    largest: int,
    pings: Pings,
    *,
    access_log: bool = False,
) -> AsyncGenerator[str]:
    """Serve gRPC for the time of the block, and give the address. Raises BindError.

    `largest` is the size in bytes of the largest body that may be in a message. With `access_log`
    each call is logged.
    """
    most = ("grpc.max_allowed_incoming_connections", _affordable())
    size = ("grpc.max_receive_message_length", largest + _BESIDE_BODY)
    server = grpc.aio.server(options=[*OPTIONS, *pings.options, most, size])
    for name, methods in services.items():
        methods = counted(methods, calls)
        methods = logged(name, methods) if access_log else methods
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, methods),))
    server.add_generic_rpc_handlers((Unknown(calls, access_log=access_log),))
    target = _bind(server, host, port)
    await server.start()
    try:
        yield target
    finally:
        stopping = asyncio.ensure_future(server.stop(_GRACE + 1))
        # A call that is cut by `stop` would have no status, and two tracebacks.
        await calls.close(_GRACE)
        await stopping
        if target.startswith(UNIX):
            unix.remove(target)


def _bind(server: grpc.aio.Server, host: str, port: int) -> str:
    """Have the server listen, and return its address. Raises BindError."""
    if host.startswith(UNIX):
        return unix.bind(host, server.add_insecure_port)
    bound("gRPC", host, port).close()  # gRPC's own error names no cause
    return address(host, server.add_insecure_port(address(host, port)))


def _affordable() -> int:
    """Return the number of connections that leaves files to REST, to engines, and to all else.

    A connection carries any number of calls, each of which has a connection to its engine.
    """
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(8, min(10_000, files // 4))
