"""What a request waits for, in words, for the comments of a stream."""

from inference_service.v1 import model_service_pb2 as pb


def words(status: pb.GenerateStatus) -> str:
    """Say what a request waits for, such as `starting, loading weights, 40 %`."""
    if status.queue_position:
        return f"position {status.queue_position} in the queue"
    state = _name(pb.ModelState, status.model_state, "MODEL_STATE_")
    if not status.HasField("start_progress"):
        return state
    progress = status.start_progress
    parts = [state, _name(pb.StartPhase, progress.phase, "START_PHASE_")]
    if progress.HasField("fraction"):
        parts.append(f"{progress.fraction:.0%}")
    return ", ".join(parts)


def _name(enum: object, value: int, prefix: str) -> str:
    name: str = enum.Name(value)  # type: ignore[attr-defined]
    return name.removeprefix(prefix).lower().replace("_", " ")
