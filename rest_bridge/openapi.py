"""What the OpenAPI document says beyond the schemas: examples and errors."""

from collections import defaultdict
from http import HTTPStatus
from typing import Any

from rest_bridge.bodies import ErrorResponse, Request
from rest_bridge.errors import rule

Responses = dict[int | str, dict[str, Any]]

DESCRIPTION = """\
Runs language models on demand and generates text with them. A model is started by the first
request that needs it, which can take minutes; `POST /generate_stream` with `status_events` shows
how far the start has come.

Every error is answered with `{"detail": "<one sentence>"}`; the header `X-Error-Reason` has a
reason to branch on, and `Retry-After` the seconds to wait where they are known.
"""

EXAMPLES: dict[str, dict[str, Any]] = {
    "INFO": {
        "message": "LLM Inference API",
        "models": ["gpt-2", "tiny-llama", "mistral-7b"],
        "running_containers": ["gpt-2"],
    },
    "MODELS": {
        "models": [
            {"id": "gpt-2", "name": "gpt-2", "hf_name": "gpt2", "running": True},
            {
                "id": "tiny-llama",
                "name": "tiny-llama",
                "hf_name": "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
                "running": False,
            },
        ]
    },
    "START": {
        "message": "Container for gpt-2 started",
        "port": 8080,
        "container_name": "tgi-gpt-2",
    },
    "RELOAD": {
        "added_model_ids": ["my-model"],
        "changed_model_ids": [],
        "restarted_model_ids": ["gpt-2"],
        "removed_model_ids": [],
    },
    "STOP": {"message": "Container for gpt-2 stopped"},
    "GENERATE_REQUEST": {
        "model_id": "gpt-2",
        "prompt": "Once upon a time",
        "max_new_tokens": 200,
        "temperature": 0.7,
        "top_p": 0.95,
    },
    "GENERATE": {
        "generated_text": "Once upon a time, in a land far away...",
        "model_id": "gpt-2",
    },
}

EVENTS_EXAMPLE = """\
event: chunk
data: {"text": ", in a land far away...", "token_count": 7}

event: summary
data: {"finish_reason": "FINISH_REASON_LENGTH", "prompt_token_count": 4, \
"completion_token_count": 7, "model_id": "gpt-2", "start_duration": "0s", \
"first_token_duration": "0.210s", "total_duration": "1.930s", "resumptions": []}

"""

CHANGES_EXAMPLE = """\
id: 1700000000000007
event: model
data: {"id": "gpt-2", "name": "gpt-2", "hf_name": "gpt2", "running": true, \
"state": "MODEL_STATE_READY", ...}

"""


def events(example: str) -> Responses:
    """The response of an endpoint that streams."""
    content = {"text/event-stream": {"schema": {"type": "string"}, "example": example}}
    return {200: {"description": "The events, as they come", "content": content}}


EVENTS = events(EVENTS_EXAMPLE)
CHANGES = events(CHANGES_EXAMPLE)
LINES = events("data: Server started at unix:///tmp/text-generation-server-0\n\n")

