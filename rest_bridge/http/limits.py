"""The limits of the server."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client, and all of them together, may take; in seconds and bytes."""

    head_bytes: int = 64 << 10  # also of what comes between two pieces of a body, and of trailers
    head_fields: int = 1000
    head_seconds: float = 30.0  # from the first byte to the last; or from accept to the first
    body_seconds: float = 30.0  # of silence within a body, and of a body slower than `body_rate`
    body_rate: float = 1024.0  # bytes a second, over all of a body but the first `body_seconds`
    body_buffer: int = 64 << 10  # of a body that the application does not read
    unread_bytes: int = 256 << 10  # of a body that is read to the end although it was answered
    all_bodies: int = 128 << 20  # of bodies that are not whole yet, on all connections
    pipelined: int = 32  # requests that wait for the answer before
    idle_seconds: float = 75.0  # more than the 60 s for which proxies keep connections
    write_seconds: float = 60.0  # in which a client takes no byte of an answer that waits for it
    linger_seconds: float = 5.0  # in which a client that was refused sends on
    connections: int = 10_000
    reserved_files: int = 100  # for all but clients and engines
