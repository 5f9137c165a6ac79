"""From requests of Ollama's to those of OpenAI's JSON."""

from __future__ import annotations

import json
from typing import Any, TypeVar

import msgspec

from inference_service import malformed
from rest_bridge.errors import BridgeError

Json = dict[str, Any]
Shape = TypeVar("Shape", bound=msgspec.Struct)

# How OpenAI's JSON calls an option; the last ones are those of llama.cpp, which vLLM and SGLang
# have too, but for `repeat_penalty` and `repeat_last_n`.
_NAMES = {
    "num_predict": "max_tokens",
    **{name: name for name in ("temperature", "top_p", "seed", "stop")},
    **{name: name for name in ("presence_penalty", "frequency_penalty")},
    **{name: name for name in ("top_k", "min_p", "typical_p", "repeat_penalty", "repeat_last_n")},
}

# Of the start of an engine, which the catalog decides. All clients of Ollama's send some of them.
_OF_THE_START = frozenset(
    ("num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "num_keep", "use_mmap",
     "use_mlock", "low_vram", "numa", "vocab_only", "f16_kv", "draft_num_predict")
)  # fmt: skip

# Values in a large body, such as one with images: so many take the decoder a few milliseconds.
_MOST_VALUES = 100_000
_MOST_ESCAPES = 1_000_000
_LARGE = 1 << 20  # bytes

_IMAGES = {"iVBOR": "png", "R0lGO": "gif", "UklGR": "webp"}  # by how the base64 begins


class Common(msgspec.Struct):
    """The fields of all requests."""

    model: str
    stream: bool | None = None
    options: Json | None = None
    keep_alive: str | float | None = None
    format: str | Json | None = None
    think: bool | str | None = None


class Function(msgspec.Struct):
    """The call of a function."""

    name: str
    arguments: Json = {}


class ToolCall(msgspec.Struct):
    """A tool that the model has called."""

    function: Function
    id: str | None = None


class Message(msgspec.Struct):
    """A message of a chat."""

    role: str
    content: str = ""
    images: list[str] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class Chat(Common):
    """The request of `/api/chat`."""

    messages: list[Message] = []
    tools: list[Json] | None = None


class Generate(Common):
    """The request of `/api/generate`."""

    prompt: str = ""
    suffix: str | None = None
    system: str | None = None
    template: str | None = None
    context: list[int] | None = None
    raw: bool = False
    images: list[str] | None = None


class Embed(Common):
    """The request of `/api/embed`, and of `/api/embeddings`, which has a `prompt`."""

    input: str | list[str] | None = None
    prompt: str | None = None
    truncate: bool | None = None
    dimensions: int | None = None


class Show(msgspec.Struct):
    """The request of `/api/show`; `name` is an older word for the model."""

    model: str = ""
    name: str = ""


def read(body: bytes, shape: type[Shape]) -> Shape:
    """Read a body. Raises BridgeError, which names the field."""
    if len(body) > _LARGE:
        for mark, name, most in (
            (b",", "commas", _MOST_VALUES),
            (b"\\", "backslashes", _MOST_ESCAPES),
        ):
            if body.count(mark) > most:
                detail = f"the body has more than {most} {name}; send less"
                raise BridgeError("REQUEST_TOO_LARGE", detail)
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if (field := malformed.field_in(body)) is not None:
            raise refused(f"{field} {malformed.SENTENCE}") from None
        raise refused(f"the body is not a request of this API: {error}") from None


def of_chat(asked: Chat) -> Json:
    """Return the request of `/v1/chat/completions` for a chat."""
    made = _common(asked) | {"messages": _messages(asked.messages)}
    return made | ({"tools": asked.tools} if asked.tools else {})


