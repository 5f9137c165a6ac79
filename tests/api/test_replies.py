"""The objects of the service as messages of the proto."""

from __future__ import annotations

import math
from typing import Any

import pytest
from google.protobuf import descriptor_pool, duration_pb2, json_format
from google.rpc import error_details_pb2

from inference_service.api import replies
from inference_service.api.statuses import status_of
from inference_service.capacity.claims import GpuNeed
from inference_service.capacity.gpus import Gpu
from inference_service.engines.base import Chunk, Finish, FinishReason
from inference_service.errors import EngineExited, InsufficientMemory, StartFailed
from inference_service.lifecycle import Phase, Progress, State, Status
from inference_service.serving.generation import Outcome, Resumption
from inference_service.serving.history import Change
from inference_service.serving.model import Model
from inference_service.serving.view import Removed, View
from inference_service.v1 import model_service_pb2 as pb
from inference_service.v1.errors_pb2 import ErrorReason
from inference_service.v1.model_error_pb2 import ModelError
from rest_bridge.errors import unpacked
from tests.build import machine, timing
from tests.build import model as make_model
from tests.fakes import FakeEngine, FakeRuntime, spec
from tests.test_errors import EXAMPLES

ERRORS = {type(error).__name__: error for error in EXAMPLES.values()}


def view(status: Status | None = None, **changes: Any) -> View:
    """Return the view of a model with this status, seen 100 seconds after 1970."""
    facts: dict[str, Any] = {
        "id": "tiny",
        "hf_name": "some/tiny",
        "aliases": (),
        "paths": ["/words"],
        "engine": "fake",
        "runtime": "fake",
        "context_length": 128,
        "memory_bytes": 2**26,
        "pinned": False,
        "status": status or Status(),
        "gpus": {},
        "placement": "tgi needs Docker",
        "active_count": 0,
        "queued_count": 0,
        "expire_time": None,
        "seen": 100.0,
    }
    return View(**facts | changes)


def plan(model: Model) -> pb.StartPlan:
    return replies.plan(model.quote(), model.usual_start)


def test_a_model_that_never_ran_is_stopped() -> None:
    expected = pb.Model(
        id="tiny",
        name="tiny",
        hf_name="some/tiny",
        state=pb.MODEL_STATE_STOPPED,
        engine="fake",
        runtime="fake",
        context_length=128,
        paths=["/words"],
        memory_bytes=64 * 2**20,
    )

    assert replies.model(make_model().view()) == expected
    expected.placement = "tgi needs Docker"
    assert replies.model(view()) == expected


def test_the_requests_of_a_model_are_counted() -> None:
    shown = replies.model(view(active_count=3, queued_count=2))

    assert (shown.active_request_count, shown.queued_request_count) == (3, 2)


READY = Status(State.READY, since=1.0, container="tgi-tiny", port=8080)


@pytest.mark.parametrize("state", State)
def test_every_state_is_shown(state: State) -> None:
    model = replies.model(view(Status(state, since=1.5)))

    assert pb.ModelState.Name(model.state) == f"MODEL_STATE_{state.name}"
    assert model.running is (state is State.READY)
    assert model.state_change_time.ToMilliseconds() == 1500
    assert model.HasField("start_progress") is (state is State.STARTING)


def test_a_start_is_shown_with_its_progress() -> None:
    progress = Progress(Phase.PULLING_IMAGE, 5, 20, "bytes", 0.25, "pulling")
    status = Status(State.STARTING, since=90.0, progress=progress)
    shown = pb.StartProgress(
        phase=pb.START_PHASE_PULLING_IMAGE,
        completed_count=5,
        total_count=20,
        unit="bytes",
        fraction=0.25,
        elapsed_duration=duration_pb2.Duration(seconds=9, nanos=500_000_000),
        message="pulling",
    )

    assert replies.model(view(status, seen=99.5)).start_progress == shown
    assert replies.status(status, 0, 99.5).status == pb.GenerateStatus(
        model_state=pb.MODEL_STATE_STARTING, start_progress=shown
    )


