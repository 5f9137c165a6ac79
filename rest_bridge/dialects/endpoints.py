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
    fields: Mapping[str, Any]  # that a request must have beside `model`, by JSON schema
    translate: Callable[[bytes], Manner] | None = None

    def manner(self, body: bytes) -> Manner:
        """Return the manner of a request. Raises BridgeError for a body that has none."""
        if self.translate is not None:
            return self.translate(body)
        return AsIs(self.path, self.shape, body)

    @property
    def any_type(self) -> bool:
        """Whether the content type does not matter, as in the examples of Ollama's manual."""
        return self.shape is OLLAMA


_TEXT = {"type": "string", "minLength": 1}
_MESSAGES = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "object",
        "properties": {"role": {"enum": ["user"]}, "content": _TEXT},
        "required": ["role", "content"],
    },
}
_CHAT = {"messages": _MESSAGES}
_DOCUMENTS = {"type": "array", "minItems": 1, "items": _TEXT}
_TOKENS = {"type": "array", "items": {"type": "integer", "minimum": 0}}

_ALL = (
    Endpoint("/v1/chat/completions", OPENAI, "Chat, in OpenAI's JSON", _CHAT),
    Endpoint("/v1/completions", OPENAI, "Complete a text, in OpenAI's JSON", {"prompt": _TEXT}),
    Endpoint("/v1/responses", RESPONSES, "Make a response, in OpenAI's JSON", {"input": _TEXT}),
    Endpoint("/v1/embeddings", OPENAI, "Embed texts, in OpenAI's JSON", {"input": _TEXT}),
    Endpoint(
        "/v1/rerank", OPENAI, "Rank documents by a query", {"query": _TEXT, "documents": _DOCUMENTS}
    ),
    Endpoint("/v1/messages", ANTHROPIC, "Chat, in Anthropic's JSON", _CHAT),
    Endpoint("/v1/messages/count_tokens", ANTHROPIC, "Count the tokens of a chat", _CHAT),
    Endpoint("/tokenize", OPENAI, "Turn a text into tokens", {"content": _TEXT}),
    Endpoint("/detokenize", OPENAI, "Turn tokens into a text", {"tokens": _TOKENS}),
    Endpoint("/apply-template", OPENAI, "Turn a chat into the text that its model gets", _CHAT),
    Endpoint("/api/chat", OLLAMA, "Chat, in Ollama's JSON", _CHAT, manners.chat),
    Endpoint(
        "/api/generate",
        OLLAMA,
        "Generate a text, in Ollama's JSON",
        {"prompt": _TEXT},
        manners.generate,
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
