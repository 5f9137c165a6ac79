"""All errors that callers see, without wire codes.

ServiceError
 ├─ ModelNotFound          (ModelRemoved)
 ├─ NotRunning             ShuttingDown          CatalogInvalid
 ├─ InvalidParameter       (InvalidRequest)
 ├─ PathNotOffered         RequestTooLarge       MethodNotOffered
 ├─ PromptTooLong          EngineOverloaded      DeadlinePassed
 ├─ GenerationTimeout      (SilenceTimeout)
 ├─ StartFailed            (EngineExited, StartFault)
 ├─ ModelUnusable          (StillUnusable)
 ├─ StartStalled           StartBackingOff       RuntimeUnavailable
 ├─ EngineDied             (EngineHung)
 ├─ EngineFailed           (EngineLost, ResumptionFailed)
 ├─ InsufficientMemory     (InsufficientGpus)
 ├─ QueueFull              (QueueTimeout)
 ├─ DeadlineTooShort       NotRead
 ├─ TooManyCalls           (TooLargePrompts)
 └─ ModelStopped           StopFailed

Each class makes its sentence from facts, so an error reads the same wherever it is raised. A class
in brackets has the reason of the class before it. `reason` is the name of an `ErrorReason` in
protos/inference_service/v1/errors.proto, whose `error_rule` has the gRPC code and the HTTP status.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Protocol

from inference_service.printable import printable, without_passwords

Facts = Mapping[str, object]
_LONGEST = 4000  # characters of a text; a caller can send megabytes, and each has to be looked at

Log = Iterable[str]  # the last lines of an engine's log, oldest first


class Phase(Protocol):
    """A phase of a start: its name is that of a `StartPhase`, and its text is for people."""

    @property
    def name(self) -> str: ...


class ServiceError(Exception):
    """An error that callers see; the class itself is a fault of this service.

    The message is one sentence that a person can act on, in which control characters of callers and
    engines stand as escapes; `metadata` holds its changing parts as they are, for programs.
    `retry_after` is in seconds; `violations` has a sentence for each field of the request at fault,
    of which `field` is the first.
    """

    reason: ClassVar[str] = "INTERNAL"

    def __init__(
        self,
        message: str = "the service has a fault; its log has the details",
        *,
        metadata: Facts | None = None,
        retry_after: float | None = None,
        field: str | None = None,
        violations: Mapping[str, str] | None = None,
        log: Log = (),
    ) -> None:
        self.message = _shown(message)
        super().__init__(self.message)
        self.metadata = {
            key: without_passwords(str(value)) for key, value in (metadata or {}).items()
        }
        self.retry_after = retry_after
        given = {field: self.message} if field is not None else violations or {}
        self.violations = {name: _shown(sentence) for name, sentence in given.items()}
        self.log = tuple(printable(line[:_LONGEST]) for line in log)

    @property
    def field(self) -> str | None:
        """The first field of the request that is at fault."""
        return next(iter(self.violations), None)


class ModelNotFound(ServiceError):
    """A model that the catalog does not have; `nearest` is the most similar id."""

    reason = "MODEL_NOT_FOUND"

    def __init__(self, model_id: str, nearest: str | None, known: Iterable[str] = ()) -> None:
        hint = f"did you mean {nearest!r}?" if nearest else f"known are {', '.join(known)}"
        metadata = {"model_id": model_id} | ({"nearest": nearest} if nearest else {})
        super().__init__(f"no model {model_id!r}; {hint}", metadata=metadata)


class ModelRemoved(ModelNotFound):
    """A model that a reload has removed from the catalog."""

    def __init__(self, model_id: str) -> None:
        message = f"{model_id} was removed from the catalog"
        ServiceError.__init__(self, message, metadata={"model_id": model_id})


class NotRunning(ServiceError):
    """A model that does not run, and so has nothing to stop and no log."""

    reason = "CONTAINER_NOT_RUNNING"

    def __init__(self, model_id: str) -> None:
        super().__init__(f"{model_id} is not running", metadata={"model_id": model_id})


class InvalidParameter(ServiceError):
    """Fields of a request that are missing or out of bounds; `mistakes` is by field."""

    reason = "INVALID_PARAMETER"

    def __init__(self, mistakes: Mapping[str, str], model_id: str | None = None) -> None:
        violations = {field: f"{field} {mistake}" for field, mistake in mistakes.items()}
        metadata = {"model_id": model_id} if model_id else {}
        super().__init__("; ".join(violations.values()), metadata=metadata, violations=violations)


class InvalidRequest(InvalidParameter):
    """A request that is refused as a whole: it is unreadable, or its engine refuses it."""

    def __init__(self, message: str) -> None:
        ServiceError.__init__(self, message)


class PathNotOffered(ServiceError):
    """A path that the engine of this model does not have; `others` are models that have it."""

    reason = "PATH_NOT_OFFERED"

    def __init__(
        self, model_id: str, path: str, others: Sequence[str], offered: Sequence[str]
    ) -> None:
        message = f"no model offers {path[:80]}; {model_id} offers {', '.join(offered)}"
        if others:
            message = f"{model_id} does not offer {path}; models that do: {', '.join(others)}"
        super().__init__(message, metadata={"model_id": model_id, "path": path[:80]}, field="path")


class MethodNotOffered(ServiceError):
    """A method of gRPC that this service does not have."""

    reason = "METHOD_NOT_OFFERED"

    def __init__(self, path: str) -> None:
        super().__init__(
            f"there is no method {path[:80]}; reflection lists those that there are",
            metadata={"path": path[:80]},
        )


class RequestTooLarge(ServiceError):
    """A request that is larger than what is read, or has more values."""

    reason = "REQUEST_TOO_LARGE"


class PromptTooLong(ServiceError):
    """A prompt that alone fills the context; `detail` is the engine's own figure."""

    reason = "PROMPT_TOO_LONG"

    def __init__(self, model_id: str, context_length: int, detail: str) -> None:
        message = f"the prompt does not fit the context of {model_id}; shorten it ({detail})"
        super().__init__(message, metadata={"context_length": context_length}, field="prompt")


