"""The service behind the bridge, over a channel and in this process: the same behaviour."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health, health_pb2
from grpc_status import rpc_status

from inference_service import errors
from inference_service.api.methods import Handlers, accept
from inference_service.v1 import model_service_pb2 as pb
from inference_service.v1 import model_service_pb2_grpc as pb_grpc
from rest_bridge.errors import BridgeError
from rest_bridge.service import CHECK_HEALTH, GENERATE, GENERATE_STREAM, Metadata, Service
from tests.rest_bridge.loopback import local, methods_of, open_remote, serve_grpc
from tests.waiting import PROMPTLY, within

LARGE = "x" * 2**16  # a wire holds fewer than a thousand of these
NO_MODEL = Status(code=5, message="no model “é”")
NO_MODEL.details.add().Pack(ErrorInfo(reason="MODEL_NOT_FOUND", domain="inference-service"))
NO_METADATA = Metadata()


class Scripted(pb_grpc.ModelServiceServicer):
    """A servicer whose generations do as their prompt says, such as "hang".

    A stream is refused with the prompt "refuse"; else it is accepted, and first writes
    `max_new_tokens` texts, all of them `model_id`. `entered` is set when a handler does as its
    prompt says, and `left` when a handler ends.
    """

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.left = asyncio.Event()
        self.written = 0
        self.note: Callable[[Any], object] = lambda context: None  # called with each context
        self.request: Any = None

    async def Generate(self, request: pb.GenerateRequest, context: Any) -> pb.GenerateResponse:
        await self._do(request, context)
        return pb.GenerateResponse(generated_text=request.model_id)

    async def GenerateStream(  # type: ignore[override]
        self, request: pb.GenerateStreamRequest, context: Any
    ) -> None:
        if request.prompt == "refuse":
            raise errors.QueueFull("tiny", 1)
        await accept(context)
        try:
            async with asyncio.timeout(0.2 if request.prompt == "cut" else None):
                for _ in range(request.max_new_tokens):
                    await context.write(message(request.model_id))
                    self.written += 1
        except TimeoutError:
            raise errors.ModelStopped("tiny") from None
        except BaseException:
            self.left.set()
            raise
        await self._do(request, context)

    async def _do(self, request: Any, context: Any) -> None:
        self.request = request
        self.note(context)
        self.entered.set()
        try:
            match request.prompt:
                case "hang":
                    await asyncio.Event().wait()
                case "abort":
                    await context.abort(grpc.StatusCode.ABORTED, "it is over")
                case "abort with details":
                    await context.abort_with_status(rpc_status.to_status(NO_MODEL))
                case "fault":
                    raise KeyError("lost")
                case "cancel from inside":
                    raise asyncio.CancelledError
        finally:
            self.left.set()


def message(text: str) -> pb.GenerateStreamResponse:
    return pb.GenerateStreamResponse(chunk=pb.GenerateChunk(text=text, token_count=1))


@dataclass
class Reader:
    """The reader of a stream: what came, and in which order. It can stop to read."""

    came: list[str] = field(default_factory=list)
    reads: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.reads.set()

    async def accepted(self) -> None:
        self.came.append("accepted")

    async def write(self, message: pb.GenerateStreamResponse) -> None:
        await self.reads.wait()
        self.came.append(message.chunk.text)


@dataclass(frozen=True)
class Bed:
    """A servicer, and the service as the bridge has it."""

    servicer: Scripted
    service: Service

    async def generate(
        self, prompt: str = "", model_id: str = "", metadata: Metadata = NO_METADATA
    ) -> str:
        request = pb.GenerateRequest(model_id=model_id, prompt=prompt)
        return (await self.service.answer(GENERATE, request, metadata)).generated_text

    async def stream(
        self,
        prompt: str = "",
        text: str = "a",
        count: int = 0,
        metadata: Metadata = NO_METADATA,
        reader: Reader | None = None,
    ) -> list[str]:
        reader = reader or Reader()
        request = pb.GenerateStreamRequest(model_id=text, prompt=prompt, max_new_tokens=count)
        await self.service.stream(GENERATE_STREAM, request, metadata, reader.accepted, reader.write)
        return reader.came

    def call(
        self, kind: str, prompt: str = "", metadata: Metadata = NO_METADATA
    ) -> Awaitable[object]:
        """Make a call of either kind, for tests of both."""
        make: Any = self.generate if kind == "unary" else self.stream
        made: Awaitable[object] = make(prompt, metadata=metadata)
        return made


@pytest.fixture
def servicer() -> Scripted:
    return Scripted()  # type: ignore[abstract]  # the calls that the tests make


@pytest.fixture
def services(servicer: Scripted) -> dict[str, Handlers]:
    return methods_of(servicer, health.aio.HealthServicer())


@pytest.fixture
def in_process(servicer: Scripted, services: dict[str, Handlers]) -> Bed:
    return Bed(servicer, local(services, "here"))


@pytest.fixture
async def wire(servicer: Scripted, services: dict[str, Handlers]) -> AsyncGenerator[Bed]:
    async with serve_grpc(services) as target, open_remote(target) as remote:
        yield Bed(servicer, remote)


@pytest.fixture(params=["wire", "in_process"])
def bed(request: pytest.FixtureRequest) -> Bed:
    bed: Bed = request.getfixturevalue(request.param)
    return bed


async def has_entered(bed: Bed) -> None:
    """Return when a handler does as its prompt says."""
    async with within(PROMPTLY, "the call did not come to its handler"):
        await bed.servicer.entered.wait()


async def has_left(bed: Bed) -> None:
    """Return when a handler has ended."""
    async with within(PROMPTLY, "the handler did not end"):
        await bed.servicer.left.wait()


both_kinds = pytest.mark.parametrize("kind", ["unary", "stream"])


async def quiet() -> None:
    """Return when every task of this loop waits for a wire or a clock."""
    for _ in range(50):
        await asyncio.sleep(0)


async def test_an_answer(bed: Bed) -> None:
    assert await bed.generate(model_id="é") == "é"


@both_kinds
async def test_a_handler_knows_metadata_deadline_and_peer_of_its_caller(
    bed: Bed, kind: str
) -> None:
    known: list[Any] = []

    def note(context: Any) -> None:
        known.extend((context.invocation_metadata(), context.time_remaining(), context.peer()))

    bed.servicer.note = note
    entries = (("x-caller", "me"), ("authorization", "Bearer key"), ("x-request-id", "7"))
    await bed.call(kind, metadata=Metadata(entries))
    metadata, time_remaining, peer = known

    assert set(entries) <= set(map(tuple, metadata))
    assert time_remaining is None
    assert isinstance(peer, str)


@pytest.mark.parametrize("count", [0, 1, 2, 100])
async def test_a_stream_is_accepted_once_and_first(bed: Bed, count: int) -> None:
    assert await bed.stream(count=count) == ["accepted"] + ["a"] * count


async def test_a_stream_is_accepted_before_anything_is_waited_for(bed: Bed) -> None:
    reader = Reader()
    call = asyncio.create_task(bed.stream("hang", reader=reader))
    async with within(PROMPTLY, "the call was not accepted"):
        while reader.came != ["accepted"]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert not call.done()
    call.cancel()


async def test_a_stream_that_is_refused_is_not_accepted(bed: Bed) -> None:
    reader = Reader()
    with pytest.raises(BridgeError) as error:
        await bed.stream("refuse", reader=reader)

    assert error.value.reason == "QUEUE_FULL"
    assert reader.came == []


@both_kinds
async def test_an_error_has_its_details(bed: Bed, kind: str) -> None:
    with pytest.raises(BridgeError) as error:
        await bed.call(kind, "abort with details")

    assert (error.value.http_status, error.value.detail) == (404, "no model “é”")
    assert error.value.reason == "MODEL_NOT_FOUND"


async def test_an_error_comes_after_the_messages_that_were_written(bed: Bed) -> None:
    reader = Reader()
    with pytest.raises(BridgeError, match="failed with ABORTED: it is over"):
        await bed.stream("abort", count=3, reader=reader)

    assert reader.came == ["accepted", "a", "a", "a"]


@both_kinds
async def test_a_fault_is_internal_and_logged_once(
    bed: Bed, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(BridgeError) as error:
        await bed.call(kind, "fault")

    assert error.value.reason == "INTERNAL"
    assert "lost" not in error.value.detail
    assert caplog.text.count("KeyError: 'lost'") == 1


@both_kinds
async def test_a_handler_that_is_cancelled_from_inside_is_a_fault(bed: Bed, kind: str) -> None:
    with pytest.raises(BridgeError) as error:
        async with within(PROMPTLY, "the call did not end"):
            await bed.call(kind, "cancel from inside")

    assert error.value.reason == "INTERNAL"


@both_kinds
async def test_the_cancel_of_a_wait_ends_the_handler(bed: Bed, kind: str) -> None:
    waiting = asyncio.ensure_future(bed.call(kind, "hang"))
    await has_entered(bed)
    waiting.cancel()

    with pytest.raises(asyncio.CancelledError):
        await waiting
    await has_left(bed)


@both_kinds
async def test_a_deadline(bed: Bed, kind: str) -> None:
    left: list[float] = []
    bed.servicer.note = lambda context: left.append(context.time_remaining())
    with pytest.raises(BridgeError) as error:
        await bed.call(kind, "hang", Metadata(timeout=0.2))

    await has_left(bed)
    assert 0 < left[0] < 0.3  # gRPC rounds it
    assert (error.value.http_status, error.value.reason) == (504, "GENERATION_TIMEOUT")


@both_kinds
async def test_a_deadline_that_has_passed(bed: Bed, kind: str) -> None:
    with pytest.raises(BridgeError) as error:
        await bed.call(kind, "hang", Metadata(timeout=0))
    assert error.value.reason == "GENERATION_TIMEOUT"


async def test_an_answer_within_the_deadline(bed: Bed) -> None:
    metadata = Metadata(timeout=60)
    assert await bed.stream(count=3, metadata=metadata) == ["accepted", "a", "a", "a"]
    assert await bed.generate(model_id="a", metadata=metadata) == "a"


async def test_a_deadline_falls_into_the_wait_for_a_slow_reader(bed: Bed) -> None:
    reader = Reader()
    reader.reads.clear()
    slow = bed.stream(text=LARGE, count=10_000, metadata=Metadata(timeout=0.5), reader=reader)
    waiting = asyncio.ensure_future(slow)
    await has_left(bed)
    reader.reads.set()

    with pytest.raises(BridgeError) as error:
        await waiting
    assert error.value.reason == "GENERATION_TIMEOUT"


async def test_a_time_limit_of_the_handler_falls_into_the_wait_for_a_slow_reader(
    bed: Bed,
) -> None:
    reader = Reader()
    reader.reads.clear()
    slow = bed.stream("cut", text=LARGE, count=10_000, reader=reader)
    waiting = asyncio.ensure_future(slow)
    await asyncio.sleep(0.5)
    reader.reads.set()

    with pytest.raises(BridgeError) as error:
        async with within(PROMPTLY, "the call did not end"):
            await waiting
    assert error.value.reason == "MODEL_STOPPED"
    assert set(reader.came[1:]) <= {LARGE}


async def test_a_reader_that_does_not_read_holds_the_writer_and_can_leave(bed: Bed) -> None:
    reader = Reader()
    reader.reads.clear()
    waiting = asyncio.ensure_future(bed.stream(text=LARGE, count=10_000, reader=reader))
    seen = -1
    while seen != bed.servicer.written:  # until the buffers on the way are full
        seen = bed.servicer.written
        await asyncio.sleep(0.1)
    waiting.cancel()

    await has_left(bed)
    assert bed.servicer.written < 1000
    assert reader.came == ["accepted"]


async def test_a_handler_waits_for_each_write_of_its_reader(in_process: Bed) -> None:
    reader = Reader()
    reader.reads.clear()
    waiting = asyncio.ensure_future(in_process.stream(count=10, reader=reader))
    await quiet()
    assert in_process.servicer.written == 0
    reader.reads.set()
    await waiting
    assert in_process.servicer.written == 10


async def test_messages_are_passed_without_a_copy(in_process: Bed) -> None:
    request = pb.GenerateRequest(model_id="a")
    await in_process.service.answer(GENERATE, request, NO_METADATA)

    assert in_process.servicer.request is request


@both_kinds
async def test_the_error_of_a_call_without_a_waiter_is_not_logged(
    bed: Bed, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    waiting = asyncio.ensure_future(bed.call(kind, "hang"))
    await has_entered(bed)
    waiting.cancel()
    await has_left(bed)
    await quiet()
    del waiting
    gc.collect()

    assert await bed.generate(model_id="a") == "a"
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@both_kinds
@pytest.mark.parametrize("prompt", ["", "abort", "fault", "hang"])
async def test_nothing_is_left_of_a_call(
    in_process: Bed, kind: str, prompt: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is left for the garbage collector either."""
    caplog.set_level(logging.CRITICAL)  # a record of a fault has a reference to the call
    contexts: list[weakref.ref[Any]] = []
    in_process.servicer.note = lambda context: contexts.append(weakref.ref(context))
    gc.collect()
    gc.disable()
    try:
        try:
            timeout = 0.01 if prompt == "hang" else 60
            await in_process.call(kind, prompt, Metadata(timeout=timeout))
        except BridgeError as error:
            error.__traceback__ = None
        await quiet()
        assert contexts[0]() is None
    finally:
        gc.enable()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_thousand_calls_at_once(bed: Bed) -> None:
    unary = [bed.generate(model_id=str(i)) for i in range(500)]
    streams = [bed.stream(text=str(i), count=3) for i in range(500)]
    answers, parts = await asyncio.gather(asyncio.gather(*unary), asyncio.gather(*streams))

    assert answers == [str(i) for i in range(500)]
    assert parts == [["accepted", *[str(i)] * 3] for i in range(500)]


async def test_health(bed: Bed) -> None:
    """The servicer is that of the library, and ends a call by itself."""
    request = health_pb2.HealthCheckRequest()
    answer = await bed.service.answer(CHECK_HEALTH, request, NO_METADATA)
    with pytest.raises(BridgeError, match="NOT_FOUND"):
        request = health_pb2.HealthCheckRequest(service="nobody")
        await bed.service.answer(CHECK_HEALTH, request, NO_METADATA)

    assert answer == health_pb2.HealthCheckResponse(status="SERVING")
