"""Requests are checked, and the objects of the service are shown, as the proto says."""

from __future__ import annotations

import math
from typing import Any

import grpc
import pytest
from google.protobuf import duration_pb2

from inference_service.api import convert
from inference_service.capacity.admission import Admission
from inference_service.capacity.claims import GpuNeed
from inference_service.capacity.gpus import Gpu
from inference_service.engines.base import Chunk, Finish, FinishReason, Prompt
from inference_service.errors import InsufficientMemory, InvalidParameter, StartFailed
from inference_service.lifecycle import Phase, Progress, State, Status
from inference_service.serving.generation import Outcome, Seam
from inference_service.serving.history import Change
from inference_service.serving.model import Supervisor, Timing
from inference_service.v1 import model_service_pb2 as pb
from tests.fakes import FakeEngine, FakeRuntime, spec

REQUESTS: list[Any] = [pb.GenerateRequest, pb.GenerateStreamRequest]

TINY, LEAST = math.ulp(0.0), math.ulp(1.0)
LARGEST = 2**31 - 1


def request(kind: Any = pb.GenerateRequest, **fields: Any) -> Any:
    return kind(**{"model_id": "tiny", "prompt": "once"} | fields)


@pytest.mark.parametrize("kind", REQUESTS)
def test_what_is_not_set_has_the_default_of_the_proto(kind: Any) -> None:
    assert convert.prompt(request(kind), spec()) == Prompt(
        "once",
        max_new_tokens=200,
        temperature=0.7,
        top_p=0.95,
        top_k=0,
        repetition_penalty=1.0,
        seed=None,
        stop=(),
    )


@pytest.mark.parametrize("kind", REQUESTS)
def test_what_is_set_is_passed_on(kind: Any) -> None:
    given = request(
        kind,
        max_new_tokens=1,
        temperature=0.0,
        top_p=1.0,
        top_k=3,
        repetition_penalty=2.0,
        seed=0,
        stop=["a", "b"],
    )

    assert convert.prompt(given, spec()) == Prompt("once", 1, 0.0, 1.0, 3, 2.0, 0, ("a", "b"))


# What is within the bounds of each field, and what is beyond.
BOUNDS: list[tuple[str, list[Any], list[Any]]] = [
    ("max_new_tokens", [1, 128], [0, -1, 129, LARGEST, -LARGEST - 1]),
    ("temperature", [0.0, -0.0, TINY, 2.0], [-TINY, 2.0 + 2 * LEAST]),
    ("top_p", [TINY, 0.5, 1.0], [0.0, -TINY, 1.0 + LEAST]),
    ("top_k", [1, 1000], [0, -1, 1001, LARGEST]),
    ("repetition_penalty", [TINY, 1.0, 2.0], [0.0, -1.0, 2.0 + 2 * LEAST]),
    ("seed", [0, LARGEST], [-1, -LARGEST - 1]),
    ("stop", [[], ["a"], ["a", "b", "c", "d"], [" "]], [["a"] * 5, [""], ["a", ""]]),
    ("prompt", [" ", "a", "\0", "🙂" * 10_000], [""]),
]

RULES = {
    "max_new_tokens": "must be from 1 to 128, the context length of tiny",
    "temperature": "must be from 0.0 to 2.0",
    "top_p": "must be above 0.0 and at most 1.0",
    "top_k": "must be from 1 to 1000",
    "repetition_penalty": "must be above 0.0 and at most 2.0",
    "seed": "must be from 0 to 2147483647",
    "stop": "must have at most 4 sequences, none of them empty",
    "prompt": "must not be empty",
}


@pytest.mark.parametrize("kind", REQUESTS)
@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, within, _ in BOUNDS for value in within]
)
def test_a_value_within_the_bounds_is_taken(kind: Any, field: str, value: Any) -> None:
    prompt = convert.prompt(request(kind, **{field: value}), spec())

    taken = getattr(prompt, "text" if field == "prompt" else field)
    assert taken == (tuple(value) if field == "stop" else value)


