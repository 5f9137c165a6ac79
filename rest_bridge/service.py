"""The seam between the bridge and the service: an answer, or a stream that is pushed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from google.protobuf.message import Message
from grpc_health.v1 import health_pb2

from inference_service.v1 import model_service_pb2 as pb

Question = TypeVar("Question", bound=Message)
Answer = TypeVar("Answer", bound=Message)

Accepted = Callable[[], Awaitable[None]]
Write = Callable[[Any], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Method(Generic[Question, Answer]):
    """A method of the service, with the classes of its messages."""

    path: str
    request: type[Question]
    answer: type[Answer]


@dataclass(frozen=True, slots=True)
class Metadata:
    """The facts that go along with a call; `timeout` is in seconds.

    `entries` are the name of the caller (`x-caller`), the credentials (`authorization`), and the id
    of the request (`x-request-id`), as far as they are known.
    """

    entries: tuple[tuple[str, str], ...] = ()
    timeout: float | None = None


class Forwarded(NamedTuple):
    """A request that is passed on as it is; the fields are those of a ForwardRequest."""

    path: str
    body: bytes = b""
    method: str = "POST"
    content_type: str = ""
    accept: str = ""
    model_id: str = ""


class Head(Protocol):
    """The beginning of an engine's answer; the names of `headers` are in small letters."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Mapping[bytes, bytes]: ...


class Source(Protocol):
    """The side of an answer that its sink can hold back; no call waits or raises."""

    def pause(self) -> None:
        """Send no more, but for what is on its way."""

    def resume(self) -> None:
        """Send on."""


class Sink(Protocol):
    """What gets an answer, straight from the loop: each call must return at once."""

    def waits(self, status: pb.GenerateStatus) -> None:
        """Note that the request waits for its model, or for a slot."""

    def head(self, head: Head, source: Source) -> None:
        """Take the head."""

    def data(self, data: bytes) -> None:
        """Take the next bytes of the body."""

    def end(self, error: Exception | None) -> None:
        """Take the end, with a BridgeError where the answer is not whole or has not begun."""


class Forwarding(Protocol):
    """A request that is passed on."""

    def cancel(self) -> object:
        """End it; the sink gets nothing more."""


class Service(Protocol):
    """The service behind the bridge; `target` is its address, for people.

    Each method raises BridgeError for a call that fails. A caller that leaves is a cancel: it ends
    the call, however the service is reached.
    """

    target: str

    async def answer(
        self, method: Method[Question, Answer], request: Question, metadata: Metadata
    ) -> Answer:
        """Make a call that has one answer."""

    async def stream(
        self,
        method: Method[Question, Any],
        request: Question,
        metadata: Metadata,
        accepted: Accepted,
        write: Write,
    ) -> None:
        """Make a call that is answered with a stream; return at its end.

        `accepted` is awaited when the headers come: of a watch, and of a log that is followed, once
        the call was checked; of any other stream, just before the first message. Then `write` is
        awaited for each message, and the service is held back meanwhile.
        """

    def forward(self, request: Forwarded, metadata: Metadata, sink: Sink) -> Forwarding:
        """Pass a request on to an engine. The sink has an end in any case, which can be now."""


_SERVICE = f"/{pb.DESCRIPTOR.services_by_name['ModelService'].full_name}"

GET_INFO = Method(f"{_SERVICE}/GetInfo", pb.GetInfoRequest, pb.GetInfoResponse)
LIST_MODELS = Method(f"{_SERVICE}/ListModels", pb.ListModelsRequest, pb.ListModelsResponse)
GET_MODEL = Method(f"{_SERVICE}/GetModel", pb.GetModelRequest, pb.GetModelResponse)
FORWARD = Method(f"{_SERVICE}/Forward", pb.ForwardRequest, pb.ForwardResponse)
START_MODEL = Method(f"{_SERVICE}/StartModel", pb.StartModelRequest, pb.StartModelResponse)
STOP_MODEL = Method(f"{_SERVICE}/StopModel", pb.StopModelRequest, pb.StopModelResponse)
RELOAD_CATALOG = Method(
    f"{_SERVICE}/ReloadCatalog", pb.ReloadCatalogRequest, pb.ReloadCatalogResponse
)
GENERATE = Method(f"{_SERVICE}/Generate", pb.GenerateRequest, pb.GenerateResponse)
GENERATE_STREAM = Method(
    f"{_SERVICE}/GenerateStream", pb.GenerateStreamRequest, pb.GenerateStreamResponse
)
WATCH_MODELS = Method(f"{_SERVICE}/WatchModels", pb.WatchModelsRequest, pb.WatchModelsResponse)
STREAM_LOGS = Method(f"{_SERVICE}/StreamLogs", pb.StreamLogsRequest, pb.StreamLogsResponse)
CHECK_HEALTH: Method[Any, Any] = Method(
    "/grpc.health.v1.Health/Check",
    health_pb2.HealthCheckRequest,
    health_pb2.HealthCheckResponse,
)
