"""Between the messages of the proto and the objects of the service. Checks requests on the way."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import duration_pb2, timestamp_pb2

from inference_service.api.statuses import status_of
from inference_service.capacity.admission import Admission
from inference_service.catalog import ModelSpec
from inference_service.engines.base import Chunk, Prompt
from inference_service.errors import InvalidParameter
from inference_service.lifecycle import Phase, Progress, State, Status
from inference_service.runtimes.logs import KEPT_LINES
from inference_service.serving.generation import Order, Outcome, Seam
from inference_service.serving.history import Change
from inference_service.serving.model import Supervisor
from inference_service.serving.models import Reload, Told
from inference_service.v1 import model_service_pb2 as pb

_STATES = {
    State.STOPPED: pb.MODEL_STATE_STOPPED,
    State.STARTING: pb.MODEL_STATE_STARTING,
    State.READY: pb.MODEL_STATE_READY,
    State.STOPPING: pb.MODEL_STATE_STOPPING,
    State.FAILED: pb.MODEL_STATE_FAILED,
}

# What each field may be, in code, by the model's context length too, and in words.
_RULES: dict[str, tuple[Callable[[Any, int], bool], str]] = {
    "prompt": (lambda text, _: bool(text), "must not be empty"),
    "max_new_tokens": (
        lambda count, context: 1 <= count <= context,
        "must be from 1 to {context}, the context length of {model}",
    ),
    "temperature": (lambda value, _: 0 <= value <= 2, "must be from 0.0 to 2.0"),
    "top_p": (lambda value, _: 0 < value <= 1, "must be above 0.0 and at most 1.0"),
    "top_k": (
        lambda value, _: 1 <= value <= 1000,
        "must be from 1 to 1000; leave it out for no limit",
    ),
    "repetition_penalty": (lambda value, _: 0 < value <= 2, "must be above 0.0 and at most 2.0"),
    "seed": (lambda value, _: value >= 0, "must be from 0 to 2147483647"),
    "stop": (
        lambda stop, _: len(stop) <= 4 and all(stop),
        "must have at most 4 sequences, none of them empty",
    ),
}
_OPTIONAL = [name for name in _RULES if name not in ("prompt", "stop")]

_LONGEST_DRAIN = 3600.0
_LONGEST_SHOWN = 1e10  # seconds: some centuries, and Timestamp ends with the year 9999


Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class Limits:
    """What requests may take, in seconds."""

    generation: float = 60.0
    idle_timeout: float = 3600.0  # the longest that a request may ask for


def order(
    request: pb.GenerateRequest | pb.GenerateStreamRequest,
    context: Context,
    spec: ModelSpec,
    limits: Limits,
) -> Order:
    """The checked request, with what the call itself says. Raises InvalidParameter."""
    return Order(
        prompt(request, spec),
        limits.generation,
        idle_timeout(request, limits.idle_timeout),
        caller(context),
        deadline(context),
        resumes=isinstance(request, pb.GenerateStreamRequest) and request.resume,
    )


def prompt(request: pb.GenerateRequest | pb.GenerateStreamRequest, spec: ModelSpec) -> Prompt:
    """The checked request, with defaults. Raises InvalidParameter, which names every mistake."""
    given: dict[str, Any] = {"prompt": request.prompt, "stop": tuple(request.stop)}
    for field in _OPTIONAL:
        if request.HasField(field):  # type: ignore[arg-type]
            given[field] = getattr(request, field)
    context = spec.context_length
    wrong = {
        field: rule.format(context=context, model=spec.id) + _given(request, field)
        for field, (fits, rule) in _RULES.items()
        if field in given and not fits(given[field], context)
    }
    if wrong:
        raise InvalidParameter(wrong, spec.id)
    return Prompt(given.pop("prompt"), **given)


def _given(request: pb.GenerateRequest | pb.GenerateStreamRequest, field: str) -> str:
    return "" if field in ("prompt", "stop") else f", not {getattr(request, field)}"


def caller(context: Context) -> str:
    """Who calls, so that turns can be fair: what a proxy says, else the key, else the peer's host.

    A key is looked at for this alone: whether it is a good one is for a proxy to say.
    """
    metadata = {key: str(value) for key, value in context.invocation_metadata() or ()}
    if caller := metadata.get("x-caller") or metadata.get("authorization"):
        return caller
    return str(context.peer()).rpartition(":")[0]


def deadline(context: Context) -> float:
    """When the caller gives up, on the loop's clock; never, if it has not said."""
    left = context.time_remaining()
    return math.inf if left is None else asyncio.get_running_loop().time() + left


def full_text(request: pb.GenerateRequest) -> bool:
    """Whether the answer begins with the prompt."""
    return request.return_full_text if request.HasField("return_full_text") else True


def drain(request: pb.StopModelRequest) -> float | None:
    """The drain that a stop asks for, in seconds; None for the default."""
    return _seconds(request, "drain_timeout", _LONGEST_DRAIN)


def idle_timeout(
    request: pb.GenerateRequest | pb.GenerateStreamRequest | pb.StartModelRequest, cap: float
) -> float | None:
    """How long the model shall stay unused after this request; None for the model's own time."""
    return _seconds(request, "idle_timeout", cap)


def tail_line_count(request: pb.StreamLogsRequest) -> int:
    """How many of the last lines a reader wants."""
    count = request.tail_line_count if request.HasField("tail_line_count") else 100
    if not 0 <= count <= KEPT_LINES:
        mistake = f"must be from 0 to {KEPT_LINES}, not {count}"
        raise InvalidParameter({"tail_line_count": mistake})
    return count


