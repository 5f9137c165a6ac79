"""Images, sounds and files in messages, which an engine may be asked to fetch from anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Union

import msgspec

from inference_service.engines.options.rules import NULL, begins

_MOST_PARTS = 4096
_DATA = b'"data:'


class Where(msgspec.Struct):
    """An address, or the data themselves in Anthropic's form."""

    url: msgspec.Raw = NULL
    data: msgspec.Raw = NULL


class Part(msgspec.Struct):
    """A part of a message in OpenAI's or Anthropic's form.

    Of an address only the beginning is looked at, for it can be an image of 30 MiB. `content` has
    the parts of a tool's result.
    """

    type: str = ""
    text: msgspec.Raw = NULL
    image_url: Where | str | None = None
    video_url: Where | str | None = None
    audio_url: Where | str | None = None
    file_url: Where | str | None = None
    source: Where | str | None = None
    content: Content = None
    id: str | None = None
    tool_use_id: str | None = None


# Items as they came, so that a million of them are no million objects.
Content = Union[list[msgspec.Raw], Part, str, None]  # noqa: UP007  # a name that is not there yet

_part = msgspec.json.Decoder(Part).decode


class Parts:
    """The parts of all messages of a request, of which there may be some thousands.

    More would hold the loop for too long: each takes some microseconds.
    """

    def __init__(self) -> None:
        self._count = 0

    def of(self, content: Content) -> Iterator[Part]:
        """Yield the parts of a content, and those of the results within; a text has none.

        Raises a ValidationError for too many.
        """
        left = [content]
        while left:
            each = left.pop()
            for part in self._parts(each):
                yield part
                left.append(part.content)

    def _parts(self, content: Content) -> Iterator[Part]:
        if isinstance(content, Part):
            yield content
        if not isinstance(content, list):
            return
        self._count += len(content)
        if self._count > _MOST_PARTS:
            raise msgspec.ValidationError(f"they have more than {_MOST_PARTS} parts")
        yield from map(_part, content)


def fetches(part: Part) -> bool:
    """Return whether an engine would have to fetch something for this part.

    Data in the request itself is a `data:` URL. Anything else counts as fetched, since programs
    differ in what they take for an address.
    """
    urls = (part.image_url, part.video_url, part.audio_url, part.file_url, part.source)
    return any(map(_is_elsewhere, urls))


def has_data(part: Part) -> bool:
    """Return whether a part in Anthropic's form has its data in the request."""
    return isinstance(part.source, Where) and begins(part.source.data, b'"')


def _is_elsewhere(url: Where | str | None) -> bool:
    if isinstance(url, Where):
        return begins(url.url, b'"') and not begins(url.url, _DATA)
    return url is not None and not url.startswith("data:")
