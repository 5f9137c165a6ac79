"""A hostile client of gRPC: frames of HTTP/2 by the library h2, and by hand."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events
import h2.settings

from tests.attack.target import ATTACKER, Target

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SERVICE = "/inference_service.v1.ModelService/"


def framed(message: bytes) -> bytes:
    """Return a message as gRPC sends it."""
    return b"\0" + struct.pack(">I", len(message)) + message


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return a frame (RFC 9113, 4.1)."""
    return (
        struct.pack(">I", len(payload))[1:]
        + bytes([kind, flags])
        + struct.pack(">I", stream)
        + payload
    )


def headers(path: str, *more: tuple[str, str]) -> list[tuple[str, str]]:
    """Return the headers of a call."""
    return [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        *more,
    ]


@dataclass
class Peer:
    """One connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    frames: h2.connection.H2Connection
    ended: dict[int, str] = field(default_factory=dict)  # the grpc-status of each ended stream
    data: dict[int, int] = field(default_factory=dict)  # bytes that came on each stream

    async def flush(self) -> None:
        """Send what waits. Raises ConnectionError when the service has closed."""
        self.writer.write(self.frames.data_to_send())
        await self.writer.drain()

    async def raw(self, data: bytes) -> None:
        """Send bytes that are no business of h2. Raises ConnectionError."""
        self.writer.write(data)
        await self.writer.drain()

    async def call(
        self, path: str, message: bytes = b"", *more: tuple[str, str], end: bool = True
    ) -> int:
        """Begin a call, and return its stream."""
        stream = self.frames.get_next_available_stream_id()
        self.frames.send_headers(stream, headers(path, *more))
        body = framed(message)
        window = self.frames.local_flow_control_window(stream)
        self.frames.send_data(stream, body[: min(window, self.frames.max_outbound_frame_size)], end)
        await self.flush()
        return stream

    async def read(self, seconds: float, acknowledge: bool = True) -> bool:
        """Take what comes in this time; return False when the service has closed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while data := await self.reader.read(1 << 16):
                    for event in self.frames.receive_data(data):
                        self._take(event, acknowledge)
                    await self.flush()
                return False
        return True

    def _take(self, event: h2.events.Event, acknowledge: bool) -> None:
        if isinstance(event, h2.events.DataReceived):
            self.data[event.stream_id] = self.data.get(event.stream_id, 0) + len(event.data)
            if acknowledge:
                size = event.flow_controlled_length
                self.frames.acknowledge_received_data(size, event.stream_id)
        elif isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
            found = {_text(name): _text(value) for name, value in event.headers}
            if "grpc-status" in found:
                self.ended[event.stream_id] = found["grpc-status"]
        elif isinstance(event, h2.events.StreamReset):
            self.ended.setdefault(event.stream_id, f"reset {event.error_code}")


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")


@asynccontextmanager
async def connected(target: Target, window: int | None = None) -> AsyncGenerator[Peer]:
    """Connect from the attacker's address; `window` is the size of what the service may send."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport, protocol = await loop.create_connection(
        lambda: asyncio.StreamReaderProtocol(reader),
        "127.0.0.1",
        target.grpc_port,
        local_addr=(ATTACKER, 0),
    )
    writer = asyncio.StreamWriter(transport, protocol, reader, loop)
    frames = h2.connection.H2Connection(
        h2.config.H2Configuration(
            client_side=True,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
            validate_inbound_headers=False,
        )
    )
    if window is not None:
        size = {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window}
        frames.local_settings = h2.settings.Settings(client=True, initial_values=size)
    frames.initiate_connection()
    peer = Peer(reader, writer, frames)
    try:
        await peer.flush()
        yield peer
    finally:
        transport.abort()