def test_a_start_without_progress_is_in_the_phase_waiting() -> None:
    event = replies.status(Status(State.STARTING, since=100.0), 0, 99.0).status

    assert event.start_progress.phase == pb.START_PHASE_WAITING
    assert not event.start_progress.HasField("fraction")
    assert event.start_progress.elapsed_duration.ToNanoseconds() == 0  # the clock was set back
    assert not replies.status(Status(State.READY), 0, 1.0).status.HasField("start_progress")


def test_a_failed_model_is_shown_with_its_cause() -> None:
    log = ["loading", "no memory"]
    failure = EngineExited("tiny", Phase.LOADING_WEIGHTS, "was killed", {}, "no memory", log)
    status = Status(State.FAILED, since=1.0, failure=failure, retry_at=2.25)

    model = replies.model(view(status))

    assert model.last_error == ModelError(
        reason=ErrorReason.ERROR_REASON_START_FAILED,
        message="tiny was killed (loading weights): no memory",
        metadata={"model_id": "tiny", "phase": "START_PHASE_LOADING_WEIGHTS"},
        log_lines=log,
    )
    assert model.retry_time.ToMilliseconds() == 2250


@pytest.mark.parametrize("name", ERRORS)
def test_a_failed_model_is_told_of_as_its_callers_were(name: str) -> None:
    """And as JSON without a registry of types, so also in languages that load none."""
    error = ERRORS[name]
    known = descriptor_pool.DescriptorPool()  # without the types of google.rpc

    shown = replies.model(view(Status(State.FAILED, since=1.0, failure=error)))
    printed = json_format.MessageToDict(shown, descriptor_pool=known)["lastError"]

    status = status_of(error)
    info = unpacked(status, error_details_pb2.ErrorInfo())
    assert info and printed["reason"] == f"ERROR_REASON_{info.reason}"
    assert printed["message"] == status.message
    assert printed.get("metadata", {}) == dict(info.metadata)
    log = unpacked(status, error_details_pb2.DebugInfo())
    assert printed.get("logLines", []) == (list(log.stack_entries) if log else [])


@pytest.mark.parametrize("phase", Phase)
def test_the_phase_of_a_failure_is_one_of_the_proto(phase: Phase) -> None:
    failure = StartFailed("tiny", phase, "no")

    assert int(pb.StartPhase.Value(failure.metadata["phase"])) == phase


def test_a_ready_model_is_shown_with_its_address() -> None:
    model = replies.model(view(READY))

    assert (model.container_name, model.port) == ("tgi-tiny", 8080)
    assert not model.HasField("last_error")
    assert not model.HasField("retry_time")


def test_a_change_is_a_model_or_its_removal_or_the_end_of_the_snapshot() -> None:
    event = replies.change(Change(7, view(READY)))

    assert event.revision == 7
    assert (event.model.id, event.model.state) == ("tiny", pb.MODEL_STATE_READY)
    assert (event.model.container_name, event.model.port) == ("tgi-tiny", 8080)
    assert replies.change(Change(8, Removed("tiny"))) == pb.WatchModelsResponse(
        revision=8, removed_model_id="tiny"
    )
    assert replies.change(Change(8, None)) == pb.WatchModelsResponse(
        revision=8, snapshot_done=pb.SnapshotDone()
    )


@pytest.mark.parametrize("pinned", [False, True])
def test_a_pinned_model_is_shown_as_pinned(pinned: bool) -> None:
    assert replies.model(view(pinned=pinned)).pinned is pinned


@pytest.mark.parametrize(
    ("idle", "seconds"),
    [
        pytest.param(60.0, 60, id="a minute"),
        pytest.param(math.inf, None, id="never"),
        pytest.param(1e300, None, id="beyond all clocks"),
    ],
)
async def test_an_unused_model_is_shown_with_the_end_of_its_idle_timeout(
    idle: float, seconds: int | None
) -> None:
    model = make_model(timing=timing(idle=idle))
    assert not replies.model(model.view()).HasField("expire_time")
    await model.start()

    seen = model.view()
    shown = replies.model(seen)
    await model.stop()

    assert shown.HasField("expire_time") is (seconds is not None)
    if seconds is not None:
        left = shown.expire_time.ToMilliseconds() / 1000 - seen.seen
        assert seconds - 5 < left <= seconds