def _seconds(request: Any, field: str, most: float) -> float | None:
    if not request.HasField(field):
        return None
    given = getattr(request, field)
    seconds: float = given.seconds + given.nanos / 1e9
    if not 0 <= seconds <= most:
        raise InvalidParameter({field: f"must be from 0 to {most:g} s, not {seconds:g} s"})
    return seconds


def model(supervisor: Supervisor, now: float, status: Status | None = None) -> pb.Model:
    """The model as it is, or as it was with an earlier status."""
    spec, status = supervisor.spec, status or supervisor.now()
    launch = supervisor.launch
    message = pb.Model(
        id=spec.id,
        name=spec.id,
        hf_name=spec.hf_name,
        running=status.state is State.READY,
        state=_STATES[status.state],
        engine=supervisor.engine.name,
        runtime=supervisor.runtime.name,
        context_length=spec.context_length,
        memory_bytes=launch.memory_bytes,
        container_name=status.container,
        port=status.port,
        active_request_count=supervisor.lease_count,
        queued_request_count=supervisor.queued_count,
        pinned=spec.pinned,
        gpu_memory_bytes=sum(supervisor.gpu_claim.values()),
        gpu_ids=supervisor.gpu_claim,
    )
    if (idle_in := supervisor.idle_in) is not None and idle_in < _LONGEST_SHOWN:
        message.expire_time.CopyFrom(_timestamp(now + idle_in))
    if status.since is not None:
        message.state_change_time.CopyFrom(_timestamp(status.since))
    if status.state is State.STARTING:
        message.start_progress.CopyFrom(_progress(status, now))
    if status.failure is not None:
        message.last_error.CopyFrom(status_of(status.failure))
    if status.retry_at is not None:
        message.retry_time.CopyFrom(_timestamp(status.retry_at))
    return message


def status(status: Status, place: int, now: float) -> pb.GenerateStreamResponse:
    """The event that tells how far a start, or the queue after it, has come."""
    event = pb.GenerateStatus(model_state=_STATES[status.state], queue_position=place)
    if status.state is State.STARTING:
        event.start_progress.CopyFrom(_progress(status, now))
    return pb.GenerateStreamResponse(status=event)


def plan(admission: Admission, supervisor: Supervisor) -> pb.StartPlan:
    """What a start would take. Raises InsufficientMemory."""
    plan, usual = admission.plan(supervisor), supervisor.usual_start
    gpus = [
        pb.GpuPlan(
            gpu_id=gpu.id,
            required_memory_bytes=plan.claim.get(gpu.id, 0),
            free_memory_bytes=admission.free(gpu.id),
            capacity_memory_bytes=gpu.limit_bytes,
        )
        for gpu in admission.gpus
    ]
    return pb.StartPlan(
        required_memory_bytes=supervisor.memory_bytes,
        free_memory_bytes=admission.free_bytes,
        capacity_memory_bytes=admission.capacity_bytes,
        evicted_model_ids=plan.evicted,
        must_wait=plan.must_wait,
        required_gpu_memory_bytes=sum(gpu.required_memory_bytes for gpu in gpus),
        gpus=gpus,
        usual_duration=None if usual is None else _duration(usual),
    )


def change(change: Change[Told | None], now: float) -> pb.WatchModelsResponse:
    """What a watcher is told."""
    if change.item is None:
        return pb.WatchModelsResponse(revision=change.revision, snapshot_done=pb.SnapshotDone())
    supervisor, status = change.item
    if status is None:
        return pb.WatchModelsResponse(
            revision=change.revision, removed_model_id=supervisor.model_id
        )
    return pb.WatchModelsResponse(revision=change.revision, model=model(supervisor, now, status))


def reload(reload: Reload) -> pb.ReloadCatalogResponse:
    """What another catalog has changed."""
    return pb.ReloadCatalogResponse(
        added_model_ids=reload.added,
        changed_model_ids=reload.changed,
        restarted_model_ids=reload.restarted,
        removed_model_ids=reload.removed,
    )


def chunk(chunk: Chunk) -> pb.GenerateStreamResponse:
    """The event that carries a piece of the text."""
    return pb.GenerateStreamResponse(
        chunk=pb.GenerateChunk(text=chunk.text, token_count=chunk.token_count)
    )


def seam(seam: Seam) -> pb.GenerateStreamResponse:
    """The event that tells where a text goes on."""
    return pb.GenerateStreamResponse(resumption=_resumption(seam))


def _resumption(seam: Seam) -> pb.GenerateResumption:
    return pb.GenerateResumption(sent_token_count=seam.token_count, cause=seam.cause)


def summary(spec: ModelSpec, outcome: Outcome) -> pb.GenerateSummary:
    """How a generation went."""
    finish = outcome.finish
    first_token = outcome.first_token
    return pb.GenerateSummary(
        finish_reason=pb.FinishReason.ValueType(finish.reason),
        prompt_token_count=finish.prompt_token_count,
        completion_token_count=finish.completion_token_count,
        start_duration=_duration(outcome.start),
        first_token_duration=None if first_token is None else _duration(first_token),
        total_duration=_duration(outcome.total),
        model_id=spec.id,
        resumptions=map(_resumption, outcome.seams),
    )


def _progress(status: Status, now: float) -> pb.StartProgress:
    known = status.progress or Progress(Phase.WAITING)
    message = pb.StartProgress(
        phase=pb.StartPhase.ValueType(known.phase),
        completed_count=known.completed,
        total_count=known.total,
        unit=known.unit,
        fraction=known.fraction,
        elapsed_duration=_duration(now - status.started),
        message=known.message,
        start_fraction=status.fraction,
        queue_position=known.place,
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
