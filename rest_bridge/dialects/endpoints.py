"""The paths of engines that REST has too, each with the dialect of its errors."""

from typing import NamedTuple

from rest_bridge.dialects.shapes import ANTHROPIC, OPENAI, RESPONSES, Shape


class Endpoint(NamedTuple):
    """A path to which clients POST."""

    path: str
    shape: Shape
    summary: str


_ALL = (
    Endpoint("/v1/chat/completions", OPENAI, "Chat, in OpenAI's JSON"),
    Endpoint("/v1/completions", OPENAI, "Complete a text, in OpenAI's JSON"),
    Endpoint("/v1/responses", RESPONSES, "Make a response, in OpenAI's JSON"),
    Endpoint("/v1/embeddings", OPENAI, "Embed texts, in OpenAI's JSON"),
    Endpoint("/v1/rerank", OPENAI, "Rank documents by a query"),
    Endpoint("/v1/messages", ANTHROPIC, "Chat, in Anthropic's JSON"),
    Endpoint("/v1/messages/count_tokens", ANTHROPIC, "Count the tokens of a chat"),
    Endpoint("/tokenize", OPENAI, "Turn a text into tokens"),
    Endpoint("/detokenize", OPENAI, "Turn tokens into a text"),
    Endpoint("/apply-template", OPENAI, "Turn a chat into the text that its model gets"),
)

ENDPOINTS = {endpoint.path.encode(): endpoint for endpoint in _ALL}


def shape_at(path: str) -> Shape | None:
    """Return the shape of errors at a path, None for the paths of this API's own."""
    if (endpoint := ENDPOINTS.get(path.encode("utf-8", "replace"))) is not None:
        return endpoint.shape
    if path.startswith("/v1/messages"):
        return ANTHROPIC
    return OPENAI if path.startswith("/v1/") else None
