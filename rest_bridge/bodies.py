"""The documented bodies of requests and responses.

The bridge checks names and types of fields, and that an integer has 32 bits, because the wire can
carry nothing else. The bounds and defaults in the schemas are documentation. The service enforces
them, so that gRPC and REST refuse the same values with the same words.
"""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _whole(value: object) -> object:
    """Take 3.0 for 3, as JSON Schema does."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Int32 = Annotated[int, Field(ge=-(2**31), le=2**31 - 1), BeforeValidator(_whole)]


def omit_null(schema: dict[str, Any]) -> None:
    """Document an optional field of an answer by its type, without null, which is never sent."""
    _document(schema, [])


def allow_null(schema: dict[str, Any]) -> None:
    """Document an optional field of a request by its type, null, and the service's default."""
    _document(schema, ["null"])


def _document(schema: dict[str, Any], more: list[str]) -> None:
    for name, field in schema["properties"].items():
        if "anyOf" in field:
            either, _null = field.pop("anyOf")
            kind = [either["type"], *more] if more else either["type"]
            schema["properties"][name] = field = either | field | {"type": kind}
        if field.get("default", ...) is None:
            del field["default"]


def documented(description: str, **schema: Any) -> Any:
    """Declare an optional field. `schema` goes into the OpenAPI document and is not checked."""
    return Field(None, description=description, json_schema_extra=schema)


class Request(BaseModel):
    """The body of a request: no conversions, no unknown fields, null means absent."""

    model_config = ConfigDict(
        strict=True, extra="forbid", allow_inf_nan=False, json_schema_extra=allow_null
    )


class Generation(Request):
    """The fields that `POST /generate` and `POST /generate_stream` share."""

    model_id: str = Field(description="The id of the model, as `GET /models` lists it.")
    prompt: str = Field(
        description="The text to continue, as it is: no chat template is applied.",
        json_schema_extra={"minLength": 1},
    )
    max_new_tokens: Int32 | None = documented(
        "The largest number of tokens to generate, up to the model's context.",
        default=200,
        minimum=1,
    )
    temperature: float | None = documented(
        "Sampling temperature: higher is more random, and 0 always takes the likeliest token.",
        default=0.7,
        minimum=0.0,
        maximum=2.0,
    )
    top_p: float | None = documented(
        "Nucleus sampling: choose among the likeliest tokens that together have this probability.",
        default=0.95,
        exclusiveMinimum=0.0,
        maximum=1.0,
    )
    top_k: Int32 | None = documented(
        "Choose among this many of the likeliest tokens. Default: no limit.",
        minimum=1,
        maximum=1000,
    )
    repetition_penalty: float | None = documented(
        "Divides the score of each token that is already in the text; 1.0 is off.",
        default=1.0,
        exclusiveMinimum=0.0,
        maximum=2.0,
    )
    seed: Int32 | None = documented(
        "Makes the choice of tokens repeatable. Default: a new seed for each request.",
        minimum=0,
        maximum=2**31 - 1,
    )
    stop: list[str] | None = documented(
        "The text ends before the first of these sequences, and does not contain it.",
        default=[],
        maxItems=4,
        items={"type": "string", "minLength": 1, "maxLength": 1000},
    )


def _full_text_or_stream(schema: dict[str, Any]) -> None:
    allow_null(schema)
    both = {name: {"const": True} for name in ("return_full_text", "stream")}
    schema["not"] = {"properties": both, "required": [*both]}


class GenerateRequest(Generation):
    """Body of `POST /generate`."""

    model_config = ConfigDict(json_schema_extra=_full_text_or_stream)

    return_full_text: bool | None = documented(
        "Whether `generated_text` begins with the prompt.", default=True
    )
    stream: bool | None = documented(
        "Answer with the events of `POST /generate_stream`.", default=False
    )


class GenerateStreamRequest(Generation):
    """Body of `POST /generate_stream`."""

    status_events: bool | None = documented(
        "Whether to send `status` events until the model is ready.", default=False
    )
    resume: bool | None = documented(
        "Whether the text goes on after its engine is lost; an event `resumption` reports that.",
        default=False,
    )


class InfoResponse(BaseModel):
    message: str
    models: list[str] = Field(description="The ids of all models.")
    running_containers: list[str] = Field(description="The ids of the models that run.")


class ModelResponse(BaseModel):
    id: str
    name: str
    hf_name: str = Field(description="The name of the model's repository at Hugging Face.")
    running: bool


class ModelsResponse(BaseModel):
    models: list[ModelResponse]


class ModelDetails(ModelResponse):
    model_config = ConfigDict(extra="allow", json_schema_extra=omit_null)

    state: str = Field(
        description="`MODEL_STATE_STOPPED`, `_STARTING`, `_READY`, `_STOPPING` or `_FAILED`."
    )
    start_progress: dict[str, Any] | None = Field(
        None, description="Only of a model that starts: the phase, what of it is done, a message."
    )
    last_error: dict[str, Any] | None = Field(
        None,
        description="Only of a model that has failed: why: reason, message, metadata, log lines.",
    )
    retry_time: str | None = Field(
        None, description="Only of a model that has failed: when the next start is allowed."
    )


class StartResponse(BaseModel):
    message: str
    port: int = Field(description="The port of the container on 127.0.0.1.")
    container_name: str


class StopResponse(BaseModel):
    message: str


class ReloadResponse(BaseModel):
    added_model_ids: list[str]
    changed_model_ids: list[str] = Field(description="Their entry changed, and is in force.")
    restarted_model_ids: list[str] = Field(
        description="Their entry changed, and they are drained to start again."
    )
    removed_model_ids: list[str]


class GenerateResponse(BaseModel):
    generated_text: str = Field(description="The prompt and the text that continues it.")
    model_id: str


class ErrorResponse(BaseModel):
    detail: str = Field(description="What happened and what to do, in one sentence.")
