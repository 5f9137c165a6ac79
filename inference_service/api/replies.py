"""From the objects of the service to the messages of the proto."""

from __future__ import annotations

import math

from google.protobuf import duration_pb2, timestamp_pb2

from inference_service.api.statuses import log_of, message_of
from inference_service.capacity.claims import MEMORY, Quote
from inference_service.engines.base import Chunk
from inference_service.errors import ServiceError
from inference_service.lifecycle import Phase, Progress, State, Status
from inference_service.printable import printable
from inference_service.serving.generation import Outcome, Resumption
from inference_service.serving.history import Change
from inference_service.serving.models import Reload, Shown
from inference_service.serving.view import InstanceView, Removed, View
from inference_service.v1 import errors_pb2, model_error_pb2
from inference_service.v1 import model_service_pb2 as pb

_STATES = {
    State.STOPPED: pb.MODEL_STATE_STOPPED,
    State.STARTING: pb.MODEL_STATE_STARTING,
    State.READY: pb.MODEL_STATE_READY,
    State.STOPPING: pb.MODEL_STATE_STOPPING,
    State.FAILED: pb.MODEL_STATE_FAILED,
}

_LONGEST_SHOWN = 1e10  # seconds from now: some centuries, and Timestamp ends with the year 9999


def model(view: View) -> pb.Model:
    """Return the message of a view."""
    status = view.status
    message = pb.Model(
        id=view.id,
        name=view.id,
        hf_name=view.hf_name,
        aliases=view.aliases,
        paths=view.paths,
        running=status.state is State.READY,
        state=_STATES[status.state],
        engine=view.engine,
        runtime=view.runtime,
        placement=view.placement,
        context_length=view.context_length,
        memory_bytes=view.memory_bytes,
        container_name=status.container,
        port=status.port,
        active_request_count=view.active_count,
        queued_request_count=view.queued_count,
        pinned=view.pinned,
        gpu_memory_bytes=sum(view.gpus.values()),
        gpu_ids=view.gpus,
        instances=map(_instance, view.instances),
    )
    if (expires := view.expire_time) is not None and expires - view.seen < _LONGEST_SHOWN:
        message.expire_time.CopyFrom(_timestamp(expires))
    if status.since is not None:
        message.state_change_time.CopyFrom(_timestamp(status.since))
    if status.state is State.STARTING:
        message.start_progress.CopyFrom(_progress(status, view.seen))
    if status.failure is not None:
        message.last_error.CopyFrom(_error(status.failure))
    if status.retry_at is not None:
        message.retry_time.CopyFrom(_timestamp(status.retry_at))
    return message


def _error(failure: ServiceError) -> model_error_pb2.ModelError:
    return model_error_pb2.ModelError(
        reason=errors_pb2.ErrorReason.Value(f"ERROR_REASON_{failure.reason}"),
        message=message_of(failure),
        metadata=failure.metadata,
        log_lines=log_of(failure),
    )


def _instance(view: InstanceView) -> pb.Instance:
    return pb.Instance(
        name=view.name,
        address=view.url,
        state=_STATES[view.state],
        active_request_count=view.active_count,
        gpu_memory_bytes=sum(view.gpus.values()),
        gpu_ids=view.gpus,
    )


def status(status: Status, queue_position: int, now: float) -> pb.GenerateStreamResponse:
    """Return the event that reports a start, or the queue after it."""
    return pb.GenerateStreamResponse(status=waits(status, queue_position, now))


def waits(status: Status, queue_position: int, now: float) -> pb.GenerateStatus:
    """Return what a request waits for: a start, or the queue after it."""
    message = pb.GenerateStatus(model_state=_STATES[status.state], queue_position=queue_position)
    if status.state is State.STARTING:
        message.start_progress.CopyFrom(_progress(status, now))
    return message


