"""Requests as bytes, each with its own id.

`REFUSED` has the status and a word of the sentence, and `SERVED` what the application gets. The
bytes come from public reports of request smuggling, and from RFC 9110 and 9112.
"""

from __future__ import annotations

from typing import NamedTuple

from tests.rest_bridge.http.client import GET, post

H2C = (
    b"Connection: Upgrade, HTTP2-Settings",
    b"Upgrade: h2c",
    b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
)
_TE = b"Transfer-Encoding: chunked"
_CHUNKS = b"5\r\n[1,2]\r\n0\r\n\r\n"


class Refused(NamedTuple):
    """A request that is not served."""

    data: bytes
    status: int
    word: str  # in the sentence


class Served(NamedTuple):
    """A request that the application gets. `got` is its JSON, and None that of `GET /hello`."""

    data: bytes
    got: object = None


def _line(line: bytes, body: bytes = b"") -> bytes:
    return b"%b\r\nHost: x\r\n\r\n%b" % (line, body)


def _field(line: bytes) -> bytes:
    return post(b"[1,2]", line)


def _length(value: bytes) -> bytes:
    return post(b"[1,2]", b"Content-Length: " + value)


def _coding(value: bytes) -> bytes:
    return post(_CHUNKS, b"Transfer-Encoding: " + value)


def _chunk(size: bytes, data: bytes = b"\r\n[1,2]\r\n0\r\n\r\n") -> bytes:
    return post(size + data, _TE)


def _host(line: bytes) -> bytes:
    return b"GET /hello HTTP/1.1\r\n%b\r\n" % line


REFUSED = {
    # The first line.
    "nonsense": Refused(b"NONSENSE\r\n\r\n", 400, "method"),
    "a method that is none": Refused(_line(b"FROB /hello HTTP/1.1"), 400, "method"),
    "a method with more behind it": Refused(_line(b"GETX /hello HTTP/1.1"), 400, "method"),
    "TLS": Refused(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "TLS"),
    "CONNECT": Refused(_line(b"CONNECT example.com:80 HTTP/1.1"), 501, "CONNECT"),
    "HTTP/0.9": Refused(b"GET /hello\r\n\r\n", 505, "HTTP/1.1"),
    "HTTP/1.2": Refused(_line(b"GET /hello HTTP/1.2"), 505, "HTTP/1.1"),
    "HTTP/2.0": Refused(_line(b"GET /hello HTTP/2.0"), 505, "HTTP/1.1"),
    "HTTP/2 without an offer": Refused(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "HTTP/2"),
    "http in small letters": Refused(_line(b"GET /hello http/1.1"), 400, "first line"),
    "a space in the path": Refused(_line(b"GET /he llo HTTP/1.1"), 400, "first line"),
    "UTF-8 in the path": Refused(_line("GET /é HTTP/1.1".encode()), 400, "%C3%A9"),
    "UTF-8 in the query": Refused(_line("GET /hello?a=é HTTP/1.1".encode()), 400, "%C3%A9"),
    "a path without a slash": Refused(_line(b"GET hello HTTP/1.1"), 400, "path"),
    "an asterisk that is no OPTIONS": Refused(_line(b"GET * HTTP/1.1"), 400, "OPTIONS"),
    "a fragment": Refused(_line(b"GET /hello#there HTTP/1.1"), 400, "#"),
    "a URL of another protocol": Refused(_line(b"GET ftp://x/hello HTTP/1.1"), 400, "http://"),
    "a URL with a user": Refused(_line(b"GET http://me@x/hello HTTP/1.1"), 400, "user"),
    "a URL without a host": Refused(_line(b"GET http:///hello HTTP/1.1"), 400, "path"),
    # Lines and fields.
    "lines that end with LF": Refused(GET.replace(b"\r\n", b"\n"), 400, "CR LF"),
    "lines that end with CR": Refused(GET.replace(b"\r\n", b"\r"), 400, "CR LF"),
    "LF within the head": Refused(_field(b"X-A: 1\nX-B: 2"), 400, "CR LF"),
    "CR in a value": Refused(_field(b"X-A: 1\rX-B: 2"), 400, ""),
    "NUL in a value": Refused(_field(b"X-A: 1\x002"), 400, "control"),
    "a control character in a value": Refused(_field(b"X-A: 1\x012"), 400, "control"),
    "NUL in a name": Refused(_field(b"X-\x00A: 1"), 400, "Name: value"),
    "a space before the colon": Refused(_field(b"X-A : 1"), 400, "colon"),
    "a space in a name": Refused(_field(b"X A: 1"), 400, "colon"),
    "a field without a name": Refused(_field(b": 1"), 400, "Name: value"),
    "a field without a colon": Refused(_field(b"nonsense"), 400, "Name: value"),
    "a fold": Refused(_field(b"X-A: 1\r\n 2"), 400, "one line"),
    "a first field with a space": Refused(_host(b" X: y\r\nHost: x\r\n"), 400, "space"),
    # Who is meant.
    "no Host": Refused(_host(b""), 400, "Host"),
    "two Hosts": Refused(_host(b"Host: x\r\nHost: y\r\n"), 400, "Host"),
    "a Host that is a URL": Refused(_host(b"Host: a/b@c\r\n"), 400, "Host"),
    "a Host with a port that is none": Refused(_host(b"Host: x:80a\r\n"), 400, "Host"),
    "two Hosts under HTTP/1.0": Refused(
        b"GET /hello HTTP/1.0\r\nHost: x\r\nHost: x\r\n\r\n", 400, "Host"
    ),
    # How long the body is.
    "both lengths": Refused(post(_CHUNKS, _TE, b"Content-Length: 15"), 400, "not both"),
    "both lengths, the other first": Refused(
        post(_CHUNKS, b"Content-Length: 15", _TE), 400, "not both"
    ),
    "two lengths": Refused(
        post(b"[1,2]", b"Content-Length: 5", b"Content-Length: 6"), 400, "one Content-Length"
    ),
    "a length twice": Refused(
        post(b"[1,2]", b"Content-Length: 5", b"Content-Length: 5"), 400, "one Content-Length"
    ),
    **{
        f"a length of {value.decode('latin-1')!r}": Refused(_length(value), 400, "Content-Length")
        for value in (
            *(b"5, 5", b"5, 6", b"+5", b"-5", b"0x5", b"5 5", b"5.0", b"5_0"),
            *(b"\xb2", b"18446744073709551621"),
        )
    },
    "an empty length": Refused(_length(b""), 400, "Content-Length"),
    "chunks under HTTP/1.0": Refused(
        _coding(b"chunked").replace(b"HTTP/1.1", b"HTTP/1.0"), 400, "HTTP/1.0"
    ),
    "chunked twice": Refused(post(_CHUNKS, _TE, _TE), 501, "chunked"),
    "chunked, then another": Refused(
        post(_CHUNKS, _TE, b"Transfer-Encoding: identity"), 501, "chunked"
    ),
    **{
        f"a coding of {value.decode('latin-1')!r}": Refused(_coding(value), 501, "chunked")
        for value in (
            *(b"gzip", b"gzip, chunked", b"chunked, gzip", b"xchunked", b"chunked, chunked"),
            *(b'"chunked"', b"chunked;q=1", b"chunked, identity", b"identity"),
        )
    },
    "a coding with a tab before": Refused(_coding(b"\x0bchunked"), 400, "control"),
    "an expectation": Refused(_field(b"Expect: 200-maybe"), 417, "Expect"),
    # Chunks. CVE-2025-22871 (Go), CVE-2025-55315 (Kestrel), trafficserver#10580, uhttpd#3.
    **{
        f"a chunk of {size.decode()!r}": Refused(_chunk(size), 400, "chunk")
        for size in (
            *(b"5x", b"-5", b"+5", b"0x5", b" 5", b"", b"5_0", b"zz", b"\r5", b"5 "),
            *(b"1these-bytes",),
        )
    },
    "a chunk of 2^64 + 5": Refused(_chunk(b"10000000000000005"), 400, "2^64"),
    "a size that ends with LF": Refused(_chunk(b"5", b"\n[1,2]\r\n0\r\n\r\n"), 400, "chunk"),
    "a chunk that is too long": Refused(_chunk(b"5", b"\r\n[1,2]XX\r\n0\r\n\r\n"), 400, "chunk"),
    "a chunk without its end": Refused(_chunk(b"5", b"\r\n[1,2]0\r\n\r\n"), 400, "chunk"),
    "LF in an extension": Refused(_chunk(b"5;a\nb"), 400, "chunk"),
    "CR in an extension": Refused(_chunk(b"5;a\rb"), 400, "chunk"),
}

