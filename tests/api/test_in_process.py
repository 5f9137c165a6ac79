"""The channel of the bridge, with a wire and without one: the same behaviour."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from inference_service.api.in_process import Channel
from inference_service.api.listener import SERVICE
from inference_service.api.methods import Handlers, handlers
from inference_service.v1 import model_service_pb2 as pb
from inference_service.v1 import model_service_pb2_grpc as pb_grpc
from tests.service import failure
from tests.waiting import PROMPTLY, within

LARGE = "x" * 2**16  # a wire holds fewer than a thousand of these
NO_MODEL = Status(code=5, message="no model “é”")
NO_MODEL.details.add().Pack(ErrorInfo(reason="MODEL_NOT_FOUND", domain="inference-service"))


class Scripted(pb_grpc.ModelServiceServicer):
    """A servicer whose generations do as their prompt says, such as "hang".

    A stream first writes `max_new_tokens` texts, all of them `model_id`. `entered` is set when a
    handler does as its prompt says, and `left` when a handler ends.
    """

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.left = asyncio.Event()
        self.written = 0
        self.note: Callable[[Any], object] = lambda context: None  # called with each context
        self.request: Any = None
        self.task: asyncio.Task[Any] | None = None

    async def Generate(self, request: pb.GenerateRequest, context: Any) -> pb.GenerateResponse:
        await self._do(request, context)
        return pb.GenerateResponse(generated_text=request.model_id)

    async def GenerateStream(  # type: ignore[override]
        self, request: pb.GenerateStreamRequest, context: Any
    ) -> None:
        try:
            for _ in range(request.max_new_tokens):
                await context.write(message(request.model_id))
                self.written += 1
        except asyncio.CancelledError:
            self.left.set()
            raise
        await self._do(request, context)

    async def _do(self, request: Any, context: Any) -> None:
        self.request, self.task = request, asyncio.current_task()
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
        finally:
            self.left.set()


def message(text: str) -> pb.GenerateStreamResponse:
    return pb.GenerateStreamResponse(chunk=pb.GenerateChunk(text=text, token_count=1))


@dataclass(frozen=True)
class Bed:
    """A servicer, and a channel to it."""

    servicer: Scripted
    channel: Any

    def generate(self, prompt: str = "", model_id: str = "", **options: Any) -> Any:
        request = pb.GenerateRequest(model_id=model_id, prompt=prompt)
        return pb_grpc.ModelServiceStub(self.channel).Generate(request, **options)

    def stream(self, prompt: str = "", text: str = "a", count: int = 0, **options: Any) -> Any:
        request = pb.GenerateStreamRequest(model_id=text, prompt=prompt, max_new_tokens=count)
        return pb_grpc.ModelServiceStub(self.channel).GenerateStream(request, **options)

    def call(self, kind: str, prompt: str = "", **options: Any) -> Call:
        """Make a call of either kind, for tests of both."""
        if kind == "unary":
            return Call(unary := self.generate(prompt, **options), lambda: answer(unary))
        return Call(stream := self.stream(prompt, **options), lambda: texts(stream))


@dataclass(frozen=True)
class Call:
    """A call, and a wait for its end."""

    made: Any
    end: Callable[[], Any]


async def answer(call: Any) -> Any:
    return await call


async def texts(call: Any) -> list[str]:
    return [event.chunk.text async for event in call]


@pytest.fixture
def servicer() -> Scripted:
    return Scripted()  # type: ignore[abstract]  # the calls that the tests make


@pytest.fixture
def services(servicer: Scripted) -> dict[str, Handlers]:
    watched = health.aio.HealthServicer()
    return {
        SERVICE: handlers(pb_grpc.add_ModelServiceServicer_to_server, servicer),
        health.SERVICE_NAME: handlers(health_pb2_grpc.add_HealthServicer_to_server, watched),
    }


@pytest.fixture
async def in_process(servicer: Scripted, services: dict[str, Handlers]) -> AsyncGenerator[Bed]:
    channel = Channel(services)
    yield Bed(servicer, channel)
    async with within(PROMPTLY, "the channel was not closed"):
        await channel.close()


@pytest.fixture
async def wire(servicer: Scripted, services: dict[str, Handlers]) -> AsyncGenerator[Bed]:
    server = grpc.aio.server()
    for name, methods in services.items():
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Bed(servicer, channel)
    await server.stop(None)


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
    call = bed.generate(model_id="é")

    assert (await call).generated_text == "é"
    assert (await call).generated_text == "é"


@both_kinds
async def test_a_handler_knows_metadata_deadline_and_peer_of_its_caller(
    bed: Bed, kind: str
) -> None:
    known: list[Any] = []

    def note(context: Any) -> None:
        known.extend((context.invocation_metadata(), context.time_remaining(), context.peer()))

    bed.servicer.note = note
    await bed.call(kind, metadata=(("x-caller", "me"),)).end()
    metadata, time_remaining, peer = known

    assert ("x-caller", "me") in tuple(metadata)
    assert time_remaining is None
    assert isinstance(peer, str)


async def test_one_answer_can_be_awaited_twice(bed: Bed) -> None:
    call = bed.generate(model_id="a")

    assert [one.generated_text for one in await asyncio.gather(answer(call), answer(call))] == [
        "a",
        "a",
    ]


@pytest.mark.parametrize("count", [0, 1, 2, 100])
async def test_a_stream(bed: Bed, count: int) -> None:
    assert await texts(bed.stream(count=count)) == ["a"] * count


async def test_a_stream_that_is_read_when_it_has_ended(bed: Bed) -> None:
    call = bed.stream(count=1)
    await has_left(bed)

    assert await texts(call) == ["a"]


@both_kinds
async def test_an_error_has_its_details(bed: Bed, kind: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await bed.call(kind, "abort with details").end()

    failed = failure(error.value)
    assert (failed.code, failed.message) == (grpc.StatusCode.NOT_FOUND, "no model “é”")
    assert failed.reason == "MODEL_NOT_FOUND"


async def test_an_error_comes_after_the_messages_that_were_written(bed: Bed) -> None:
    stream = aiter(bed.stream("abort", count=3))

    assert [(await anext(stream)).chunk.text for _ in range(3)] == ["a"] * 3
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await anext(stream)
    assert error.value.code() is grpc.StatusCode.ABORTED
    assert error.value.details() == "it is over"
    assert not tuple(error.value.trailing_metadata() or ())


@both_kinds
async def test_a_fault_is_unknown_and_logged_once(
    bed: Bed, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await bed.call(kind, "fault").end()

    assert error.value.code() is grpc.StatusCode.UNKNOWN
    assert error.value.details() == "Unexpected <class 'KeyError'>: 'lost'"
    assert caplog.text.count("KeyError: 'lost'") == 1


@pytest.mark.parametrize("method", [f"/{SERVICE}/Nonsense", "/nobody.Nobody/Generate"])
async def test_a_method_that_does_not_exist_is_unimplemented(bed: Bed, method: str) -> None:
    unary, stream = bed.channel.unary_unary(method), bed.channel.unary_stream(method)

    for end in (answer(unary(b"")), texts(stream(b""))):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await end
        assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert error.value.details() == "Method not found!"


@both_kinds
async def test_a_call_can_be_cancelled_before_it_begins(bed: Bed, kind: str) -> None:
    call = bed.call(kind, "hang")
    call.made.cancel()

    with pytest.raises(asyncio.CancelledError):
        await call.end()


@both_kinds
async def test_the_cancel_of_a_call_ends_its_wait_and_its_handler(bed: Bed, kind: str) -> None:
    call = bed.call(kind, "hang")
    waiting = asyncio.create_task(call.end())
    await has_entered(bed)
    call.made.cancel()

    with pytest.raises(asyncio.CancelledError):
        await waiting
    await has_left(bed)


@both_kinds
async def test_the_cancel_of_a_wait_ends_the_handler(bed: Bed, kind: str) -> None:
    call = bed.call(kind, "hang")  # referenced, since a call without a reference is cancelled too
    waiting = asyncio.create_task(call.end())
    await has_entered(bed)
    waiting.cancel()

    with pytest.raises(asyncio.CancelledError):
        await waiting
    await has_left(bed)


async def test_a_cancel_after_the_end_changes_nothing(bed: Bed) -> None:
    unary, stream = bed.generate(model_id="a"), bed.stream(count=1)
    await unary
    await texts(stream)
    unary.cancel()
    stream.cancel()

    assert (await unary).generated_text == "a"


async def test_a_cancel_drops_the_messages_on_the_way(bed: Bed) -> None:
    call = bed.stream(count=2)
    stream = aiter(call)
    await anext(stream)
    await has_left(bed)
    await quiet()
    call.cancel()

    with pytest.raises(asyncio.CancelledError):
        await anext(stream)


@both_kinds
async def test_a_handler_that_is_cancelled_from_inside(in_process: Bed, kind: str) -> None:
    """Over a wire, the caller waits for ever."""
    call = in_process.call(kind, "hang")
    await has_entered(in_process)
    assert in_process.servicer.task is not None
    in_process.servicer.task.cancel()

    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call.end()
    assert error.value.code() is grpc.StatusCode.CANCELLED


@both_kinds
async def test_a_deadline(bed: Bed, kind: str) -> None:
    left: list[float] = []
    bed.servicer.note = lambda context: left.append(context.time_remaining())
    call = bed.call(kind, "hang", timeout=0.2)
    await has_left(bed)
    await quiet()

    assert 0 < left[0] < 0.3  # gRPC rounds it
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call.end()
    assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert error.value.details() == "Deadline Exceeded"


@both_kinds
async def test_a_deadline_that_has_passed(bed: Bed, kind: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await bed.call(kind, "hang", timeout=0).end()
    assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_an_answer_within_the_deadline(bed: Bed) -> None:
    assert await texts(bed.stream(count=3, timeout=60)) == ["a"] * 3
    assert await bed.generate(timeout=60)


async def test_a_reader_that_does_not_read_holds_the_writer_and_can_leave(bed: Bed) -> None:
    call = bed.stream(text=LARGE, count=10_000)
    await anext(aiter(call))
    call.cancel()

    await has_left(bed)
    assert 0 < bed.servicer.written < 1000


async def test_a_writer_is_one_message_ahead(in_process: Bed) -> None:
    stream = aiter(in_process.stream(count=10))
    for taken in range(9):
        await quiet()
        assert in_process.servicer.written == taken + 1
        await anext(stream)
    await quiet()
    assert in_process.servicer.written == 10
    assert [event async for event in stream] == [message("a")]


async def test_a_message_whose_write_was_cancelled_is_not_sent(
    in_process: Bed, services: dict[str, Handlers]
) -> None:
    cut = asyncio.Event()

    async def handle(_: object, context: Any) -> None:
        await context.write("first")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await context.write("second")
        cut.set()
        await context.write("third")

    services["s"] = {"m": grpc.unary_stream_rpc_method_handler(handle)}
    stream = in_process.channel.unary_stream("/s/m")(None)
    await cut.wait()

    assert [event async for event in stream] == ["first", "third"]


async def test_a_handler_that_goes_on_after_its_caller_cannot_write(
    in_process: Bed, services: dict[str, Handlers]
) -> None:
    refused = asyncio.Event()

    async def handle(_: object, context: Any) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            with pytest.raises(grpc.aio.UsageError):
                await context.write("a")
            refused.set()

    services["s"] = {"m": grpc.unary_stream_rpc_method_handler(handle)}
    call = in_process.channel.unary_stream("/s/m")(None)
    await quiet()
    call.cancel()

    async with within(PROMPTLY, "the write was not refused"):
        await refused.wait()


async def test_messages_are_passed_without_a_copy(in_process: Bed) -> None:
    request = pb.GenerateRequest(model_id="a")
    await pb_grpc.ModelServiceStub(in_process.channel).Generate(request)

    assert in_process.servicer.request is request


@both_kinds
async def test_a_call_without_a_reference_is_cancelled(in_process: Bed, kind: str) -> None:
    call = in_process.call(kind, "hang")
    await has_entered(in_process)
    del call

    await has_left(in_process)


async def test_a_stream_whose_reader_has_left_is_cancelled(in_process: Bed) -> None:
    async for _ in in_process.stream(count=10):
        break

    await has_left(in_process)


@both_kinds
async def test_the_error_of_a_call_without_a_waiter_is_not_logged(
    bed: Bed, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    call = bed.call(kind, "abort")
    await has_left(bed)
    await quiet()
    del call
    gc.collect()

    assert (await bed.generate()) is not None
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
        call = in_process.call(kind, prompt, timeout=0.01 if prompt == "hang" else 60)
        try:
            await call.end()
        except grpc.aio.AioRpcError as error:
            error.__traceback__ = None
        await quiet()
        in_process.servicer.task = None
        del call
        assert contexts[0]() is None
    finally:
        gc.enable()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_thousand_calls_at_once(bed: Bed) -> None:
    unary = [answer(bed.generate(model_id=str(i))) for i in range(500)]
    streams = [texts(bed.stream(text=str(i), count=3)) for i in range(500)]
    answers, parts = await asyncio.gather(asyncio.gather(*unary), asyncio.gather(*streams))

    assert [one.generated_text for one in answers] == [str(i) for i in range(500)]
    assert parts == [[str(i)] * 3 for i in range(500)]


@both_kinds
async def test_a_close_cancels_the_calls_that_run(bed: Bed, kind: str) -> None:
    waiting = asyncio.create_task(bed.call(kind, "hang").end())
    await has_entered(bed)
    await bed.channel.close()

    with pytest.raises(asyncio.CancelledError):
        await waiting
    await has_left(bed)


async def test_a_close_waits_for_the_handlers(in_process: Bed) -> None:
    call = in_process.generate("hang")
    await has_entered(in_process)
    await in_process.channel.close()

    assert in_process.servicer.left.is_set()
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_health(bed: Bed) -> None:
    """The servicer is that of the library."""
    stub: Any = health_pb2_grpc.HealthStub(bed.channel)

    answer = await stub.Check(health_pb2.HealthCheckRequest())
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await stub.Check(health_pb2.HealthCheckRequest(service="nobody"))
    watch = stub.Watch(health_pb2.HealthCheckRequest())
    first = await anext(aiter(watch))
    watch.cancel()

    assert answer == first == health_pb2.HealthCheckResponse(status="SERVING")
    assert (error.value.code(), error.value.details()) == (grpc.StatusCode.NOT_FOUND, "")