class StartFailed(ServiceError):
    """A start that ended before the model was ready."""

    reason = "START_FAILED"

    def __init__(self, model_id: str, phase: Phase, cause: str) -> None:
        message = f"{model_id} could not be started ({phase}): {cause}"
        super().__init__(message, metadata={"model_id": model_id, "phase": _named(phase)})


class EngineExited(StartFailed):
    """An engine that ended before it was ready; see EngineDied for `end` and `facts`."""

    def __init__(
        self, model_id: str, phase: Phase, end: str, facts: Facts, cause: str, log: Log
    ) -> None:
        metadata = {"model_id": model_id, "phase": _named(phase), **facts}
        message = f"{model_id} {end} ({phase}){_because(cause)}"
        ServiceError.__init__(self, message, metadata=metadata, log=log)


class StartFault(StartFailed):
    """A start that ended by a fault of this service."""

    def __init__(self, model_id: str, error: Exception) -> None:
        message = f"{model_id} failed by a fault of the service: {error!r}"
        ServiceError.__init__(self, message, metadata={"model_id": model_id})


class ModelUnusable(ServiceError):
    """A start that failed for a cause that no retry mends; `facts` are those of an exit."""

    reason = "MODEL_UNUSABLE"

    def __init__(
        self, model_id: str, phase: Phase, cause: str, facts: Facts | None = None, log: Log = ()
    ) -> None:
        message = f"{model_id} cannot be started ({phase}): {cause}"
        metadata = {"model_id": model_id, "phase": _named(phase), **(facts or {})}
        super().__init__(message, metadata=metadata, log=log)


class StillUnusable(ModelUnusable):
    """The same, for a call that comes in the back-off after it, of `wait` seconds."""

    def __init__(self, last: ModelUnusable, wait: float) -> None:
        message = f"{last.message} (the start is not repeated for {math.ceil(wait)} s)"
        ServiceError.__init__(self, message, metadata=last.metadata, log=last.log)