@pytest.mark.parametrize("kind", REQUESTS)
@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((field, value) for field, _, beyond in BOUNDS for value in beyond),
        *(
            (field, value)
            for field in ("temperature", "top_p", "repetition_penalty")
            for value in (math.nan, math.inf, -math.inf)
        ),
    ],
)
def test_a_value_beyond_the_bounds_is_refused_by_field_and_rule(
    kind: Any, field: str, value: Any
) -> None:
    with pytest.raises(InvalidParameter) as refused:
        convert.prompt(request(kind, **{field: value}), spec())

    assert refused.value.message.startswith(f"{field} {RULES[field]}")
    assert refused.value.field == field
    assert refused.value.metadata == {"model_id": "tiny"}


@pytest.mark.parametrize(
    ("field", "value", "shown"),
    [
        ("temperature", 2.5, "2.5"),
        ("temperature", 2.0000001, "2.0000001"),
        ("temperature", math.nan, "nan"),
        ("top_p", -math.inf, "-inf"),
        ("max_new_tokens", 129, "129"),
        ("max_new_tokens", 1234567, "1234567"),
        ("seed", -1234567, "-1234567"),
    ],
)
def test_the_refused_value_is_shown_as_it_was_given(field: str, value: Any, shown: str) -> None:
    with pytest.raises(InvalidParameter) as refused:
        convert.prompt(request(**{field: value}), spec())

    assert refused.value.message.endswith(f", not {shown}")


@pytest.mark.parametrize(("field", "value"), [("prompt", ""), ("stop", ["secret"] * 5)])
def test_no_text_of_the_caller_is_repeated(field: str, value: Any) -> None:
    with pytest.raises(InvalidParameter) as refused:
        convert.prompt(request(**{field: value}), spec())

    assert refused.value.message == f"{field} {RULES[field]}"


def test_every_mistake_is_told_and_the_first_is_the_field() -> None:
    wrong = {field: beyond[0] for field, _, beyond in BOUNDS}

    with pytest.raises(InvalidParameter) as refused:
        convert.prompt(request(**wrong), spec())

    for field, rule in RULES.items():
        assert f"{field} {rule}" in refused.value.message
    assert refused.value.field == "prompt"


def test_the_most_tokens_are_those_of_the_models_context() -> None:
    given = request(max_new_tokens=129)

    assert convert.prompt(given, spec(context_length=129)).max_new_tokens == 129
    with pytest.raises(InvalidParameter):
        convert.prompt(given, spec(context_length=128))


@pytest.mark.parametrize(("given", "full"), [({}, True), (True, True), (False, False)])
def test_the_text_has_the_prompt_unless_it_is_told_not_to(given: Any, full: bool) -> None:
    fields = {} if given == {} else {"return_full_text": given}

    assert convert.full_text(request(**fields)) is full


def stop(seconds: int, nanos: int = 0) -> pb.StopModelRequest:
    duration = duration_pb2.Duration(seconds=seconds, nanos=nanos)
    return pb.StopModelRequest(model_id="tiny", drain_timeout=duration)


@pytest.mark.parametrize(
    ("request_", "seconds"),
    [
        (pb.StopModelRequest(model_id="tiny"), None),
        (stop(0), 0),
        (stop(1, 500_000_000), 1.5),
        (stop(3600), 3600),
    ],
)
def test_a_drain_is_from_nothing_to_an_hour(
    request_: pb.StopModelRequest, seconds: float | None
) -> None:
    assert convert.drain(request_) == seconds


@pytest.mark.parametrize("request_", [stop(-1), stop(0, -1), stop(3600, 1), stop(2**62)])
def test_another_drain_is_refused(request_: pb.StopModelRequest) -> None:
    with pytest.raises(InvalidParameter, match="drain_timeout must be from 0 to 3600 s") as refused:
        convert.drain(request_)

    assert refused.value.field == "drain_timeout"


