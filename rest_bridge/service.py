"""The seam between the bridge and the service: an answer, or a stream that is pushed."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

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

        `accepted` is awaited when the call was checked and is good, before anything is waited for.
        Then `write` is awaited for each message, and the service is held back meanwhile.
        """


_SERVICE = f"/{pb.DESCRIPTOR.services_by_name['ModelService'].full_name}"

GET_INFO = Method(f"{_SERVICE}/GetInfo", pb.GetInfoRequest, pb.GetInfoResponse)
LIST_MODELS = Method(f"{_SERVICE}/ListModels", pb.ListModelsRequest, pb.ListModelsResponse)
GET_MODEL = Method(f"{_SERVICE}/GetModel", pb.GetModelRequest, pb.GetModelResponse)
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
