"""Requests as data: what would be another request on the wire is none."""

from __future__ import annotations

import pytest

from inference_service.engines.exchange import Head, Request
from inference_service.errors import InvalidRequest

PATHS = ["/", "/v1/models", "/a?b=../c&d=%2e%2e", "/files/a.b", "/...", "/~x/%20", "//x"]
NO_PATHS = ["", "v1", "http://x/", "*", "/a b", "/a\r\nx: y", "/a#b", "/größe", "/a\\b", "/a\x00"]
OUTSIDE = [
    *("/..", "/../x", "/a/../b", "/a/..?x", "/./a"),
    *("/%2e%2e/a", "/.%2E/a", "/a%2f..%2fb", "/%5c.."),
]


@pytest.mark.parametrize("path", PATHS)
def test_a_path_may_be(path: str) -> None:
    assert Request("GET", path).path == path


@pytest.mark.parametrize("path", [*NO_PATHS, *OUTSIDE])
def test_a_path_may_not_be(path: str) -> None:
    with pytest.raises(InvalidRequest, match="the path must"):
        Request("GET", path)


@pytest.mark.parametrize("method", ["", "get", "HEAD", "CONNECT", "OPTIONS", "GET / HTTP/1.1\r\n"])
def test_a_method_may_not_be(method: str) -> None:
    with pytest.raises(InvalidRequest, match="the method must be one of GET, POST"):
        Request(method, "/")


@pytest.mark.parametrize("value", ["a\r\nx: y", "a\n", "\r", "a\x00", "a\x7f"])
def test_a_header_has_no_control_characters(value: str) -> None:
    with pytest.raises(InvalidRequest, match="control characters"):
        Request("GET", "/", accept=value)
    with pytest.raises(InvalidRequest, match="control characters"):
        Request("POST", "/", content_type=value)


@pytest.mark.parametrize(
    ("given", "shown"),
    [(b"Text/HTML; charset=x", "text/html"), (b" a/b ", "a/b"), (b"", ""), (b"\xff", "ÿ")],
)
def test_a_content_type_is_shown_without_its_parameters(given: bytes, shown: str) -> None:
    assert Head(200, {b"content-type": given}).content_type == shown
    assert Head(200, {}).content_type == ""