class StartStalled(ServiceError):
    """A start that was given up, because nothing moved for too long."""

    reason = "START_STALLED"

    def __init__(
        self, model_id: str, phase: Phase, seconds: float, log: Sequence[str] = ()
    ) -> None:
        last = f"; its last line was: {log[-1]}" if log else ""
        message = f"{model_id} was given up ({phase}): nothing moved for {seconds:g} s{last}"
        super().__init__(message, metadata={"model_id": model_id, "phase": _named(phase)}, log=log)


class StartBackingOff(ServiceError):
    """A start that is refused until `wait` seconds have passed, because of the last failure."""

    reason = "START_BACKING_OFF"

    def __init__(self, model_id: str, wait: float, last: ServiceError) -> None:
        seconds = math.ceil(wait)
        message = f"{model_id} is not started again before {seconds} s have passed: {last.message}"
        super().__init__(message, metadata={"model_id": model_id}, retry_after=wait, log=last.log)


class EngineDied(ServiceError):
    """An engine that ended by itself while the model was ready.

    `end` completes the sentence `the engine of X ...`, `facts` are those of the exit, and `wait` is
    the back-off before the next start, in seconds.
    """

    reason = "ENGINE_DIED"

    def __init__(
        self, model_id: str, end: str, facts: Facts, cause: str, wait: float, log: Log
    ) -> None:
        metadata = {"model_id": model_id, **facts}
        message = f"the engine of {model_id} {end}{_because(cause)}"
        super().__init__(message, metadata=metadata, retry_after=wait, log=log)


class EngineHung(EngineDied):
    """An engine that ran and answered nothing for too long."""

    def __init__(self, model_id: str, seconds: float, wait: float, log: Log) -> None:
        end = f"hung: it ran but answered nothing for {seconds:.0f} s"
        super().__init__(model_id, end, {}, "", wait, log)


class RuntimeUnavailable(ServiceError):
    """A Docker daemon that does not answer; with an address, one that never has."""

    reason = "RUNTIME_UNAVAILABLE"
    advice: ClassVar[str] = "start it, or use --runtime process"

    def __init__(self, cause: object, address: str = "") -> None:
        message = f"no Docker daemon answers at {address} ({cause})"
        if not address:
            advice = "start it, or run the service with --runtime process"
            message = f"Docker does not answer ({cause}); {advice}"
        super().__init__(message, metadata={"cause": cause})


class ContextUnusable(RuntimeUnavailable):
    """A context of the `docker` command that was chosen and cannot be used."""

    advice = "`docker context ls` shows those that exist; choose one, or use --runtime process"

    def __init__(self, name: str, chosen_by: str, why: str) -> None:
        message = f"the Docker context {name}, chosen by {chosen_by}, {why}"
        ServiceError.__init__(self, message, metadata={"cause": why})


class NetworkUnusable(RuntimeUnavailable):
    """A network of Docker that engines were to join and cannot; `why` says what to change."""

    def __init__(self, why: str) -> None:
        ServiceError.__init__(self, why, metadata={"cause": why})


class InsufficientMemory(ServiceError):
    """A model that no eviction makes room for; `need` and `capacity` are in bytes.

    `limit` is what bounds the capacity, if that is not the setting or the machine.
    """

    reason = "INSUFFICIENT_MEMORY"

    def __init__(self, model_id: str, need: int, capacity: int, limit: str = "") -> None:
        why = f", nine tenths of {limit}" if limit else ""
        message = (
            f"{model_id} needs {need / 1e9:.1f} GB, and models can have {capacity / 1e9:.1f} GB in "
            f"all on this machine{why}; use a smaller model, or raise "
            f"{'that limit' if limit else 'the setting `memory`'}"
        )
        facts = {"model_id": model_id, "required_bytes": need, "capacity_bytes": capacity}
        super().__init__(message, metadata=facts)


