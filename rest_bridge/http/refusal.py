"""Requests that the server itself refuses."""

import json
from http import HTTPStatus

LINES = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n".encode() for s in HTTPStatus}

_RETRY = {503: b"retry-after: 1\r\n"}


class Refusal(Exception):
    """A status, and a sentence that says what to change."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail

    @property
    def body(self) -> bytes:
        """The answer's body."""
        return json.dumps({"detail": self.detail}, ensure_ascii=False).encode()

    def encoded(self, date: bytes) -> bytes:
        """Return the answer, which is the last one of its connection."""
        body = self.body
        return (
            b"%b%b%bcontent-type: application/json\r\nconnection: close\r\n"
            b"content-length: %d\r\n\r\n%b"
        ) % (LINES[self.status], date, _RETRY.get(self.status, b""), len(body), body)
