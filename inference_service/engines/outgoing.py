"""Requests to engines as bytes, and where they go."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple
from urllib.parse import urlsplit

from inference_service.engines.exchange import Request


class Origin(NamedTuple):
    """Where to connect to; `shown` is the host as the URL has it."""

    secure: bool
    host: str
    port: int
    shown: str


def payload_of(base: str, fields: str, request: Request) -> bytes:
    """Return a request with these fields, for a path below `base`."""
    head = f"{request.method} {base}{request.path} HTTP/1.1\r\n{fields}"
    if request.body or request.method not in ("GET", "DELETE"):
        head += f"content-length: {len(request.body)}\r\n"
    return f"{head}\r\n".encode() + request.body


@lru_cache(maxsize=256)
def fields_of(
    origin: Origin,
    keep_alive: bool,
    accept: str,
    content_type: str,
    added: tuple[tuple[str, str], ...],
) -> str:
    """Return the lines of a head that do not depend on the path and the body."""
    headers = {
        "host": origin.shown,
        "connection": "" if keep_alive else "close",
        "accept": accept,
        "content-type": content_type,
    }
    headers |= {name.lower(): value for name, value in added}
    headers.pop("content-length", None)  # that of the body follows
    return "".join([f"{name}: {value}\r\n" for name, value in headers.items() if value])


@lru_cache(maxsize=256)
def parts_of(url: str) -> tuple[Origin, str]:
    """Split a URL into its origin and the base path, which is empty or begins with a slash."""
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    shown = parts.netloc.rpartition("@")[2]
    port = parts.port or (443 if secure else 80)
    return Origin(secure, parts.hostname or "", port, shown), parts.path.rstrip("/")