class InsufficientGpus(InsufficientMemory):
    """A model for which no GPU, or no usable number of GPUs, is enough.

    `need` is in bytes, or None where the catalog does not say; `limits` are those of each GPU.
    """

    def __init__(
        self, model_id: str, need: int | None, count: int | None, limits: Sequence[int]
    ) -> None:
        wanted = [f"{count} GPUs"] if count else []
        wanted += [f"{need / 1e9:.1f} GB of GPU memory"] if need is not None else []
        have = " and ".join(f"{limit / 1e9:.1f} GB" for limit in limits)
        message = (
            f"{model_id} needs {' with '.join(wanted)}, and models can have {have} of the GPUs of "
            "this machine; use a smaller model, or change `gpu_memory` in the catalog or in the "
            "settings"
        )
        facts = {"required_gpu_bytes": need or 0, "capacity_gpu_bytes": sum(limits)}
        ServiceError.__init__(self, message, metadata={"model_id": model_id, **facts})


class ModelStopped(ServiceError):
    """A model that was stopped while the caller waited for or used the model."""

    reason = "MODEL_STOPPED"

    def __init__(self, model_id: str) -> None:
        message = f"{model_id} was stopped meanwhile; send the request again if it should run"
        super().__init__(message, metadata={"model_id": model_id})


class ShuttingDown(ServiceError):
    """A service that takes no more calls."""

    reason = "SHUTTING_DOWN"

    def __init__(self) -> None:
        super().__init__("the service is shutting down; retry once it is back")


class QueueFull(ServiceError):
    """A queue in which as many requests wait as may.

    `gives_way`: the request was in it, and its caller had more in it than the one who came.
    """

    reason = "QUEUE_FULL"

    def __init__(self, model_id: str, size: int, *, gives_way: bool = False) -> None:
        message = f"{size} requests wait for {model_id} already; retry in a few seconds"
        if gives_way:
            message = (
                f"{size} requests wait for {model_id}, and this one made room for another caller, "
                "because its own has most of them; retry in a few seconds, with fewer at once"
            )
        if not size:
            message = (
                f"{model_id} works on as many requests as it can, and none may wait (setting "
                "`queue_size`); retry in a few seconds"
            )
        metadata = {"model_id": model_id, "queue_size": size}
        super().__init__(message, metadata=metadata, retry_after=5)


class QueueTimeout(QueueFull):
    """A request that has waited for a slot for as long as it may, in seconds."""

    def __init__(self, model_id: str, seconds: float) -> None:
        message = (
            f"the request has waited {seconds:g} s for {model_id}, which is the longest (setting "
            "`queue_timeout`); retry later, or with fewer requests at once"
        )
        metadata = {"model_id": model_id, "waited_seconds": f"{seconds:g}"}
        ServiceError.__init__(self, message, metadata=metadata, retry_after=5)


class NotRead(ServiceError):
    """A stream whose reader has read nothing for so long, in seconds; `others` wait for it."""

    reason = "STREAM_NOT_READ"

    def __init__(self, seconds: float, *, others: bool) -> None:
        why = ", while others wait for the model" if others else " (setting `write_timeout`)"
        super().__init__(
            f"the stream was ended, because its reader did not read for {seconds:.0f} s{why}; read "
            "streams as they come, and ask again",
            metadata={"seconds": f"{seconds:.0f}"},
        )


class TooManyCalls(ServiceError):
    """A call beyond those that one caller may have open at once; `most` is that number now."""

    reason = "TOO_MANY_CALLS"

    def __init__(self, most: int) -> None:
        super().__init__(
            f"{most} calls of this address are open already, which is its share; retry when some "
            "of them have ended, or make fewer at once",
            metadata={"open_call_count": most},
            retry_after=1,
        )


class TooLargePrompts(TooManyCalls):
    """A prompt beyond those that one caller may have held at once; `most` are characters now."""

    def __init__(self, most: int) -> None:
        ServiceError.__init__(
            self,
            f"prompts of {most} characters of this address are not answered yet, which is its "
            "share; retry when some of them are, or send fewer at once",
            metadata={"held_character_count": most},
            retry_after=1,
        )