def of_generate(asked: Generate) -> Json:
    """Return the request for a text: of `/v1/completions` where it is `raw`, else of a chat."""
    for field, advice in (
        ("suffix", "ask for a text without a suffix"),
        ("template", "the catalog has the model's template; use `raw` for one of your own"),
        ("context", "send the text so far in the prompt, or use /api/chat"),
    ):
        if getattr(asked, field):
            raise refused(f"{field} is not taken here: {advice}", field)
    if asked.raw:
        if asked.images or asked.system:
            raise refused("with `raw`, all is in the prompt: no images and no system text", "raw")
        return _common(asked) | {"prompt": asked.prompt}
    messages = [Message("user", asked.prompt, asked.images)]
    if asked.system:
        messages.insert(0, Message("system", asked.system))
    return _common(asked) | {"messages": _messages(messages)}


def of_embed(asked: Embed) -> Json:
    """Return the request of `/v1/embeddings`."""
    texts = asked.prompt if asked.input is None else asked.input
    if texts is None:
        raise refused("input is missing: give a text, or a list of texts", "input")
    made: Json = {"model": asked.model, "input": texts, "encoding_format": "float"}
    return made | ({"dimensions": asked.dimensions} if asked.dimensions else {})


def refused(detail: str, field: str | None = None) -> BridgeError:
    """Return the error of a request that cannot be taken."""
    return BridgeError("INVALID_PARAMETER", detail, field=field)


def _common(asked: Common) -> Json:
    made: Json = {"model": asked.model, **_options(asked.options or {})}
    if asked.stream is not False:
        made |= {"stream": True, "stream_options": {"include_usage": True}}
    if asked.format:
        made["response_format"] = _format(asked.format)
    if isinstance(asked.think, str):
        made["reasoning_effort"] = asked.think
    elif asked.think is not None:
        made["chat_template_kwargs"] = {"enable_thinking": asked.think}
    return made


def _options(options: Json) -> Json:
    if unknown := options.keys() - _NAMES.keys() - _OF_THE_START:
        known = ", ".join(_NAMES)
        raise refused(f"options.{min(unknown)} is no option; options are {known}", "options")
    made = {_NAMES[name]: value for name, value in options.items() if name in _NAMES}
    most = made.get("max_tokens")
    if isinstance(most, int) and most < 0:  # no limit
        del made["max_tokens"]
    return made


def _format(wanted: str | Json) -> Json:
    if wanted == "json":
        return {"type": "json_object"}
    if isinstance(wanted, str):
        raise refused('format must be "json" or a JSON schema', "format")
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": wanted}}


def _messages(messages: list[Message]) -> list[Json]:
    """Return the messages; Ollama's calls have no ids, so they get some in their order."""
    made, open_calls, count = [], list[tuple[str, str]](), 0
    for message in messages:
        one: Json = {"role": message.role, "content": _content(message)}
        if message.tool_calls:
            calls = []
            for call in message.tool_calls:
                id = call.id or f"call_{count}"
                count += 1
                open_calls.append((id, call.function.name))
                arguments = json.dumps(call.function.arguments, ensure_ascii=False)
                function = {"name": call.function.name, "arguments": arguments}
                calls.append({"id": id, "type": "function", "function": function})
            one["tool_calls"] = calls
        if message.role == "tool":
            one["tool_call_id"] = message.tool_call_id or _answered(open_calls, message.tool_name)
        made.append(one)
    return made


def _answered(open_calls: list[tuple[str, str]], name: str | None) -> str:
    """Return the id of the call that a result answers: the first one of this tool."""
    for call in open_calls:
        if name is None or call[1] == name:
            open_calls.remove(call)
            return call[0]
    raise refused("a message of the role `tool` answers no call before it", "messages")


def _content(message: Message) -> str | list[Json]:
    if not message.images:
        return message.content
    text = [{"type": "text", "text": message.content}] if message.content else []
    return [*text, *map(_image, message.images)]


def _image(data: str) -> Json:
    kind = _IMAGES.get(data[:5], "jpeg")
    return {"type": "image_url", "image_url": {"url": f"data:image/{kind};base64,{data}"}}