DETAILS = {
    "MODEL_NOT_FOUND": 'no model "gpt2"; did you mean "gpt-2"?',
    "CONTAINER_NOT_RUNNING": "gpt-2 is not running",
    "INVALID_PARAMETER": 'max_new_tokens must be a whole number, not "10"',
    "PROMPT_TOO_LONG": "the prompt has 1100 tokens, and the context of gpt-2 has 1024",
    "REQUEST_TOO_LARGE": "the body must have at most 4194304 bytes",
    "START_FAILED": "gpt-2 could not be started: exit code 1 while loading weights",
    "START_STALLED": "the start of gpt-2 was given up: nothing moved for 300 s",
    "INSUFFICIENT_MEMORY": "mistral-7b needs 16.0 GB, and models can have 7.2 GB in all",
    "ENGINE_DIED": "the engine of gpt-2 exited with code 1",
    "START_BACKING_OFF": "gpt-2 failed to start and is tried again in 12 s",
    "RUNTIME_UNAVAILABLE": "Docker does not answer",
    "MODEL_STOPPED": "gpt-2 was stopped",
    "SHUTTING_DOWN": "the service is shutting down",
    "QUEUE_FULL": "1024 requests wait for gpt-2 already; retry in a few seconds",
    "ENGINE_OVERLOADED": "gpt-2 has as many requests as it takes",
    "ENGINE_FAILED": "the engine of gpt-2 died before the first token",
    "GENERATION_TIMEOUT": "gpt-2 did not finish the text within 60 s",
    "CATALOG_INVALID": "models.toml: entry 1 ('my-model'), key hf_name: is missing",
    "STOP_FAILED": "the container tgi-gpt-2 could not be removed",
    "INTERNAL": "a fault of this service; its log has the details",
    "SERVICE_UNREACHABLE": "the service at 127.0.0.1:50051 does not answer",
}

OTHER_SITE = {403: "a page of another origin may not start or stop models"}
NOT_JSON = {415: "the content type must be application/json, not text/plain"}

EVERY_CALL = ("SHUTTING_DOWN", "SERVICE_UNREACHABLE", "INTERNAL")
STARTING = (
    "MODEL_NOT_FOUND",
    "START_FAILED",
    "START_STALLED",
    "START_BACKING_OFF",
    "ENGINE_DIED",
    "RUNTIME_UNAVAILABLE",
    "INSUFFICIENT_MEMORY",
    "MODEL_STOPPED",
)
STOPPING = ("MODEL_NOT_FOUND", "CONTAINER_NOT_RUNNING", "STOP_FAILED", "RUNTIME_UNAVAILABLE")
GENERATING = (
    *STARTING,
    "INVALID_PARAMETER",
    "PROMPT_TOO_LONG",
    "REQUEST_TOO_LARGE",
    "QUEUE_FULL",
    "ENGINE_OVERLOADED",
    "ENGINE_FAILED",
    "GENERATION_TIMEOUT",
)

HEADERS = {
    "X-Error-Reason": {
        "description": "The reason, for programs.",
        "schema": {"type": "string"},
    },
    "Retry-After": {
        "description": "The seconds after which a retry can succeed, where they are known.",
        "schema": {"type": "integer"},
    },
}


def errors(*reasons: str, of_bridge: dict[int, str] | None = None) -> Responses:
    """The error responses of an endpoint that can fail for these reasons, by HTTP status.

    `of_bridge` has an example for each status that is not in the table of reasons.
    """
    by_status: dict[int, dict[str, Any]] = defaultdict(dict)
    for status, detail in (of_bridge or {}).items():
        by_status[status]["INVALID_PARAMETER"] = {"value": {"detail": detail}}
    for reason in (*reasons, *EVERY_CALL):
        by_status[rule(reason).http_status][reason] = {
            "summary": reason,
            "description": rule(reason).action,
            "value": {"detail": DETAILS[reason]},
        }
    responses: Responses = {
        status: failure(HTTPStatus(status).phrase, examples)
        for status, examples in sorted(by_status.items())
    }
    return responses | {"default": failure("Any other error", {})}


def failure(description: str, examples: dict[str, Any]) -> dict[str, Any]:
    return {
        "model": ErrorResponse,
        "description": description,
        "headers": HEADERS,
        "content": {"application/json": {"examples": examples} if examples else {}},
    }


def success(example: str) -> Responses:
    """The response 200 with one of the documented examples."""
    return {200: {"content": {"application/json": {"example": EXAMPLES[example]}}}}


def body(model: type[Request]) -> dict[str, Any]:
    """The request body, for routes that read it themselves."""
    content = {"schema": model.model_json_schema(), "example": EXAMPLES["GENERATE_REQUEST"]}
    return {"requestBody": {"required": True, "content": {"application/json": content}}}
