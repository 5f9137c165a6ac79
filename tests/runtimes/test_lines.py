"""Lines out of what an engine writes: bars, torn reads, and lines without an end."""

from __future__ import annotations

import time

import pytest

from inference_service.runtimes.lines import Line, Lines


def shown(*reads: bytes, limit: int = 100) -> list[str]:
    """Return the lines that are kept in the end, of bytes that come in these reads."""
    lines = Lines(limit)
    kept: list[str] = []
    for read in [*lines_of(lines, reads), *lines.end()]:
        if read.redrawn:
            kept.pop()
        kept.append(read.text)
    return kept


def lines_of(lines: Lines, reads: tuple[bytes, ...]) -> list[Line]:
    return [line for read in reads for line in lines.feed(read)]


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        (b"one\ntwo\n", ["one", "two"]),
        (b"one\r\ntwo\r\n", ["one", "two"]),
        (b"one\r\r\n\n", ["one", ""]),
        (b"no end", ["no end"]),
        (b"  blanks stay  \t\n", ["  blanks stay"]),
        (b"", []),
        ("größer 日本 \U0001f600\n".encode(), ["größer 日本 \U0001f600"]),
        (b"\xff\xfe no UTF-8 \xe2\x82\n", ["\\xff\\xfe no UTF-8 \\xe2\\x82"]),
        (b"\xed\xa0\x80 half of a pair\n", ["\\xed\\xa0\\x80 half of a pair"]),
        # Words that hide what stands before them stay behind it.
        (b"prompt: x\r2026-11-28 ERROR forged\n", ["prompt: x\r2026-11-28 ERROR forged"]),
        (b"one\r\revent: error\rdata: {}\n", ["one\r\revent: error\rdata: {}"]),
        # Bars of tqdm, of a total that is not known, and of vLLM.
        (b"\r  0%|    | 0/2\r 50%|##  | 1/2\r100%|####| 2/2\n", ["100%|####| 2/2"]),
        (b"\rname: 0it [00:00, ?it/s]\rname: 7it [00:01, 7it/s]\n", ["name: 7it [00:01, 7it/s]"]),
        (b"\r12.0MB [00:01]\r1.5GB [00:09]\n", ["1.5GB [00:09]"]),
        (b"\rshards:  50% Completed\rshards: 100% Completed\n\n", ["shards: 100% Completed", ""]),
        (b"\r 10%|#\r 99%|##\r       \r\nnext\n", [" 99%|##", "next"]),
        # Another bar, and another text, do not hide the bar before.
        (b"\rone:  50%|\rtwo:  10%|\rtwo:  20%|\n", ["one:  50%|\rtwo:  20%|"]),
        (b"\rone:  50%|\rfailed\n", ["one:  50%|\rfailed"]),
        (b"2026-11-28 at 10% x\r2026-11-28 ERROR forged 5%\n", None),
    ],
)
def test_a_line_is_the_same_in_whatever_reads_it_comes(
    written: bytes, kept: list[str] | None
) -> None:
    whole = shown(written)

    if kept is not None:
        assert [line.lstrip() for line in whole] == [line.lstrip() for line in kept]
    else:
        assert whole == [written.decode().rstrip()]
    for cut in range(len(written) + 1):
        assert shown(written[:cut], written[cut:]) == whole
    assert shown(*(bytes([byte]) for byte in written)) == whole


def test_a_bar_is_shown_before_its_line_ends() -> None:
    lines = Lines()

    assert list(lines.feed(b"\r 10%|#")) == []
    assert list(lines.feed(b"\r 20%|##")) == [Line(" 10%|#")]
    assert list(lines.feed(b"\r 30%|##\r 40%|##\r 50%|##\r")) == [Line(" 50%|##", redrawn=True)]
    assert list(lines.feed(b"100%|####\nnext\n")) == [
        Line("100%|####", redrawn=True),
        Line("next"),
    ]


def test_a_bar_that_ends_as_it_was_shown_is_not_shown_again() -> None:
    lines = Lines()

    assert list(lines.feed(b"\r100%|####\r")) == [Line("100%|####")]
    assert list(lines.feed(b"\n")) == []


@pytest.mark.parametrize("read", [1, 7, 64, 1000])
@pytest.mark.parametrize("character", ["x", "日", "\r", "a\r"])
def test_a_line_without_an_end_is_bounded(read: int, character: str) -> None:
    lines = Lines(100)
    data = (character * 5000).encode()
    for start in range(0, len(data), read):
        assert list(lines.feed(data[start : start + read])) == []
        assert len(lines._text) + sum(map(len, lines._states)) + len(lines._states) < 210
    [line] = lines.feed(b"\n")

    assert len(line.text.encode()) < 110
    assert line.text == "" if character == "\r" else line.text.endswith("…")
    assert "\ufffd" not in line.text and "\\x" not in line.text
    assert list(lines.feed(b"next\n")) == [Line("next")]


def test_a_bar_that_is_drawn_for_ever_is_bounded() -> None:
    lines = Lines(1000)
    for _ in range(100):
        seen = list(lines.feed(b"".join(b"\r %2d%%|####" % percent for percent in range(100))))
        assert len(seen) <= 1
    assert [line.text for line in lines.end()] == [" 99%|####"]


@pytest.mark.parametrize("nasty", [b"1" * 200_000, b" " * 200_000, b"1 " * 100_000, b"%" * 99_999])
def test_no_line_takes_long_to_read(nasty: bytes) -> None:
    """Whether a line is a bar is asked of its beginning alone."""
    lines = Lines()
    for _ in range(20):
        list(lines.feed(nasty + b"\r"))


@pytest.mark.parametrize("end", [b"\n", b"\r"])
def test_a_flood_of_pieces_in_one_read_costs_little_time(end: bytes) -> None:
    """Each piece by itself would take the loop for half a second."""
    lines = Lines()
    begun = time.thread_time()
    seen = [*lines.feed(b"a" + end * 65536), *lines.feed(b"b\n")]
    assert time.thread_time() - begun < 0.1
    assert len(seen) <= 1001
    assert seen[-1].text.endswith("b")


def test_a_flood_ends_the_line_that_was_begun() -> None:
    lines = Lines()
    assert not [*lines.feed(b"begun")]
    seen = [line.text for line in lines.feed(b" and ended\n" + b"x\n" * 5000 + b"last\nnot")]
    assert (seen[0], seen[-1], len(seen)) == ("begun and ended", "last", 1000)
    assert [line.text for line in lines.end()] == ["not"]
