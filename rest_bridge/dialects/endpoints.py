"""The paths of engines that REST has too, each with the dialect of its errors."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from rest_bridge.dialects.manners import AsIs, Manner
from rest_bridge.dialects.ollama import manners
from rest_bridge.dialects.shapes import ANTHROPIC, OLLAMA, OPENAI, RESPONSES, Shape


class Endpoint(NamedTuple):
    """A path to which clients POST; `translate` is for a dialect that engines do not speak."""

    path: str
    shape: Shape
    summary: str
    fields: Mapping[str, Any]  # of a request beside `model`, by JSON schema
    translate: Callable[[bytes], Manner] | None = None
    needs_fields: bool = True

    def manner(self, body: bytes) -> Manner:
        """Return the manner of a request. Raises BridgeError for a body that has none."""
        if self.translate is not None:
            return self.translate(body)
        return AsIs(self.path, self.shape, body)

    @property
    def any_type(self) -> bool:
        """Whether the content type does not matter, as in the examples of Ollama's manual."""
        return self.shape is OLLAMA


_TEXT = {"type": "string"}
_NULL_TOO = {"type": ["string", "null"]}


def _chat(content: Any, *needed: str, least: int = 1) -> Mapping[str, Any]:
    properties = {"role": {"enum": ["user"]}, "content": content}
    item = {"type": "object", "properties": properties, "required": ["role", *needed]}
    return {"messages": {"type": "array", "minItems": least, "items": item}}


_DOCUMENTS = {"type": "array", "minItems": 1, "items": _TEXT}
_TOKENS = {"type": "array", "items": {"type": "integer", "minimum": 0}}

_ALL = (
    Endpoint("/v1/chat/completions", OPENAI, "Chat, in OpenAI's JSON", _chat(_NULL_TOO, "content")),
    Endpoint("/v1/completions", OPENAI, "Complete a text, in OpenAI's JSON", {"prompt": _TEXT}),
    Endpoint("/v1/responses", RESPONSES, "Make a response, in OpenAI's JSON", {"input": _TEXT}),
    Endpoint("/v1/embeddings", OPENAI, "Embed texts, in OpenAI's JSON", {"input": _TEXT}),
    Endpoint(
        "/v1/rerank", OPENAI, "Rank documents by a query", {"query": _TEXT, "documents": _DOCUMENTS}
    ),
    Endpoint("/v1/messages", ANTHROPIC, "Chat, in Anthropic's JSON", _chat(_TEXT, "content")),
    Endpoint(
        "/v1/messages/count_tokens",
        ANTHROPIC,
        "Count the tokens of a chat",
        _chat(_TEXT, "content"),
    ),
    Endpoint("/tokenize", OPENAI, "Turn a text into tokens", {"content": _TEXT}),
    Endpoint("/detokenize", OPENAI, "Turn tokens into a text", {"tokens": _TOKENS}),
    Endpoint(
        "/apply-template",
        OPENAI,
        "Turn a chat into the text that its model gets",
        _chat(_NULL_TOO, "content"),
    ),
    Endpoint(
        "/api/chat", OLLAMA, "Chat, in Ollama's JSON", _chat(_TEXT, least=0), manners.chat, False
    ),
    Endpoint(
        "/api/generate",
        OLLAMA,
        "Generate a text, in Ollama's JSON",
        {"prompt": _TEXT},
        manners.generate,
        False,
    ),
    Endpoint(
        "/api/embed", OLLAMA, "Embed texts, in Ollama's JSON", {"input": _TEXT}, manners.Embed
    ),
    Endpoint(
        "/api/embeddings",
        OLLAMA,
        "Embed a text, in Ollama's JSON",
        {"prompt": _TEXT},
        manners.embed_one,
    ),
)

ENDPOINTS = {endpoint.path.encode(): endpoint for endpoint in _ALL}


def shape_at(path: str) -> Shape | None:
    """Return the shape of errors at a path, None for the paths of this API's own."""
    if (endpoint := ENDPOINTS.get(path.encode("utf-8", "replace"))) is not None:
        return endpoint.shape
    if path.startswith("/v1/messages"):
        return ANTHROPIC
    if path.startswith("/api/"):
        return OLLAMA
    return OPENAI if path.startswith("/v1/") else None


def likely(path: str) -> str | None:
    """Return the path that a client means whose base URL has no `/v1`, or one too many."""
    tail = path.removeprefix("/v1").removeprefix("/v1").removesuffix("/")
    if tail == "/models" and path.startswith("/v1/v1/"):
        return "/v1/models"
    meant = f"/v1{tail}"
    return meant if meant != path and meant.encode("utf-8", "replace") in ENDPOINTS else None