async def test_a_plan_has_the_claim_of_a_start() -> None:
    admission, runtime = machine(100 * 2**20), FakeRuntime()
    first, second = (
        make_model(spec(name), runtime, FakeEngine(), admission=admission)
        for name in ("first", "second")
    )
    figures = pb.StartPlan(required_memory_bytes=2**26, capacity_memory_bytes=100 * 2**20)
    empty, taken = 100 * 2**20, 36 * 2**20

    def expected(free: int, **facts: Any) -> pb.StartPlan:
        shown = pb.StartPlan(free_memory_bytes=free, **facts)
        shown.MergeFrom(figures)
        return shown

    assert plan(second) == expected(empty)
    async with first.lease():
        shown = plan(first)
        assert 0 <= shown.usual_duration.ToMilliseconds() < 5000
        shown.ClearField("usual_duration")
        assert shown == expected(taken)
        assert plan(second) == expected(taken, must_wait=True)
    assert plan(second) == expected(taken, evicted_model_ids=["first"])
    await first.stop()


async def test_a_plan_has_the_claim_on_each_gpu() -> None:
    engine, runtime = FakeEngine(), FakeRuntime()
    engine.gpu_needs = {"first": GpuNeed(30), "second": GpuNeed(40)}
    admission = machine(10**9, [Gpu("a", 60, 50), Gpu("b", 60, 60)])
    first, second = (
        make_model(spec(name), runtime, engine, admission=admission) for name in ("first", "second")
    )
    await first.start()

    planned = plan(second)
    shown = replies.model(first.view())
    await first.stop()

    assert planned.required_gpu_memory_bytes == 40
    assert [*planned.gpus] == [
        pb.GpuPlan(gpu_id="a", free_memory_bytes=20, capacity_memory_bytes=50),
        pb.GpuPlan(
            gpu_id="b", required_memory_bytes=40, free_memory_bytes=60, capacity_memory_bytes=60
        ),
    ]
    assert (shown.gpu_memory_bytes, [*shown.gpu_ids]) == (30, ["a"])
    assert replies.model(first.view()).gpu_memory_bytes == 0


def test_a_plan_for_a_model_that_can_never_fit_is_refused() -> None:
    with pytest.raises(InsufficientMemory):
        make_model(admission=machine(2**20)).quote()


def test_a_chunk_is_an_event() -> None:
    assert replies.chunk(Chunk(" a b", 2)) == pb.GenerateStreamResponse(
        chunk=pb.GenerateChunk(text=" a b", token_count=2)
    )


@pytest.mark.parametrize("reason", FinishReason)
def test_a_summary_has_the_counts_and_the_times(reason: FinishReason) -> None:
    outcome = Outcome(Finish(reason, 3, 5), 1.5, 0, 2.000001, (Resumption(2, "it died"),))
    summary = replies.summary("tiny", outcome)

    assert pb.FinishReason.Name(summary.finish_reason) == f"FINISH_REASON_{reason.name}"
    assert (summary.prompt_token_count, summary.completion_token_count) == (3, 5)
    assert summary.start_duration.ToMilliseconds() == 1500
    assert summary.HasField("first_token_duration")
    assert summary.first_token_duration.ToNanoseconds() == 0
    assert summary.total_duration.ToNanoseconds() == 2_000_001_000
    assert summary.model_id == "tiny"
    assert list(summary.resumptions) == [pb.GenerateResumption(sent_token_count=2, cause="it died")]
    assert replies.resumption(outcome.resumptions[0]).resumption == summary.resumptions[0]


def test_a_text_that_was_not_streamed_has_no_first_token() -> None:
    outcome = Outcome(Finish(FinishReason.STOP, 3, 5), 1.5, None, 2, ())

    assert not replies.summary("tiny", outcome).HasField("first_token_duration")


def test_the_reasons_are_those_of_the_proto() -> None:
    named = {f"FINISH_REASON_{reason.name}": int(reason) for reason in FinishReason}

    assert named | {"FINISH_REASON_UNSPECIFIED": 0} == dict(pb.FinishReason.items())
