"""A request to an engine as data, and the sink that gets the bytes of its answer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Protocol
from urllib.parse import unquote

import msgspec

from inference_service.errors import EngineLost, InvalidRequest

Options = Mapping[str, msgspec.Raw]  # by name

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")

# A fragment is never sent, and some servers take a backslash for a slash.
_PATH = re.compile(r"/[!-\"$-\[\]-~]*")


class Request(msgspec.Struct, frozen=True):
    """A request as a caller made it, for a path below the URL of an instance.

    `accept` and `content_type` are the only headers of a caller that reach an engine. `options` are
    the values at the top of a body that is a JSON object, as its caller wrote them. Raises
    InvalidRequest for what would be another request on the wire than it is here: another method
    than `METHODS`, a path that leaves the URL of the instance by `..`, or a line break.
    """

    method: str
    path: str
    body: bytes = b""
    content_type: str = ""
    accept: str = ""
    options: Options = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(self.method, self.path)
        if not (self.content_type + self.accept).isprintable():
            raise InvalidRequest("the headers must have no line breaks or other control characters")


@lru_cache(maxsize=256)  # most requests are for one of a few paths
def _check(method: str, path: str) -> None:
    if method not in METHODS:
        raise InvalidRequest(f"the method must be one of {', '.join(METHODS)}")
    if not _PATH.fullmatch(path):
        raise InvalidRequest("the path must begin with `/`, and be percent-encoded")
    segments = re.split(r"[/\\]", unquote(path.partition("?")[0]))
    if not {".", ".."}.isdisjoint(segments):
        raise InvalidRequest("the path must have no `.` or `..` between slashes")


class Head(msgspec.Struct, frozen=True):
    """The beginning of an answer; the names of `headers` are in small letters."""

    status: int
    headers: Mapping[bytes, bytes]

    @property
    def content_type(self) -> str:
        """The type of the body in small letters, without its parameters."""
        given = self.headers.get(b"content-type", b"").decode("latin-1")
        return given.partition(";")[0].strip().lower()


class Source(Protocol):
    """The side of an answer that its sink can hold back and end; no call waits or raises."""

    def pause(self) -> None:
        """Read no more from the engine, which then has to wait once the kernel's buffers are full.

        At most what has been read already still comes, with the end if that is in it.
        """

    def resume(self) -> None:
        """Read on."""

    def close(self) -> None:
        """End the request: the sink gets nothing more.

        Before the end of the answer the connection closes, by which the engine learns that its
        caller has left. After the end this does nothing.
        """


class Sink(Protocol):
    """What gets an answer: `head` once, `data` for each read, and `end` once.

    The calls come straight from the loop that reads the connection: each must return at once. An
    exception is a fault of the sink, which ends the request and is logged.
    """

    def head(self, head: Head, source: Source) -> None:
        """Take the head, and the source of what follows."""

    def data(self, data: bytes) -> None:
        """Take the next bytes of the body, which are never empty."""

    def end(self, error: Exception | None) -> None:
        """Take the end. With an error the answer was broken off, and is not whole."""


def lost(error: Exception) -> EngineLost:
    """Return the error of an engine that cannot be reached, breaks off, or sends no HTTP."""
    return EngineLost(f"broke the connection: {error or type(error).__name__}")
