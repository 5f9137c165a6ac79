"""Requests cut at every byte, and spoiled at random. h11 is the second opinion."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

import h11
import pytest

from tests.rest_bridge.http.cases import REFUSED, SERVED
from tests.rest_bridge.http.client import GET
from tests.rest_bridge.http.memory import Memory, Outcome, Seen
from tests.rest_bridge.http.test_route import Prompt

CASES = {name: case.data for name, case in REFUSED.items()}
CASES |= {name: case.data for name, case in SERVED.items()}

_LENIENT = re.compile(rb"^[\r\n]*([A-Z-]+) +(\S+) +HTTP/")

# Bytes that the fuzz below once read in two ways.
FOUND = {
    "the first byte of TLS in a method": b"P\x16\x03\x01\x02\x00\x01\x00\x01",
    "the first byte of TLS in a path": b"POST /ech\x16\x03\x01 HTTP/1.1\r\n",
}


@pytest.mark.parametrize("data", [*CASES.values(), *FOUND.values()], ids=[*CASES, *FOUND])
async def test_segments_change_nothing(data: bytes) -> None:
    memory = Memory()
    data += GET
    whole = await memory.ask(data)
    step = 1 + len(data) // 1000
    for cut in range(1, len(data), step):
        assert await memory.ask(data[:cut], data[cut:]) == whole, f"cut behind {data[:cut]!r}"

    assert await memory.ask(*(data[at : at + step] for at in range(0, len(data), step))) == whole
    assert not whole.faults


@pytest.mark.parametrize("data", [*CASES.values(), *FOUND.values()], ids=[*CASES, *FOUND])
async def test_requests_are_those_that_h11_reads(data: bytes) -> None:
    outcome = await Memory().ask(data + GET)

    agree(outcome, data + GET)


async def test_spoiled_requests() -> None:
    """The seed is fixed: what is found becomes a case of `FOUND`."""
    memory, chance = Memory(), random.Random(13)
    texts = [data for data in CASES.values() if len(data) < 1000]
    for _ in range(4000):
        data = spoiled(chance, texts) + GET
        whole = await memory.ask(data)
        cuts = sorted(chance.randrange(len(data)) for _ in range(chance.randrange(1, 5)))
        cut = await memory.ask(*(data[a:b] for a, b in zip([0, *cuts], [*cuts, None], strict=True)))

        assert cut == whole, (data, cuts)
        assert not whole.faults, data
        answers(whole)
        agree(whole, data)


async def test_random_bytes() -> None:
    memory, chance = Memory(), random.Random(14)
    for _ in range(1000):
        outcome = await memory.ask(chance.randbytes(chance.randrange(1, 300)), GET)
        assert not outcome.faults
        answers(outcome)


async def test_spoiled_requests_that_are_answered_before_their_bodies() -> None:
    memory, chance = Memory(), random.Random(15)
    memory.shared.begin = lambda exchange, *_: Prompt(exchange)
    texts = [data for data in CASES.values() if len(data) < 1000]
    for _ in range(2000):
        data = spoiled(chance, texts) + GET
        cut = chance.randrange(len(data))
        outcome = await memory.ask(data[:cut], data[cut:])
        assert {200, 400, 417, 501, 505}.issuperset(answers(outcome))


def spoiled(chance: random.Random, texts: Sequence[bytes]) -> bytes:
    """Return a request with a few small changes, such as people make who look for gaps."""
    data = bytearray(chance.choice(texts))
    for _ in range(chance.randrange(1, 4)):
        at = chance.randrange(len(data))
        match chance.randrange(6):
            case 0:
                data[at] = chance.choice(b"\0\t\n\r :;,/-_0159aAfFxXzZ\x7f\x80\xff")
            case 1:
                del data[at : at + chance.randrange(1, 4)]
            case 2:
                data[at:at] = chance.choice([b"\r\n", b"\n", b"\r", b" ", b"\0", b":", b"0", b";"])
            case 3:
                other = chance.choice(texts)
                data[at:] = other[chance.randrange(len(other)) :]
            case 4:
                lines = data.split(b"\r\n")
                line = chance.randrange(len(lines))
                lines[line:line] = [chance.choice(lines)]
                data = bytearray(b"\r\n".join(lines))
            case 5:
                data[at:at] = chance.choice(texts)
        data = data or bytearray(b"x")
    return bytes(data)


def answers(outcome: Outcome) -> list[int]:
    """Return the status of each answer, which all must be whole."""
    found, rest = [], outcome.sent
    while rest:
        head, mark, rest = rest.partition(b"\r\n\r\n")
        assert mark, outcome.sent
        match = re.match(rb"HTTP/1\.1 (\d{3}) ", head)
        assert match, outcome.sent
        if (status := int(match[1])) < 200:
            continue
        found.append(status)
        length = re.search(rb"\r\ncontent-length: (\d+)", head)
        assert length, outcome.sent
        if not _head_of(outcome, len(found)):
            assert len(rest) >= int(length[1]), outcome.sent
            rest = rest[int(length[1]) :]
    return found


def _head_of(outcome: Outcome, number: int) -> bool:
    return number <= len(outcome.seen) and outcome.seen[number - 1].method == "HEAD"


def agree(outcome: Outcome, data: bytes) -> None:
    """Compare the requests that we serve with what h11 reads in the same bytes.

    h11 serves some that we refuse: line ends of LF alone, folds, control characters. It refuses
    none that we serve, and never do the two see different requests.
    """
    theirs = by_h11(data, len(outcome.seen))
    for ours, other in zip(outcome.seen, theirs, strict=True):
        assert normal(ours) == normal(other), data


def by_h11(data: bytes, most: int) -> list[Seen]:
    """Return the first requests that h11 reads, each by a parser of its own.

    A parser would end behind HTTP/1.0 and offers of other protocols. What llhttp passes over before
    and within the first line (RFC 9112, 2.2 and 3), h11 refuses.
    """
    seen: list[Seen] = []
    while len(seen) < most:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
        connection.receive_data(_LENIENT.sub(rb"\1 \2 HTTP/", data))
        try:
            event = connection.next_event()
            if not isinstance(event, h11.Request):
                break
            body = b""
            while isinstance(part := connection.next_event(), h11.Data):
                body += part.data
            if not isinstance(part, h11.EndOfMessage):
                break
        except h11.ProtocolError:
            break
        seen.append(Seen(event.method.decode(), event.target, list(event.headers), body))
        data = connection.trailing_data[0]
    return seen


def normal(seen: Seen) -> tuple[str, bytes, list[tuple[bytes, bytes]], bytes]:
    """Return a request without what the two write in different ways."""
    target = re.sub(rb"^https?://[^/?#]+/?", b"/", seen.target, flags=re.IGNORECASE)
    headers = [
        (name, value.lower() if name == b"transfer-encoding" else value.strip(b" \t"))
        for name, value in seen.headers
        if name != b"host"
    ]
    return seen.method, target, headers, seen.body
