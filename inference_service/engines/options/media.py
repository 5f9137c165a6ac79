"""Images, sounds and files in messages, which an engine may be asked to fetch from anywhere."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from inference_service.engines.options.rules import NULL, begins, items_of

_MOST_PARTS = 4096
_DATA = b'"data:'


class Part(msgspec.Struct):
    """A part of a message in OpenAI's or Anthropic's form; what it lacks is null."""

    type: str = ""
    text: msgspec.Raw = NULL
    image_url: msgspec.Raw = NULL
    video_url: msgspec.Raw = NULL
    audio_url: msgspec.Raw = NULL
    file_url: msgspec.Raw = NULL
    source: msgspec.Raw = NULL
    content: msgspec.Raw = NULL  # the parts of a tool's result
    id: str | None = None
    tool_use_id: str | None = None


class _Where(msgspec.Struct):
    url: msgspec.Raw = NULL
    data: msgspec.Raw = NULL


_part = msgspec.json.Decoder(Part).decode
_where = msgspec.json.Decoder(_Where).decode


class Parts:
    """The parts of all messages of a request, of which there may be some thousands.

    More would hold the loop for too long: each takes some microseconds.
    """

    def __init__(self) -> None:
        self._count = 0

    def of(self, content: msgspec.Raw) -> Iterator[Part]:
        """Yield the parts of a content, and those of the results within; a text has none.

        Raises a ValidationError for too many.
        """
        left = [content]
        while left:
            raw = left.pop()
            if not begins(raw, b"["):
                continue
            items = items_of(raw)
            self._count += len(items)
            if self._count > _MOST_PARTS:
                raise msgspec.ValidationError(f"they have more than {_MOST_PARTS} parts")
            for item in items:
                part = _part(item)
                yield part
                left.append(part.content)


def fetches(part: Part) -> bool:
    """Return whether an engine would have to fetch something for this part.

    Data in the request itself is a `data:` URL. Anything else counts as fetched, since programs
    differ in what they take for an address.
    """
    urls = (part.image_url, part.video_url, part.audio_url, part.file_url, part.source)
    return any(map(_is_elsewhere, urls))


def has_data(part: Part) -> bool:
    """Return whether a part in Anthropic's form has its data in the request."""
    return begins(part.source, b"{") and begins(_where(part.source).data, b'"')


def _is_elsewhere(url: msgspec.Raw) -> bool:
    if begins(url, b"{"):
        url = _where(url).url
    return begins(url, b'"') and not begins(url, _DATA)
