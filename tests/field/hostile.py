"""A client of gRPC in plain HTTP/2, which reads no more than a test lets it."""

from __future__ import annotations

import asyncio
import base64
import struct
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from h2 import config, connection, events, settings

SERVICE = "/inference_service.v1.ModelService/"
WATCH = "/grpc.health.v1.Health/Watch"


class Http2:
    """One connection; each stream begins with a window of `window` bytes."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, window: int
    ) -> None:
        self._reader, self._writer = reader, writer
        self._h2 = connection.H2Connection(config.H2Configuration(header_encoding="utf-8"))
        self._h2.local_settings = settings.Settings(
            client=True, initial_values={settings.SettingCodes.INITIAL_WINDOW_SIZE: window}
        )
        self._h2.initiate_connection()
        self.data: defaultdict[int, bytes] = defaultdict(bytes)
        self.trailers: dict[int, dict[str, str]] = {}
        self.resets: dict[int, int] = {}
        self.answered = 0  # of the own pings
        self.farewell = b""  # the words with which the server has closed the connection
        self.closed = asyncio.Event()
        self.changed = asyncio.Event()
        self._flush()

    def call(self, path: str, message: Message, metadata: Iterable[tuple[str, str]] = ()) -> int:
        """Begin a call, and return the number of its stream."""
        stream: int = self._h2.get_next_available_stream_id()
        headers = [
            (":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "localhost"),
            ("te", "trailers"), ("content-type", "application/grpc"), *metadata,
        ]  # fmt: skip
        self._h2.send_headers(stream, headers)
        body = message.SerializeToString()
        self._h2.send_data(stream, b"\0" + struct.pack(">I", len(body)) + body, end_stream=True)
        self._flush()
        return stream

    def open_window(self, stream: int, size: int) -> None:
        """Let the server send more."""
        self._h2.increment_flow_control_window(size, stream)
        self._flush()

    def messages(self, stream: int) -> list[bytes]:
        """Return the messages that a stream has got whole."""
        data, found = self.data[stream], []
        while len(data) >= 5 and len(data) >= 5 + (size := struct.unpack(">I", data[1:5])[0]):
            found.append(data[5 : 5 + size])
            data = data[5 + size :]
        return found

    def reason(self, stream: int) -> str:
        """Return the reason in the status of a stream."""
        packed = self.trailers[stream]["grpc-status-details-bin"]
        status = status_pb2.Status.FromString(base64.b64decode(packed + "=="))
        info = error_details_pb2.ErrorInfo()
        assert any(detail.Unpack(info) for detail in status.details)
        return str(info.reason)

    def ping(self) -> None:
        """Ask for a sign of life, which `answered` counts."""
        self._h2.ping(b"are you?")
        self._flush()

    async def read(self) -> None:
        """Read what comes, for as long as the connection lasts."""
        while data := await self._received():
            for event in self._h2.receive_data(data):
                self._take(event)
            self._flush()
            self.changed.set()
        self.closed.set()
        self.changed.set()

    async def _received(self) -> bytes:
        try:
            return await self._reader.read(1 << 16)
        except ConnectionError:
            return b""

    def _take(self, event: Any) -> None:
        match event:
            case events.DataReceived():
                self.data[event.stream_id] += event.data
                if event.flow_controlled_length:  # of the connection; a stream has its own
                    self._h2.increment_flow_control_window(event.flow_controlled_length)
            case events.TrailersReceived() | events.ResponseReceived():
                headers = {str(name): str(value) for name, value in event.headers}
                if "grpc-status" in headers:
                    self.trailers[event.stream_id] = headers
            case events.PingAckReceived():
                self.answered += 1
            case events.ConnectionTerminated():
                self.farewell = event.additional_data or b""
            case events.StreamReset():
                self.resets[event.stream_id] = event.error_code

    def _flush(self) -> None:
        if data := self._h2.data_to_send():
            self._writer.write(data)


@asynccontextmanager
async def http2(target: str, window: int = 0, source: str = "127.0.0.1") -> AsyncGenerator[Http2]:
    """Connect from an address of the loopback; read, but open the window of no stream."""
    host, port = target.rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port), local_addr=(source, 0))
    client = Http2(reader, writer, window)
    reading = asyncio.create_task(client.read())
    try:
        yield client
    finally:
        reading.cancel()
        writer.close()
