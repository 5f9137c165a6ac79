"""The hosts at which this API may be called."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rest_bridge.hosts import Authority, Hosts, allowed_host


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("localhost", ("localhost", None)),
        ("LOCALHOST.:80", ("localhost", 80)),
        ("localhost:", ("localhost", None)),
        ("my_llm:8000", ("my_llm", 8000)),
        ("[::0001]:5", ("::1", 5)),
        ("127.0.0.1", ("127.0.0.1", None)),
        *[(text, None) for text in ("", ".", ":80", "a:b", "a:80:80", "::1", "[::1", "[a]", "a b")],
        *[(text, None) for text in ("user@a", "a/b", "a?b", "bücher.example", "a:123456", "a\n")],
    ],
)
def test_the_host_and_the_port(text: str, parsed: tuple[str, int | None] | None) -> None:
    assert Authority.parse(text) == parsed


@given(st.text())
def test_no_text_makes_a_fault(text: str) -> None:
    authority = Authority.parse(text)
    if authority is not None:
        assert (authority in Hosts(["*"])) is True
        assert isinstance(authority in Hosts(), bool)


@pytest.mark.parametrize(
    ("written", "kept"),
    [("LLM.", "llm"), ("*", "*"), ("*.Example.org", "*.example.org"), ("[::1]", "::1")],
)
def test_a_host_of_the_settings_in_normal_form(written: str, kept: str) -> None:
    assert allowed_host(written) == kept
    assert allowed_host(kept) == kept
