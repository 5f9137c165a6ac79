"""What the router answers in JSON when it refuses, or fails at, a request that it understood."""

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
    """Every permit of MAX_CONCURRENT_REQUESTS is out."""

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