@pytest.mark.parametrize("kind", [*REQUESTS, pb.StartModelRequest])
def test_an_idle_time_is_from_nothing_to_the_cap_of_the_service(kind: Any) -> None:
    def asked(seconds: int, nanos: int = 0) -> Any:
        return kind(idle_timeout=duration_pb2.Duration(seconds=seconds, nanos=nanos))

    assert convert.idle_timeout(kind(), 60) is None
    assert convert.idle_timeout(asked(0), 60) == 0
    assert convert.idle_timeout(asked(59, 500_000_000), 60) == 59.5
    assert convert.idle_timeout(asked(60), 60) == 60
    for beyond in (asked(-1), asked(0, -1), asked(60, 1), asked(61)):
        with pytest.raises(
            InvalidParameter, match="idle_timeout must be from 0 to 60 s"
        ) as refused:
            convert.idle_timeout(beyond, 60)
        assert refused.value.field == "idle_timeout"


@pytest.mark.parametrize(("given", "count"), [({}, 100), (0, 0), (1, 1), (1000, 1000)])
def test_a_reader_of_logs_wants_up_to_a_thousand_lines(given: Any, count: int) -> None:
    fields = {} if given == {} else {"tail_line_count": given}

    assert convert.tail_line_count(pb.StreamLogsRequest(**fields)) == count


@pytest.mark.parametrize("count", [-1, 1001, LARGEST])
def test_another_number_of_lines_is_refused(count: int) -> None:
    with pytest.raises(InvalidParameter) as refused:
        convert.tail_line_count(pb.StreamLogsRequest(tail_line_count=count))

    assert refused.value.message == f"tail_line_count must be from 0 to 1000, not {count}"
    assert refused.value.field == "tail_line_count"


@pytest.fixture
def supervisor() -> Supervisor:
    return Supervisor(spec(), FakeRuntime(), FakeEngine(), Timing(), Admission(10**9))


def test_a_model_that_never_ran_is_stopped(supervisor: Supervisor) -> None:
    assert convert.model(supervisor, 100.0) == pb.Model(
        id="tiny",
        name="tiny",
        hf_name="some/tiny",
        state=pb.MODEL_STATE_STOPPED,
        engine="fake",
        runtime="fake",
        context_length=128,
        memory_bytes=64 * 2**20,
    )


@pytest.mark.parametrize("state", State)
async def test_every_state_is_shown(supervisor: Supervisor, state: State) -> None:
    supervisor.status = Status(state, since=1.5)

    model = convert.model(supervisor, 100.0)

    assert pb.ModelState.Name(model.state) == f"MODEL_STATE_{state.name}"
    assert model.running is (state is State.READY)
    assert model.state_change_time.ToMilliseconds() == 1500
    assert model.HasField("start_progress") is (state is State.STARTING)


async def test_a_start_is_shown_with_its_progress(supervisor: Supervisor) -> None:
    progress = Progress(Phase.PULLING_IMAGE, 5, 20, "bytes", 0.25, "pulling")
    supervisor.status = Status(State.STARTING, since=90.0, started=90.0, progress=progress)
    shown = pb.StartProgress(
        phase=pb.START_PHASE_PULLING_IMAGE,
        completed_count=5,
        total_count=20,
        unit="bytes",
        fraction=0.25,
        elapsed_duration=duration_pb2.Duration(seconds=9, nanos=500_000_000),
        message="pulling",
    )

    assert convert.model(supervisor, 99.5).start_progress == shown
    assert convert.status(supervisor.status, 0, 99.5).status == pb.GenerateStatus(
        model_state=pb.MODEL_STATE_STARTING, start_progress=shown
    )


def test_a_start_of_which_nothing_is_known_waits() -> None:
    event = convert.status(Status(State.STARTING, started=100.0), 0, 99.0).status

    assert event.start_progress.phase == pb.START_PHASE_WAITING
    assert not event.start_progress.HasField("fraction")
    assert event.start_progress.elapsed_duration.ToNanoseconds() == 0  # the clock was set back
    assert not convert.status(Status(State.READY), 0, 1.0).status.HasField("start_progress")


