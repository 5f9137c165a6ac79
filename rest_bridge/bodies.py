"""The documented bodies of requests and responses.

Requests are checked for what the wire can carry: names and types of fields, and 32 bits of an
integer. The bounds and defaults in their schemas are documentation; the service enforces them, so
that gRPC and REST refuse the same values with the same words.
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Int32 = Annotated[int, Field(ge=-(2**31), le=2**31 - 1)]


def omit_null(schema: dict[str, Any]) -> None:
    """Document an optional field by its type and the service's default; null says nothing more."""
    for name, field in schema["properties"].items():
        if "anyOf" in field:
            either, _null = field.pop("anyOf")
            schema["properties"][name] = field = either | field
        if field.get("default", ...) is None:
            del field["default"]


def documented(description: str, **schema: Any) -> Any:
    """An optional field; `schema` goes into the OpenAPI document and is not checked here."""
    return Field(None, description=description, json_schema_extra=schema)


class Request(BaseModel):
    """A body as it was sent: no conversions, no unknown fields; null is the same as absent."""

    model_config = ConfigDict(
        strict=True, extra="forbid", allow_inf_nan=False, json_schema_extra=omit_null
    )


class Generation(Request):
    """What to generate, and how."""

    model_id: str = Field(description="The id of the model, as `GET /models` lists it.")
    prompt: str = Field(
        description="The text to continue, as it is: no chat template is applied.",
        json_schema_extra={"minLength": 1},
    )
    max_new_tokens: Int32 | None = documented(
        "The most tokens to generate, up to the model's context.", default=200, minimum=1
    )
    temperature: float | None = documented(
        "How much chance there is in the choice of a token; 0 always takes the likeliest.",
        default=0.7,
        minimum=0.0,
        maximum=2.0,
    )
    top_p: float | None = documented(
        "Choose among the likeliest tokens that together have this probability.",
        default=0.95,
        exclusiveMinimum=0.0,
        maximum=1.0,
    )
    top_k: Int32 | None = documented(
        "Choose among this many of the likeliest tokens. Default: no such limit.",
        minimum=1,
        maximum=1000,
    )
    repetition_penalty: float | None = documented(
        "Divides the score of tokens that the text has already; 1.0 is off.",
        default=1.0,
        exclusiveMinimum=0.0,
        maximum=2.0,
    )
    seed: Int32 | None = documented(
        "Makes the choice repeatable. Default: a new one for each request.",
        minimum=0,
        maximum=2**31 - 1,
    )
    stop: list[str] | None = documented(
        "The text ends before the first of these; the sequence itself is not part of it.",
        default=[],
        maxItems=4,
    )


class GenerateRequest(Generation):
    """Body of `POST /generate`."""

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
        "Whether the text goes on when its engine is lost, after an event `resumption`.",
        default=False,
    )


class InfoResponse(BaseModel):
    message: str
    models: list[str] = Field(description="The ids of all models.")
    running_containers: list[str] = Field(description="The ids of the models that run.")


class ModelResponse(BaseModel):
    id: str
    name: str
    hf_name: str = Field(description="The name of its repository at Hugging Face.")
    running: bool


class ModelsResponse(BaseModel):
    models: list[ModelResponse]


class StartResponse(BaseModel):
    message: str
    port: int = Field(description="The port of the container on 127.0.0.1.")
    container_name: str


class StopResponse(BaseModel):
    message: str


class ReloadResponse(BaseModel):
    added_model_ids: list[str]
    changed_model_ids: list[str] = Field(description="Changed, and in force.")
    restarted_model_ids: list[str] = Field(description="Changed; drained to be started again.")
    removed_model_ids: list[str]


class GenerateResponse(BaseModel):
    generated_text: str = Field(description="The prompt and the text that continues it.")
    model_id: str


class ErrorResponse(BaseModel):
    detail: str = Field(description="What happened and what to do, in one sentence.")
