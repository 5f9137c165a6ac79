"""Answers of engines that are gathered and mended on their way."""

from __future__ import annotations

import pytest

from inference_service.engines.exchange import Head, Source
from inference_service.engines.mending import Whole

HEAD = Head(400, {})


class Calls(list[object]):
    """A sink, and a source, that keep what they are told."""

    def head(self, head: Head, source: Source) -> None:
        self.append(head.status)

    def data(self, data: bytes) -> None:
        self.append(data)

    def end(self, error: Exception | None) -> None:
        self.append(error)

    def pause(self) -> None:
        self.append("pause")

    def resume(self) -> None:
        self.append("resume")

    def close(self) -> None:
        self.append("close")


def shout(head: Head, body: bytes) -> tuple[Head, bytes]:
    return Head(418, {}), body.upper()


def error(sink: Calls, source: Calls | None = None, *, tells_all: bool = False) -> Whole:
    source = Calls() if source is None else source
    return Whole(HEAD, source, sink, shout, 1 << 16, tells_all=tells_all)


def test_an_error_is_mended_as_a_whole() -> None:
    sink = Calls()
    mended = error(sink)
    for piece in (b"a", b"b"):
        mended.data(piece)
    assert not sink
    mended.end(None)

    assert sink == [418, b"AB", None]


@pytest.mark.parametrize("tells_all", [True, False])
def test_an_error_that_breaks_off_is_not_shown(tells_all: bool) -> None:
    """Whoever asks without a wait learns of the end from the sink alone."""
    sink, broken = Calls(), OSError("gone")
    mended = error(sink, tells_all=tells_all)
    mended.data(b"a")
    mended.end(broken)

    assert sink == [broken] * tells_all


@pytest.mark.parametrize("tells_all", [True, False])
def test_a_body_that_is_no_error_goes_on(tells_all: bool) -> None:
    sink, broken = Calls(), OSError("gone")
    mended = error(sink, tells_all=tells_all)
    large = b"x" * 70_000
    mended.data(large)
    mended.data(b"b")
    mended.end(broken)

    assert sink == [400, large, b"b", broken]


@pytest.mark.parametrize("tells_all", [True, False])
def test_a_sink_that_has_left_is_told_nothing(tells_all: bool) -> None:
    sink, source = Calls(), Calls()
    mended = error(sink, source, tells_all=tells_all)
    for call in (mended.pause, mended.resume, mended.close):
        call()
    mended.end(OSError("gone"))

    assert source == ["pause", "resume", "close"]
    assert sink == []
