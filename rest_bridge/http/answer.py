"""The bytes of an answer, by the rules of RFC 9112."""

import re
import time
from collections.abc import Iterable
from email.utils import formatdate
from functools import lru_cache

from rest_bridge.http.refusal import LINES
from rest_bridge.http.request import Request

_NAME = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
# The server frames the answer, says whether the connection stays, and knows the date.
_KNOWN = {b"content-length", b"content-type", b"date"}
_KNOWN |= {b"connection", b"keep-alive", b"transfer-encoding", b"upgrade"}


class Answer:
    """The framing of one answer. What an application does wrong raises ValueError.

    `keeps` is whether the connection stays after the answer; only `head` changes it.
    """

    __slots__ = (
        "_bodiless", "_chunked", "_events", "_left", "_request", "_tail",
        "done", "keeps", "started", "status",
    )  # fmt: skip

    def __init__(self, request: Request) -> None:
        self._request = request
        self._bodiless = request.method == "HEAD"
        self._chunked = False
        self._left: int | None = None  # bytes of a body that has a length
        self._events = False  # it is a stream of events
        self._tail = b""
        self.keeps = request.keep_alive
        self.status = 0
        self.started = False
        self.done = False

    def head(self, status: int, headers: Iterable[tuple[bytes, bytes]], keep: bool) -> bytes:
        """Return the head. The connection is kept if `keep` allows that, and the headers too."""
        if self.started:
            raise ValueError("an answer has one head")
        if not 200 <= status <= 999:
            raise ValueError(f"no status of an answer: {status}")
        self.keeps = self.keeps and keep
        parts = [LINES.get(status) or b"HTTP/1.1 %d \r\n" % status, date()]
        for name, value in headers:
            known = _known(name)
            if known is None or self._notes(known, value, status, parts):
                parts.append(b"%b: %b\r\n" % (name, value))
        self._frame(status, parts)
        head = b"".join(parts)
        if not head.count(b"\n") == head.count(b"\r") == len(parts) or b"\0" in head:
            raise ValueError(f"a line end or a NUL in a header: {head!r}")
        self.status = status
        self.started = True
        return head

    def _notes(self, name: bytes, value: bytes, status: int, parts: list[bytes]) -> bool:
        """Act on a header; return whether it is sent."""
        if name == b"content-length":
            self._set_length(value)
            return status != 204  # RFC 9110, 8.6
        if name == b"content-type":
            self._events = value.startswith(b"text/event-stream")
            return True
        if name == b"date":
            parts[1] = b"date: %b\r\n" % value
        elif name == b"connection" and b"close" in value.lower():
            self.keeps = False
        return False

    def _set_length(self, value: bytes) -> None:
        if self._left is not None or not value.isdigit():
            raise ValueError("an answer has one content-length, a number")
        self._left = int(value)

    def _frame(self, status: int, parts: list[bytes]) -> None:
        """Say where the body ends, and whether the connection stays."""
        old = self._request.version == "1.0"
        if status in (204, 304):
            self._bodiless = True
        elif self._left is None and not self._bodiless:
            if old:
                self.keeps = False  # the end of the connection is that of the body
            else:
                self._chunked = True
                parts.append(b"transfer-encoding: chunked\r\n")
        if not self.keeps:
            parts.append(b"connection: close\r\n")
        elif old:
            parts.append(b"connection: keep-alive\r\n")
        parts.append(b"\r\n")

    def body(self, data: bytes, more: bool) -> bytes:
        """Return a part of the body; `more` is False for the last one."""
        if not self.started or self.done:
            raise ValueError("a body comes after the head, and ends once")
        if self._bodiless:
            data = b""
        elif self._left is not None:
            self._left -= len(data)
            if self._left < 0 or (self._left and not more):
                raise ValueError("the body has another length than content-length says")
        elif self._chunked:
            if data:
                self._tail = data[-2:]
                data = b"%x\r\n%b\r\n" % (len(data), data)
            if not more:
                data += b"0\r\n\r\n"
        self.done = not more
        return data

    @property
    def has_length(self) -> bool:
        """Whether a body of known length follows the head."""
        return bool(self._left) and not self._bodiless

    @property
    def ends_by_close(self) -> bool:
        """Whether the end of the connection is the end of the body."""
        return self.started and not (self._chunked or self._bodiless or self._left is not None)

    def filler(self) -> bytes:
        """Return bytes that every client passes over, or none where there are no such bytes.

        Before the head it is an interim answer, and between two events of a stream a comment.
        """
        if not self.started:
            return b"HTTP/1.1 100 Continue\r\n\r\n" if self._request.version == "1.1" else b""
        if self._events and self._chunked and not self.done and self._tail in (b"", b"\n\n"):
            return b"3\r\n:\n\n\r\n"
        return b""


def date() -> bytes:
    """Return the header with the date of now, which RFC 9110 wants in each answer (6.6.1)."""
    return _date(int(time.time()))


@lru_cache(maxsize=1)
def _date(second: int) -> bytes:
    return b"date: %b\r\n" % formatdate(second, usegmt=True).encode()


@lru_cache(maxsize=256)
def _known(name: bytes) -> bytes | None:
    """Return a name on which the server acts, in small letters, or None."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"no name of a header: {name!r}")
    low = name.lower()
    return low if low in _KNOWN else None
