"""What can go wrong, without wire codes.

ServiceError
 ├─ ModelNotFound          NotRunning            ShuttingDown
 ├─ InvalidParameter       PromptTooLong
 ├─ StartFailed            StartStalled          StartBackingOff
 ├─ RuntimeUnavailable     ModelStopped          StopFailed
 ├─ EngineOverloaded       EngineFailed          GenerationTimeout
 ├─ InsufficientMemory     QueueFull             DeadlineTooShort
 └─ CatalogInvalid

`reason` is the name of an `ErrorReason` in protos/inference_service/v1/errors.proto, whose
`error_rule` says how it is shown on gRPC and REST; `statuses.py` looks it up. The message is
one sentence that a person can act on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar


class ServiceError(Exception):
    """An error that a caller is meant to see.

    `metadata` holds every changing part of the message; `retry_after` is in seconds; `field` is the
    request field at fault; `log` the last lines of an engine's log, oldest first.
    """

    reason: ClassVar[str] = "INTERNAL"

    def __init__(
        self,
        message: str,
        *,
        metadata: Mapping[str, object] | None = None,
        retry_after: float | None = None,
        field: str | None = None,
        log: Iterable[str] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = {key: str(value) for key, value in (metadata or {}).items()}
        self.retry_after = retry_after
        self.field = field
        self.log = tuple(log)


class ModelNotFound(ServiceError):
    """The catalog has no such model."""

    reason = "MODEL_NOT_FOUND"


class NotRunning(ServiceError):
    """The model to stop does not run."""

    reason = "CONTAINER_NOT_RUNNING"


class InvalidParameter(ServiceError):
    """A field of the request is missing or out of bounds."""

    reason = "INVALID_PARAMETER"


class PromptTooLong(ServiceError):
    """The prompt alone fills the model's context."""

    reason = "PROMPT_TOO_LONG"


class StartFailed(ServiceError):
    """The model could not be started, or its engine died."""

    reason = "START_FAILED"


class StartStalled(ServiceError):
    """A start in which nothing moved for too long was given up."""

    reason = "START_STALLED"


class StartBackingOff(ServiceError):
    """The next attempt to start the model is not due yet."""

    reason = "START_BACKING_OFF"


class RuntimeUnavailable(ServiceError):
    """Docker does not answer."""

    reason = "RUNTIME_UNAVAILABLE"


class InsufficientMemory(ServiceError):
    """The model needs more memory than models can have here."""

    reason = "INSUFFICIENT_MEMORY"


class ModelStopped(ServiceError):
    """Somebody stopped the model under the caller."""

    reason = "MODEL_STOPPED"


class ShuttingDown(ServiceError):
    """The service is shutting down."""

    reason = "SHUTTING_DOWN"


class QueueFull(ServiceError):
    """Too many requests wait for the model already."""

    reason = "QUEUE_FULL"


class DeadlineTooShort(ServiceError):
    """The model will not be ready for the request before its deadline."""

    reason = "DEADLINE_TOO_SHORT"


class CatalogInvalid(ServiceError):
    """The catalog's file cannot be used."""

    reason = "CATALOG_INVALID"


class EngineOverloaded(ServiceError):
    """The engine takes no more requests now."""

    reason = "ENGINE_OVERLOADED"


class EngineFailed(ServiceError):
    """The engine died, or answered nonsense, on this request."""

    reason = "ENGINE_FAILED"


class EngineLost(EngineFailed):
    """The engine broke off, as one that dies does: another may well answer."""


class GenerationTimeout(ServiceError):
    """The text was not done in time."""

    reason = "GENERATION_TIMEOUT"


class StopFailed(ServiceError):
    """The engine could not be stopped or removed."""

    reason = "STOP_FAILED"


class LaunchError(Exception):
    """Why a runtime could not run an engine; the supervisor makes a StartFailed of it."""
