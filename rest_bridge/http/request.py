"""The head of a request, and the rules of RFC 9110 and 9112 that llhttp does not check."""

import re
from functools import lru_cache
from typing import NamedTuple

from rest_bridge.http.refusal import Refusal

Headers = list[tuple[bytes, bytes]]

# What the server acts on. A request that has one of these twice means two things.
_ONCE = frozenset((b"host", b"content-length", b"transfer-encoding", b"expect"))
_HOST = re.compile(
    rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~%!$&'()*+,;=-]*)(?::[0-9]*)?"  # RFC 3986, 3.2.2
)
_ABSOLUTE = re.compile(rb"https?://([^/?#]+)([^#]*)", re.IGNORECASE)


class Request(NamedTuple):
    """A request as its head says."""

    method: str
    path: bytes  # not decoded
    query: bytes
    version: str  # 1.0 or 1.1
    headers: Headers  # with names in small letters
    keep_alive: bool
    expects_continue: bool
    length: int | None  # of the body; None when it comes in chunks

    @property
    def target(self) -> bytes:
        """The path and the query, as the client wrote them."""
        return self.path + b"?" + self.query if self.query else self.path


def checked(
    method: str, target: bytes, version: str, headers: Headers, keep_alive: bool
) -> Request:
    """Return the request of a head. Raises Refusal."""
    if version not in ("1.1", "1.0"):
        raise Refusal(505, "the request must be HTTP/1.1 or HTTP/1.0")
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in _ONCE:
            if name in found:
                raise Refusal(400, f"the request must have one {name.decode().title()}, not two")
            found[name] = value
    path, query, authority = _split(method, target)
    _check_host(found.get(b"host"), version)
    if authority is not None:  # RFC 9112, 3.2.2: it wins over Host
        if not authority or not _HOST.fullmatch(authority):
            raise Refusal(400, "the URL in the request line must have a host, and no user")
        headers = [(b"host", authority), *(pair for pair in headers if pair[0] != b"host")]
    expect = found.get(b"expect")
    expects = expect is not None and _expects(expect) and version == "1.1"
    return Request(
        method, path, query, version, headers, keep_alive, expects, _length(found, version)
    )


@lru_cache(maxsize=64)  # and paths; each has at most 64 KiB
def _split(method: str, target: bytes) -> tuple[bytes, bytes, bytes | None]:
    """Return path, query, and the host and port of an absolute URL."""
    if method == "CONNECT":
        raise Refusal(501, "this server is no proxy, and has no CONNECT")
    authority = None
    if target == b"*":
        if method != "OPTIONS":
            raise Refusal(400, "a path must begin with a slash; `*` is for OPTIONS alone")
    elif not target.startswith(b"/"):
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is None:
            raise Refusal(400, "a path must begin with a slash, and a URL with http://")
        authority, target = absolute.groups()
        if not target.startswith(b"/"):
            target = b"/" + target
    if b"#" in target or not target.isascii():
        raise Refusal(400, "leave out the part of the URL from `#` on, or write it as %23")
    path, _, query = target.partition(b"?")
    return path, query, authority


@lru_cache(maxsize=64)  # clients of one server name few hosts
def _check_host(host: bytes | None, version: str) -> None:
    if host is None:
        if version == "1.1":
            raise Refusal(400, "the request must have a Host header")
    elif not _HOST.fullmatch(host):
        raise Refusal(400, "the Host header must be a name or an address, with or without a port")


def _expects(expect: bytes) -> bool:
    if expect.lower() != b"100-continue":
        raise Refusal(417, "leave out the Expect header; the server knows 100-continue alone")
    return True


def _length(found: dict[bytes, bytes], version: str) -> int | None:
    coding, length = found.get(b"transfer-encoding"), found.get(b"content-length")
    if coding is None:
        if length is None:
            return 0
        if not length.isdigit():
            raise Refusal(400, "Content-Length must be a number of bytes, in digits")
        return int(length)
    if version == "1.0":
        raise Refusal(400, "HTTP/1.0 has no Transfer-Encoding; send a Content-Length")
    if length is not None:
        raise Refusal(400, "send Content-Length or Transfer-Encoding, not both")
    if coding.lower() != b"chunked":
        raise Refusal(501, "the only Transfer-Encoding that the server knows is chunked")
    return None
