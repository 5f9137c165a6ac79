"""The errors of a model's life, each with the facts that its caller needs."""

from __future__ import annotations

from collections.abc import Sequence

from inference_service.capacity.claims import GpuNeed
from inference_service.errors import (
    DeadlineTooShort,
    EngineFailed,
    EngineLost,
    GenerationTimeout,
    InsufficientMemory,
    ModelNotFound,
    ModelStopped,
    NotRunning,
    QueueFull,
    ServiceError,
    ShuttingDown,
    StartBackingOff,
    StartFailed,
    StartStalled,
)
from inference_service.runtimes.base import Exit


def could_not_start(model_id: str, phase: str, cause: str) -> StartFailed:
    """The runtime could not run the engine."""
    return StartFailed(
        f"{model_id} could not be started ({phase}): {cause}",
        metadata={"model_id": model_id, "phase": phase},
    )


def died(model_id: str, phase: str, exit: Exit, cause: str, log: tuple[str, ...]) -> StartFailed:
    """The engine ended by itself."""
    return StartFailed(
        f"{model_id} {exit} ({phase})" + (f": {cause}" if cause else ""),
        metadata={
            "model_id": model_id,
            "phase": phase,
            "exit_code": exit.code,
            "oom_killed": str(exit.oom_killed).lower(),
        },
        log=log,
    )


def hung(model_id: str, seconds: float, log: tuple[str, ...]) -> StartFailed:
    """The engine runs, and answers nothing."""
    return StartFailed(
        f"{model_id} hung: its engine ran but answered nothing for {seconds:.0f} s",
        metadata={"model_id": model_id, "phase": "was serving"},
        log=log,
    )


def engine_gone(model_id: str) -> EngineLost:
    """The engine ended while the request waited for its turn."""
    return EngineLost(
        f"the engine of {model_id} ended before this request had its turn; retry",
        metadata={"model_id": model_id},
    )


def not_resumed(model_id: str, lost: str, cause: ServiceError) -> EngineFailed:
    """The engine was lost in the middle of a text, and no other could go on."""
    return EngineFailed(
        f"{lost}; {model_id} could not go on with the text: {cause.message}",
        metadata={"model_id": model_id},
        retry_after=cause.retry_after,
        log=cause.log,
    )


def generation_timeout(model_id: str, seconds: float) -> GenerationTimeout:
    """The text, or its next piece, was not done in time."""
    return GenerationTimeout(
        f"{model_id} did not finish within {seconds:g} s; ask for fewer tokens, or stream them",
        metadata={"model_id": model_id, "timeout_seconds": f"{seconds:g}"},
    )


def stalled(model_id: str, phase: str, seconds: float, log: tuple[str, ...]) -> StartStalled:
    """Nothing moved for so long."""
    last = f"; its last line was: {log[-1]}" if log else ""
    return StartStalled(
        f"{model_id} was given up ({phase}): nothing moved for {seconds:g} s{last}",
        metadata={"model_id": model_id, "phase": phase},
        log=log,
    )


def never_fits(model_id: str, need: int, capacity: int) -> InsufficientMemory:
    """No eviction would be enough."""
    return InsufficientMemory(
        f"{model_id} needs {need / 1e9:.1f} GB, and models can have {capacity / 1e9:.1f} GB in all "
        "on this machine; use a smaller model, or raise the setting `memory`",
        metadata={"model_id": model_id, "required_bytes": need, "capacity_bytes": capacity},
    )


def never_fits_gpus(model_id: str, need: GpuNeed, limits: Sequence[int]) -> InsufficientMemory:
    """No GPU, or no number of GPUs that the engine can use, is enough."""
    wanted = [f"{need.count} GPUs"] if need.count else []
    if need.memory_bytes is not None:
        wanted.append(f"{need.memory_bytes / 1e9:.1f} GB of GPU memory")
    have = " and ".join(f"{limit / 1e9:.1f} GB" for limit in limits)
    return InsufficientMemory(
        f"{model_id} needs {' with '.join(wanted)}, and models can have {have} of the GPUs of this "
        "machine; use a smaller model, or change `gpu_memory` in the catalog or in the settings",
        metadata={
            "model_id": model_id,
            "required_gpu_bytes": need.memory_bytes or 0,
            "capacity_gpu_bytes": sum(limits),
        },
    )


def queue_full(model_id: str, size: int) -> QueueFull:
    """Nobody else may wait."""
    return QueueFull(
        f"{size} requests wait for {model_id} already; retry in a few seconds",
        metadata={"model_id": model_id, "queue_size": size},
        retry_after=5,
    )


def deadline_too_short(model_id: str, left: float, wait: float, why: str) -> DeadlineTooShort:
    """The caller would have given up before its turn."""
    return DeadlineTooShort(
        f"{model_id} is not ready for this request before its deadline, which is in {left:.1f} s: "
        f"that takes about {wait:.1f} s, since {why}; retry then, or set a longer deadline",
        metadata={"model_id": model_id, "expected_seconds": f"{wait:.1f}"},
        retry_after=wait,
    )


def backing_off(model_id: str, wait: float, last: ServiceError) -> StartBackingOff:
    """The last attempt failed, and the next is not due for `wait` seconds."""
    return StartBackingOff(
        f"{model_id} is not started again before {wait:.0f} s have passed, since: {last.message}",
        metadata={"model_id": model_id},
        retry_after=wait,
        log=last.log,
    )


def fault(model_id: str, error: Exception) -> StartFailed:
    """This service has a bug."""
    return StartFailed(
        f"{model_id} failed by a fault of the service: {error!r}", metadata={"model_id": model_id}
    )


def not_running(model_id: str) -> NotRunning:
    """There is nothing to stop."""
    return NotRunning(f"{model_id} is not running", metadata={"model_id": model_id})


def withdrawn(model_id: str) -> ModelNotFound:
    """The catalog does not have it any more."""
    return ModelNotFound(
        f"{model_id} was removed from the catalog", metadata={"model_id": model_id}
    )


def stopped(model_id: str) -> ModelStopped:
    """Somebody stopped it under its callers."""
    return ModelStopped(
        f"{model_id} was stopped meanwhile; send the request again if it should run",
        metadata={"model_id": model_id},
    )


def shutting_down() -> ShuttingDown:
    """The service ends."""
    return ShuttingDown("the service is shutting down; retry once it is back")
