"""How much of a large body is text, and how much are images, sounds and files.

An engine reads a text before it counts its tokens, and takes 70 bytes of memory for each byte of
it. So the limit of a text is the 4 MiB of Generate, whatever a body may have.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from inference_service.errors import RequestTooLarge

LARGEST = 4 << 20  # bytes

# Of the messages, and of the tokens, that are looked at: 10,000 take the decoder 15 ms.
_MOST_PARTS = 10_000

# Of these, each text is read alone: the inputs of an embedding, the documents of a ranking.
_LISTS = ("input", "documents", "texts", "content", "tokens")


class _Data(msgspec.Struct):
    url: msgspec.Raw = msgspec.Raw()
    data: msgspec.Raw = msgspec.Raw()
    file_data: msgspec.Raw = msgspec.Raw()


class _Part(msgspec.Struct):
    image_url: _Data | str | None = None
    source: _Data | None = None
    input_audio: _Data | None = None
    file: _Data | None = None
    content: list[_Part] | str | None = None


class _Message(msgspec.Struct):
    content: list[_Part] | str | None = None


_messages = msgspec.json.Decoder(list[_Message]).decode
_strings = msgspec.json.Decoder(list[msgspec.Raw]).decode


def refuse_large_text(body: bytes, options: Mapping[str, msgspec.Raw]) -> None:
    """Raise RequestTooLarge for a body with a field whose text has more than 4 MiB."""
    objects, values = body.count(b"{"), body.count(b",")
    for name, raw in options.items():
        size = len(raw)
        if size <= LARGEST:
            continue
        flat = memoryview(raw)[1:2].tobytes().isdigit()  # a list of tokens
        many = objects > _MOST_PARTS or (flat and values > _MOST_PARTS)
        if (text := size if many else size - _beside_text(name, raw)) > LARGEST:
            raise RequestTooLarge(
                f"{name} has {text} bytes of text, and {LARGEST} are the most; send fewer or "
                "shorter messages (images and sounds do not count)"
            )


def _beside_text(name: str, raw: msgspec.Raw) -> int:
    """Return the bytes that are no text, or that belong to texts which are read one by one."""
    try:
        if name in _LISTS and (each := [len(item) for item in _strings(raw)]):
            return sum(each) - max(each)
        return sum(len(item) for item in _media(_messages(raw)))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return 0


def _media(messages: list[_Message]) -> Iterator[msgspec.Raw | str]:
    for message in messages:
        if isinstance(message.content, list):
            yield from _of_parts(message.content)


def _of_parts(parts: list[_Part]) -> Iterator[msgspec.Raw | str]:
    for part in parts:
        if isinstance(part.content, list):
            yield from _of_parts(part.content)
        for data in (part.image_url, part.source, part.input_audio, part.file):
            if isinstance(data, str):
                yield data
            elif data is not None:
                yield from (data.url, data.data, data.file_data)