def test_a_failed_model_is_shown_with_its_cause(supervisor: Supervisor) -> None:
    failure = StartFailed("tiny", "pulling image", "no such image")
    supervisor.status = Status(State.FAILED, since=1.0, failure=failure, retry_at=2.25)

    model = convert.model(supervisor, 3.0)

    assert model.last_error.message == failure.message
    assert [any_.type_url for any_ in model.last_error.details] == [
        "type.googleapis.com/google.rpc.ErrorInfo"
    ]
    assert model.retry_time.ToMilliseconds() == 2250


def test_a_ready_model_is_shown_with_its_address(supervisor: Supervisor) -> None:
    supervisor.status = Status(State.READY, since=1.0, container="tgi-tiny", port=8080)

    model = convert.model(supervisor, 3.0)

    assert (model.container_name, model.port) == ("tgi-tiny", 8080)
    assert not model.HasField("last_error")
    assert not model.HasField("retry_time")


def test_a_change_is_the_model_as_it_was_then_or_the_end_of_the_snapshot(
    supervisor: Supervisor,
) -> None:
    then = Status(State.READY, since=1.0, container="tgi-tiny", port=8080)

    told = convert.change(Change(7, (supervisor, then)), 2.0)

    assert told.revision == 7
    assert (told.model.id, told.model.state) == ("tiny", pb.MODEL_STATE_READY)
    assert (told.model.container_name, told.model.port) == ("tgi-tiny", 8080)
    assert convert.change(Change(8, None), 2.0) == pb.WatchModelsResponse(
        revision=8, snapshot_done=pb.SnapshotDone()
    )


@pytest.mark.parametrize("pinned", [False, True])
def test_a_pinned_model_is_shown_as_such(pinned: bool) -> None:
    entry = spec().model_copy(update={"pinned": pinned})
    model = Supervisor(entry, FakeRuntime(), FakeEngine(), Timing(), Admission(10**9))

    assert convert.model(model, 0.0).pinned is pinned


@pytest.mark.parametrize(
    ("idle", "seconds"),
    [
        pytest.param(60.0, 60, id="a minute"),
        pytest.param(math.inf, None, id="never"),
        pytest.param(1e300, None, id="beyond all clocks"),
    ],
)
async def test_a_model_that_nobody_uses_is_shown_with_its_end(
    idle: float, seconds: int | None
) -> None:
    timing = Timing(poll=0.001, idle=idle)
    supervisor = Supervisor(spec(), FakeRuntime(), FakeEngine(), timing, Admission(10**9))
    assert not convert.model(supervisor, 1000.0).HasField("expire_time")
    await supervisor.start()

    model = convert.model(supervisor, 1000.0)
    await supervisor.stop()

    assert model.HasField("expire_time") is (seconds is not None)
    if seconds is not None:
        assert 1000 + seconds - 5 < model.expire_time.ToSeconds() <= 1000 + seconds


async def test_a_plan_tells_what_a_start_would_take() -> None:
    admission, runtime = Admission(100 * 2**20), FakeRuntime()
    first, second = (
        Supervisor(spec(name), runtime, FakeEngine(), Timing(poll=0.001), admission)
        for name in ("first", "second")
    )
    plan = pb.StartPlan(required_memory_bytes=2**26, capacity_memory_bytes=100 * 2**20)
    empty, taken = 100 * 2**20, 36 * 2**20

    def expected(free: int, **facts: Any) -> pb.StartPlan:
        shown = pb.StartPlan(free_memory_bytes=free, **facts)
        shown.MergeFrom(plan)
        return shown

    assert convert.plan(admission, second) == expected(empty)
    async with first.lease():
        shown = convert.plan(admission, first)
        assert 0 <= shown.usual_duration.ToMilliseconds() < 5000
        shown.ClearField("usual_duration")
        assert shown == expected(taken)
        assert convert.plan(admission, second) == expected(taken, must_wait=True)
    assert convert.plan(admission, second) == expected(taken, evicted_model_ids=["first"])
    await first.stop()