def plan(quote: Quote, usual_start: float | None) -> pb.StartPlan:
    """Return the plan of a start, with its usual seconds."""
    gpus = [
        pb.GpuPlan(
            gpu_id=id,
            required_memory_bytes=quote.amounts[id],
            free_memory_bytes=quote.free[id],
            capacity_memory_bytes=capacity,
        )
        for id, capacity in quote.capacity.items()
        if id != MEMORY
    ]
    return pb.StartPlan(
        required_memory_bytes=quote.amounts.get(MEMORY, 0),
        free_memory_bytes=quote.free.get(MEMORY, 0),
        capacity_memory_bytes=quote.capacity.get(MEMORY, 0),
        evicted_model_ids=[key.model_id for key in quote.plan.evicted],
        must_wait=quote.plan.must_wait,
        required_gpu_memory_bytes=sum(gpu.required_memory_bytes for gpu in gpus),
        gpus=gpus,
        usual_duration=None if usual_start is None else _duration(usual_start),
    )


def change(change: Change[Shown | None]) -> pb.WatchModelsResponse:
    """Return the event of a change, or of the end of the snapshot."""
    match change.item:
        case None:
            done = pb.SnapshotDone()
            return pb.WatchModelsResponse(revision=change.revision, snapshot_done=done)
        case Removed(id):
            return pb.WatchModelsResponse(revision=change.revision, removed_model_id=id)
        case view:
            return pb.WatchModelsResponse(revision=change.revision, model=model(view))


def reload(reload: Reload) -> pb.ReloadCatalogResponse:
    """Return the changes of another catalog."""
    return pb.ReloadCatalogResponse(
        added_model_ids=reload.added,
        changed_model_ids=reload.changed,
        restarted_model_ids=reload.restarted,
        removed_model_ids=reload.removed,
    )


def chunk(chunk: Chunk) -> pb.GenerateStreamResponse:
    """Return the event that carries a piece of the text."""
    return pb.GenerateStreamResponse(
        chunk=pb.GenerateChunk(text=chunk.text, token_count=chunk.token_count)
    )


def resumption(resumption: Resumption) -> pb.GenerateStreamResponse:
    """Return the event that reports where a text goes on."""
    return pb.GenerateStreamResponse(resumption=_resumption(resumption))


def summary(model_id: str, outcome: Outcome) -> pb.GenerateSummary:
    """Return the summary of a text."""
    finish = outcome.finish
    first_token = outcome.first_token
    return pb.GenerateSummary(
        finish_reason=pb.FinishReason.ValueType(finish.reason),
        prompt_token_count=finish.prompt_token_count,
        completion_token_count=finish.completion_token_count,
        start_duration=_duration(outcome.start),
        first_token_duration=None if first_token is None else _duration(first_token),
        total_duration=_duration(outcome.total),
        model_id=model_id,
        resumptions=map(_resumption, outcome.resumptions),
    )


def _resumption(resumption: Resumption) -> pb.GenerateResumption:
    return pb.GenerateResumption(sent_token_count=resumption.token_count, cause=resumption.cause)


def _progress(status: Status, now: float) -> pb.StartProgress:
    known = status.progress or Progress(Phase.WAITING)
    elapsed = 0.0 if status.since is None else now - status.since  # STARTING began then
    message = pb.StartProgress(
        phase=pb.StartPhase.ValueType(known.phase),
        completed_count=known.completed,
        total_count=known.total,
        unit=known.unit,
        fraction=known.fraction,
        elapsed_duration=_duration(elapsed),
        message=printable(known.message),
        start_fraction=status.fraction,
        queue_position=known.queue_position,
    )
    if status.remaining is not None:
        message.remaining_duration.CopyFrom(_duration(status.remaining))
    return message


def _duration(seconds: float) -> duration_pb2.Duration:
    nanos = max(0, round(seconds * 1e9))
    return duration_pb2.Duration(seconds=nanos // 10**9, nanos=nanos % 10**9)


def _timestamp(seconds: float) -> timestamp_pb2.Timestamp:
    whole = math.floor(seconds)
    return timestamp_pb2.Timestamp(seconds=whole, nanos=int((seconds - whole) * 1e9))
