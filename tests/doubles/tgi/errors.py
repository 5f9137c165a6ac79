"""Errors that the router answers as JSON: of requests that it could read and did not fulfil."""

from __future__ import annotations


class InferError(Exception):
    """A handled error: `{"error": ..., "error_type": ...}` with the status of its class."""

    status = 500
    error_type = ""
    prefix = ""

    def __init__(self, message: str = "") -> None:
        super().__init__(self.prefix + message)

    @property
    def body(self) -> dict[str, str]:
        """The body of the answer, or the event of a stream."""
        return {"error": str(self), "error_type": self.error_type}


class ValidationError(InferError):
    """A parameter, or the length of the prompt, is out of bounds."""

    status = 422
    error_type = "validation"
    prefix = "Input validation error: "


class GenerationError(InferError):
    """The shard failed at this request, or is gone."""

    status = 424
    error_type = "generation"
    prefix = "Request failed during generation: Server error: "


class Overloaded(InferError):
    """All MAX_CONCURRENT_REQUESTS permits are in use."""

    status = 429
    error_type = "overloaded"
    prefix = "Model is overloaded"


class IncompleteGeneration(InferError):
    """The backend dropped the request."""

    error_type = "incomplete_generation"
    prefix = "Incomplete generation"


class IncompleteGenerationStream(InferError):
    """A stream ended without its final event."""

    error_type = "incomplete_generation_stream"
    prefix = "Incomplete generation stream"


class NotImitated(InferError):
    """A feature of TGI that the double does not have. The real TGI never answers this."""

    status = 501
    error_type = "not_imitated"
    prefix = "The double of TGI has no "