async def test_a_plan_tells_what_it_would_take_of_each_gpu() -> None:
    engine, runtime = FakeEngine(), FakeRuntime()
    engine.gpu_needs = {"first": GpuNeed(30), "second": GpuNeed(40)}
    admission = Admission(10**9, [Gpu("a", 60, 50), Gpu("b", 60, 60)])
    first, second = (
        Supervisor(spec(name), runtime, engine, Timing(poll=0.001), admission)
        for name in ("first", "second")
    )
    await first.start()

    plan = convert.plan(admission, second)
    shown = convert.model(first, 0.0)
    await first.stop()

    assert plan.required_gpu_memory_bytes == 40
    assert [*plan.gpus] == [
        pb.GpuPlan(gpu_id="a", free_memory_bytes=20, capacity_memory_bytes=50),
        pb.GpuPlan(
            gpu_id="b", required_memory_bytes=40, free_memory_bytes=60, capacity_memory_bytes=60
        ),
    ]
    assert (shown.gpu_memory_bytes, [*shown.gpu_ids]) == (30, ["a"])
    assert convert.model(first, 0.0).gpu_memory_bytes == 0


def test_a_plan_that_can_never_be_is_refused() -> None:
    admission = Admission(2**20)
    supervisor = Supervisor(spec(), FakeRuntime(), FakeEngine(), Timing(), admission)

    with pytest.raises(InsufficientMemory):
        convert.plan(admission, supervisor)


def test_a_chunk_is_an_event() -> None:
    assert convert.chunk(Chunk(" a b", 2)) == pb.GenerateStreamResponse(
        chunk=pb.GenerateChunk(text=" a b", token_count=2)
    )


@pytest.mark.parametrize("reason", FinishReason)
def test_a_summary_has_the_counts_and_the_times(reason: FinishReason) -> None:
    outcome = Outcome(Finish(reason, 3, 5), 1.5, 0, 2.000001, (Seam(2, "it died"),))
    summary = convert.summary(spec(), outcome)

    assert pb.FinishReason.Name(summary.finish_reason) == f"FINISH_REASON_{reason.name}"
    assert (summary.prompt_token_count, summary.completion_token_count) == (3, 5)
    assert summary.start_duration.ToMilliseconds() == 1500
    assert summary.HasField("first_token_duration")
    assert summary.first_token_duration.ToNanoseconds() == 0
    assert summary.total_duration.ToNanoseconds() == 2_000_001_000
    assert summary.model_id == "tiny"
    assert list(summary.resumptions) == [pb.GenerateResumption(sent_token_count=2, cause="it died")]
    assert convert.seam(outcome.seams[0]).resumption == summary.resumptions[0]


def test_a_text_that_was_not_streamed_has_no_first_token() -> None:
    outcome = Outcome(Finish(FinishReason.STOP, 3, 5), 1.5, None, 2, ())

    assert not convert.summary(spec(), outcome).HasField("first_token_duration")


def test_the_reasons_are_those_of_the_proto() -> None:
    named = {f"FINISH_REASON_{reason.name}": int(reason) for reason in FinishReason}

    assert named | {"FINISH_REASON_UNSPECIFIED": 0} == dict(pb.FinishReason.items())


async def test_a_caller_is_a_proxys_word_or_a_key_or_an_address() -> None:
    callers: list[str] = []

    async def handle(request: bytes, context: Any) -> bytes:
        callers.append(convert.caller(context))
        return b""

    server = grpc.aio.server()
    handler: Any = grpc.unary_unary_rpc_method_handler(handle)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("s", {"m": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: Any = channel.unary_unary("/s/m")
        key, word = ("authorization", "Bearer one"), ("x-caller", "10.0.0.7")
        for metadata in ((), (key,), (key, word)):
            await call(b"", metadata=metadata)
    await server.stop(0)

    assert callers == ["ipv4:127.0.0.1", "Bearer one", "10.0.0.7"]