class DeadlineTooShort(ServiceError):
    """A deadline before the model is ready for the request; times are in seconds."""

    reason = "DEADLINE_TOO_SHORT"

    def __init__(self, model_id: str, left: float, wait: float, cause: str) -> None:
        message = (
            f"{model_id} is not ready for this request before its deadline, which is in "
            f"{left:.1f} s: that takes about {wait:.1f} s, since {cause}; retry then, or set a "
            "longer deadline"
        )
        metadata = {"model_id": model_id, "expected_seconds": f"{wait:.1f}"}
        super().__init__(message, metadata=metadata, retry_after=wait)


class CatalogInvalid(ServiceError):
    """A file of the catalog that cannot be used, with a sentence for each mistake."""

    reason = "CATALOG_INVALID"

    def __init__(self, *mistakes: str) -> None:
        super().__init__("; ".join(mistakes))
        self.mistakes = tuple(map(printable, mistakes))


class EngineOverloaded(ServiceError):
    """An engine that takes no more requests now."""

    reason = "ENGINE_OVERLOADED"

    def __init__(self, model_id: str) -> None:
        super().__init__(f"{model_id} is overloaded; retry in a second", retry_after=1)


class EngineFailed(ServiceError):
    """An engine that failed on this request; `what` completes the sentence `the engine ...`."""

    reason = "ENGINE_FAILED"

    def __init__(self, what: str) -> None:
        super().__init__(f"the engine {what}")


class EngineLost(EngineFailed):
    """An engine that broke off, as one does that dies: another may well answer."""


class ResumptionFailed(EngineFailed):
    """A text that lost its engine after its first token, and found no other."""

    def __init__(self, model_id: str, lost: str, error: ServiceError) -> None:
        message = f"{lost}; {model_id} could not go on with the text: {error.message}"
        wait, facts = error.retry_after, {"model_id": model_id}
        ServiceError.__init__(self, message, metadata=facts, retry_after=wait, log=error.log)


class DeadlinePassed(ServiceError):
    """A call whose deadline has come; `seconds` is the time that it had."""

    reason = "DEADLINE_PASSED"

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"the deadline of the call has passed, after {seconds:.1f} s; set a later one"
        )


class GenerationTimeout(ServiceError):
    """A text that was not made in time."""

    reason = "GENERATION_TIMEOUT"

    def __init__(self, model_id: str, seconds: float) -> None:
        advice = "ask for fewer tokens, or stream them"
        self._end(model_id, seconds, f"{model_id} did not finish within {seconds:g} s; {advice}")

    def _end(self, model_id: str, seconds: float, message: str) -> None:
        metadata = {"model_id": model_id, "timeout_seconds": f"{seconds:g}"}
        super().__init__(message, metadata=metadata)


class SilenceTimeout(GenerationTimeout):
    """The next piece of a stream, or of an answer that is forwarded, that was not made in time."""

    def __init__(self, model_id: str, seconds: float) -> None:
        advice = "send a shorter prompt, or raise the limit"
        self._end(model_id, seconds, f"{model_id} made nothing for {seconds:g} s; {advice}")


class StopFailed(ServiceError):
    """A container that could not be removed yet."""

    reason = "STOP_FAILED"

    def __init__(self, model_id: str, name: str, cause: object) -> None:
        advice = f"that is tried again, and `docker rm -f {name}` does it too"
        message = f"the container {name} could not be removed: {cause}; {advice}"
        super().__init__(message, metadata={"model_id": model_id})


class LaunchError(Exception):
    """The reason for which a runtime could not run an engine; callers see StartFailed."""


class Unlaunchable(LaunchError):
    """A reason that no retry mends; callers see ModelUnusable."""


def _named(phase: Phase) -> str:
    return f"START_PHASE_{phase.name}"


def _shown(text: str) -> str:
    return printable(without_passwords(text[: 2 * _LONGEST])[:_LONGEST])


def _because(cause: str) -> str:
    return f": {cause}" if cause else ""
