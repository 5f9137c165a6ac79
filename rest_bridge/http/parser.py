"""llhttp as a parser of requests, which bodies behind an offer of another protocol belong to."""

from typing import Protocol

import httptools

from rest_bridge.http.limits import Limits
from rest_bridge.http.refusal import Refusal
from rest_bridge.http.request import Headers, Request, checked

_ADVICE = {  # llhttp's words, and ours; the first that is found in the reason
    "Invalid method": (400, "a request must begin with a method of HTTP, such as GET or POST"),
    "url": (400, "the path and the query must be ASCII without spaces; write é as %C3%A9"),
    "CRLF after version": (400, "each line of the head must end with CR LF"),
    "version": (505, "the request must be HTTP/1.1 or HTTP/1.0"),
    "PRI": (505, "this port has no HTTP/2; use HTTP/1.1"),
    "Expected HTTP/": (400, "the first line must be METHOD PATH HTTP/1.1, with one space between"),
    "header token": (400, "a header must be `Name: value`, without a space before the colon"),
    "whitespace after header": (400, "a header must be in one line, without a fold"),
    "space after start line": (400, "the first header must not begin with a space"),
    "header value char": (400, "a header must have no control characters, and end with CR LF"),
    "present with": (400, "send Content-Length or Transfer-Encoding, not both"),
    "Content-Length": (400, "the request must have one Content-Length, a number in digits"),
    "Transfer-Encoding": (501, "the only Transfer-Encoding that the server knows is chunked"),
    "chunk": (400, "a chunk must be its size in hexadecimal digits, CR LF, its bytes, CR LF"),
    "Chunk": (400, "the size of a chunk must be below 2^64"),
    "expected CR": (400, "each line of the head must end with CR LF"),
    "LF": (400, "each line of the head must end with CR LF"),
}
_TLS = 0x16  # the first byte of a client that speaks TLS
_FRAMES = (b"content-length", b"transfer-encoding")


class Events(Protocol):
    """What a parser reports to; each call may raise Refusal."""

    def begin(self, request: Request) -> None:
        """Take the head of a request."""

    def piece(self, data: bytes) -> None:
        """Take a part of its body."""

    def complete(self) -> None:
        """Take the end of its body."""


class Parser:
    """The requests in the bytes of one connection.

    `begun` says whether a part of a head has come, and `between` how many bytes have come since the
    last thing that was reported.
    """

    __slots__ = (
        "_again", "_events", "_first", "_headers", "_in_body", "_limits", "_llhttp", "_url",
        "begun", "between",
    )  # fmt: skip

    def __init__(self, events: Events, limits: Limits) -> None:
        self._events = events
        self._limits = limits
        self._url = b""
        self._headers: Headers = []
        self._in_body = False
        self._again = False  # reads a head that was made here
        self._first = -1  # byte of the connection
        self.begun = False
        self.between = 0
        self._renew()

    def feed(self, data: bytes | memoryview) -> None:
        """Take bytes, of which nothing is kept. Raises Refusal, after which this is of no use."""
        self.between += len(data)
        if self._first < 0:
            self._first = data[0]
        while data:
            try:
                self._llhttp.feed_data(data)
                break
            except httptools.HttpParserUpgrade as upgrade:
                data = data[upgrade.args[0] :]
                self._pass_over_offer()
            except httptools.HttpParserError as error:
                raise self._refusal(error) from None
        if self.between > self._limits.head_bytes:
            raise self._too_long()

    def _renew(self) -> None:
        self._llhttp = httptools.HttpRequestParser(self)
        # Else bytes behind `Connection: close` are an error; the connection drops them.
        self._llhttp.set_dangerous_leniencies(lenient_data_after_close=True)

    def _pass_over_offer(self) -> None:
        """Read what follows an offer of another protocol (Upgrade) as the body of the request.

        httptools takes it for that protocol (httptools#124). curl with --http2 and Java's
        HttpClient offer h2c with each request. A new parser gets a head with the same framing.
        """
        frame = [b"%b: %b\r\n" % pair for pair in self._headers if pair[0] in _FRAMES]
        self._renew()
        self._again = True
        self._llhttp.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % b"".join(frame))

    def _too_long(self) -> Refusal:
        limit = f"{self._limits.head_bytes} bytes"
        if self._in_body:
            return Refusal(431, f"between two pieces of a body there may be {limit} at most")
        if not self._headers and len(self._url) > self._limits.head_bytes // 2:
            return Refusal(414, f"the head must have at most {limit}: shorten the URL")
        return Refusal(431, f"the head must have at most {limit}")

    def _refusal(self, error: httptools.HttpParserError) -> Refusal:
        cause = error.__context__
        if isinstance(cause, Refusal):
            return cause
        if isinstance(error, httptools.HttpParserCallbackError) and cause is not None:
            raise cause  # a fault of ours
        if self._first == _TLS:
            return Refusal(400, "this port speaks no TLS; use http://, or a proxy that speaks TLS")
        reason = str(error)
        for words, advice in _ADVICE.items():
            if words in reason:
                return Refusal(*advice)
        return Refusal(400, f"the request breaks the rules of HTTP/1.1: {reason}")

    # llhttp calls these.

    def on_message_begin(self) -> None:
        """Note the first byte of a head."""
        if not self._again:
            self.begun = True
            self.between = 1  # the rest of what was fed may hold whole requests
            self._url = b""
            self._headers = []

    def on_url(self, url: bytes) -> None:
        """Note the target, or a part of it."""
        if not self._again:
            self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Note a header. Those behind a body (trailers) are dropped: RFC 9110, 6.5.1."""
        if not (self._in_body or self._again):
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Report a request."""
        if self._again:
            self._again = False
            return
        if len(self._headers) > self._limits.head_fields:
            raise Refusal(431, f"a request must have at most {self._limits.head_fields} headers")
        llhttp = self._llhttp
        request = checked(
            llhttp.get_method().decode(),
            self._url,
            llhttp.get_http_version(),
            self._headers,
            llhttp.should_keep_alive(),
        )
        self._in_body = True
        self.begun = False
        self.between = 0
        self._events.begin(request)

    def on_body(self, data: bytes) -> None:
        """Report a part of the body."""
        self.between = 0
        self._events.piece(data)

    def on_message_complete(self) -> None:
        """Report the end of the body, unless it is still to come behind an offer."""
        if not self._llhttp.should_upgrade():
            self._in_body = False
            self.between = 0
            self._events.complete()