SERVED = {
    "GET": Served(GET),
    "POST": Served(post(b"[1,2]"), [1, 2]),
    "chunks": Served(post(b"2\r\n[1\r\n3\r\n,2]\r\n0\r\n\r\n", _TE), [1, 2]),
    "chunks with extensions and trailers": Served(
        post(b'5;a=b;c="d"\r\n[1,2]\r\n0;x\r\nX-T: 1\r\n\r\n', _TE), [1, 2]
    ),
    "sizes with zeros before": Served(post(b"0005\r\n[1,2]\r\n000\r\n\r\n", _TE), [1, 2]),
    "sizes in both cases": Served(
        post(b"A\r\n[1,2,3,4,5\r\na\r\n,6,7,8,9,0\r\n1\r\n]\r\n0\r\n\r\n", _TE),
        [1, 2, 3, 4, 5, 6, 7, 8, 9, 0],
    ),
    "Chunked": Served(_coding(b"Chunked"), [1, 2]),
    "a tab before a value": Served(post(b"[1,2]", b"Content-Length:\t5"), [1, 2]),
    "zeros before a length": Served(_length(b"0005"), [1, 2]),
    "an empty value": Served(_field(b"X-A:"), [1, 2]),
    "latin-1 in a value": Served(_field(b"X-A: h\xe9llo"), [1, 2]),
    "empty lines before": Served(b"\r\n\r\n" + post(b"[1,2]"), [1, 2]),
    "a GET with a body that looks like requests": Served(
        b"GET /hello HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (2 * len(GET)) + GET + GET
    ),
    "an offer of h2c": Served(post(b"[1,2]", *H2C), [1, 2]),
    "an offer of h2c with chunks": Served(post(_CHUNKS, *H2C, _TE), [1, 2]),
    "an offer of h2c without a body": Served(
        GET[:-2] + b"".join(line + b"\r\n" for line in H2C) + b"\r\n"
    ),
    "an offer of websocket": Served(
        post(b"[1,2]", b"Connection: upgrade", b"Upgrade: websocket"), [1, 2]
    ),
    "a Host with a port": Served(_host(b"Host: example.com:8000\r\n")),
    "a Host of IPv6": Served(_host(b"Host: [::1]:8000\r\n")),
    "an empty Host": Served(_host(b"Host:\r\n")),
    "no Host under HTTP/1.0": Served(b"GET /hello HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"),
    "a URL": Served(_line(b"GET http://example.com/hello HTTP/1.1")),
    "120 headers": Served(
        GET[:-2] + b"".join(b"X-%03d: %b\r\n" % (n, b"a" * 90) for n in range(120)) + b"\r\n"
    ),
    "a header of 12 kB": Served(GET[:-2] + b"Authorization: " + b"a" * 12_000 + b"\r\n\r\n"),
}
