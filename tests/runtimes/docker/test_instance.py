"""The log of a container, as Docker hands it over: in pieces of at most 16 KiB."""

from __future__ import annotations

from typing import Any

import pytest

from inference_service.runtimes.base import Exit
from inference_service.runtimes.command import Command, Needs
from inference_service.runtimes.docker.instance import RunningContainer
from tests.waiting import PROMPTLY, within


class EndedContainer:
    """A container that has ended, with the pieces of its log."""

    name = "tgi-tiny"

    def __init__(self, *pieces: bytes) -> None:
        self.attrs = {"State": {"Running": False, "ExitCode": 0, "OOMKilled": False}}
        self._pieces = pieces

    def logs(self, **_: Any) -> list[bytes]:
        return list(self._pieces)

    def reload(self) -> None:
        pass


async def lines_of(*pieces: bytes) -> tuple[str, ...]:
    container: Any = EndedContainer(*pieces)
    calls: Any = None
    running = RunningContainer(container, Command(model="tiny", needs=Needs(0)), 8080, calls)
    async with within(PROMPTLY, "the log did not end"):
        assert await running.wait() == Exit(0)
    return running.tail(1000)


def in_pieces(data: bytes, size: int = 16 * 1024) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


async def test_a_character_between_two_pieces_stays_whole() -> None:
    """Elsewhere it became two replacement characters (vector#14644)."""
    for blanks in range(4):
        text = "x" * (16 * 1024 - blanks) + "\U0001f600" + "y" * 100
        assert await lines_of(*in_pieces(f"{text}\nnext\n".encode())) == (text, "next")


async def test_a_bar_in_many_pieces_is_one_line() -> None:
    bar = b"".join(b"\rfetching: %3d%%|%s| %d/100" % (n, b"#" * 500, n) for n in range(101))
    assert await lines_of(b"one\n", *in_pieces(bar), b"\n", b"two\n") == (
        "one",
        f"fetching: 100%|{'#' * 500}| 100/100",
        "two",
    )


@pytest.mark.parametrize("size", [1, 3, 1000])
async def test_control_characters_of_a_container_are_escaped(size: int) -> None:
    data = 'one\r\revent: error\rdata: {"detail": "forged"}\n\x1b[2J\u2028\n'.encode() + b"\xff"
    assert await lines_of(*in_pieces(data, size)) == (
        r'one\r\revent: error\rdata: {"detail": "forged"}',
        r"\x1b[2J\u2028",
        r"\xff",
    )
