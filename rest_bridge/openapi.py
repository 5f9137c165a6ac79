"""Examples and errors of the OpenAPI document."""

from collections import defaultdict
from http import HTTPStatus
from typing import Any

from rest_bridge.bodies import ErrorResponse, Request
from rest_bridge.errors import rule

Responses = dict[int | str, dict[str, Any]]

DESCRIPTION = """\
Runs language models on demand and generates text with them. The first request for a model starts
it, which can take minutes. `POST /generate_stream` with `status_events` reports the progress.

Every error has the body `{"detail": "<one sentence>"}`. The header `X-Error-Reason` has the reason
for programs, and `Retry-After` the seconds to wait, where they are known. The examples of errors
show what to do; a real `detail` also says what happened. The paths below Dialects are those of
OpenAI, Anthropic and Ollama, and have their errors.
"""

MODEL_TO_TRY = "story-mini"  # every service has it, and it runs without Docker or a download

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
    "MODEL": {
        "id": "tiny-llama",
        "name": "tiny-llama",
        "hf_name": "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
        "running": False,
        "state": "MODEL_STATE_STARTING",
        "start_progress": {
            "phase": "START_PHASE_DOWNLOADING_WEIGHTS",
            "completed_count": "1100000000",
            "total_count": "2200119864",
            "unit": "bytes",
            "fraction": 0.5,
            "message": "model.safetensors",
            "queue_position": 0,
            "elapsed_duration": "31.200s",
        },
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
    """Describe the response of an endpoint that streams."""
    return {200: {"description": "The events, each sent at once", "content": _stream(example)}}


def _stream(example: str) -> dict[str, Any]:
    return {"text/event-stream": {"example": example}}  # OpenAPI 3.1 has no schema for an event


EVENTS = events(EVENTS_EXAMPLE)
CHANGES = events(CHANGES_EXAMPLE)
LINES = events("data: Server started at unix:///tmp/text-generation-server-0\n\n")

OTHER_SITE = {403: "Forbidden to pages of other origins"}
NOT_JSON = {415: "Content type other than application/json"} | OTHER_SITE
WRONG_HOST = {421: "A host that is not served"}

EVERY_CALL = ("TOO_MANY_CALLS", "SHUTTING_DOWN", "SERVICE_UNREACHABLE", "INTERNAL")
STARTING = (
    "MODEL_NOT_FOUND",
    "START_FAILED",
    "MODEL_UNUSABLE",
    "START_STALLED",
    "START_BACKING_OFF",
    "RUNTIME_UNAVAILABLE",
    "INSUFFICIENT_MEMORY",
    "MODEL_STOPPED",
)
STOPPING = ("MODEL_NOT_FOUND", "CONTAINER_NOT_RUNNING", "STOP_FAILED")
GENERATING = (
    *STARTING,
    "INVALID_PARAMETER",
    "PROMPT_TOO_LONG",
    "REQUEST_TOO_LARGE",
    "QUEUE_FULL",
    "ENGINE_OVERLOADED",
    "ENGINE_FAILED",
    "ENGINE_DIED",
    "GENERATION_TIMEOUT",
)

HEADERS = {
    "X-Error-Reason": {
        "description": "The reason of the error, for programs.",
        "schema": {"type": "string"},
    },
    "Retry-After": {
        "description": "The seconds after which a retry can succeed, where they are known.",
        "schema": {"type": "integer"},
    },
}


def errors(*reasons: str, of_bridge: dict[int, str] | None = None) -> Responses:
    """Describe the error responses of an endpoint that can fail for these reasons.

    Each example shows the `action` of the reason's rule in the contract. `of_bridge` describes the
    statuses that are in no rule.
    """
    examples: dict[int, dict[str, Any]] = defaultdict(dict)
    for reason in (*reasons, *EVERY_CALL):
        examples[rule(reason).http_status][reason] = {"value": {"detail": rule(reason).action}}
    descriptions = {status: HTTPStatus(status).phrase for status in examples}
    descriptions |= WRONG_HOST | (of_bridge or {})
    responses: Responses = {
        status: failure(description, examples[status])
        for status, description in sorted(descriptions.items())
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
    """Describe the response 200 by one of the documented examples."""
    return {200: {"content": {"application/json": {"example": EXAMPLES[example]}}}}


def text_or_events() -> Responses:
    """Describe the response 200 of an endpoint that streams where the request says so."""
    responses = success("GENERATE")
    responses[200]["content"] |= _stream(EVENTS_EXAMPLE)
    return responses


def body(model: type[Request]) -> dict[str, Any]:
    """Describe the request body of a route that reads the body without FastAPI."""
    example = EXAMPLES["GENERATE_REQUEST"] | {"model_id": MODEL_TO_TRY}
    content = {"schema": model.model_json_schema(), "example": example}
    return {"requestBody": {"required": True, "content": {"application/json": content}}}
