"""Floods, broken frames and closed windows of HTTP/2."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress

import h2.exceptions
import pytest

from inference_service.v1 import model_service_pb2 as pb
from tests.attack.conftest import Attacked
from tests.attack.http2 import PREFACE, SERVICE, Peer, connected, frame, headers
from tests.attack.target import ATTACKED, Target

pytestmark = pytest.mark.attack

_TEXT = pb.GenerateStreamRequest(
    model_id=ATTACKED, prompt="Once upon a time", max_new_tokens=200
).SerializeToString()
_GONE = (ConnectionError, h2.exceptions.ProtocolError)


async def test_floods(attack: Attacked) -> None:
    await attack("floods of HTTP/2 frames", _flood)


async def _flood(target: Target, dice: random.Random) -> None:
    flood = dice.choice(
        [_resets, _pings, _settings, _continuations, _windows, _calls, _large_heads]
    )
    target.row.tried[flood.__name__] += 1
    with suppress(*_GONE):
        async with connected(target) as peer:
            await peer.read(0.05)
            await flood(peer, dice)
            await peer.read(0.2)


async def _resets(peer: Peer, dice: random.Random) -> None:
    """Rapid reset: CVE-2023-44487."""
    for _ in range(500):
        stream = await peer.call(SERVICE + "GenerateStream", _TEXT)
        peer.frames.reset_stream(stream, 8)
        if dice.random() < 0.1:
            await peer.read(0.001)
    await peer.flush()


async def _pings(peer: Peer, dice: random.Random) -> None:
    for _ in range(2000):
        await peer.raw(frame(6, 0, 0, dice.randbytes(8)))


async def _settings(peer: Peer, dice: random.Random) -> None:
    for _ in range(2000):
        await peer.raw(frame(4, 0, 0, b"\0\4" + dice.randrange(1 << 31).to_bytes(4, "big")))


async def _continuations(peer: Peer, dice: random.Random) -> None:
    """A head without end: VU#421644."""
    await peer.raw(frame(1, 0, 1, b"\x83"))
    for _ in range(2000):
        name = b"%x" % dice.randrange(1 << 32)
        await peer.raw(frame(9, 0, 1, b"\0" + bytes([len(name)]) + name + b"\x7f\0" + b"v" * 127))


async def _windows(peer: Peer, dice: random.Random) -> None:
    """Windows that grow too far, or by nothing."""
    await peer.call(SERVICE + "GenerateStream", _TEXT)
    for _ in range(200):
        size = dice.choice([0, 1, 0x7FFFFFFF])
        await peer.raw(frame(8, 0, dice.choice([0, 1, 3]), size.to_bytes(4, "big")))


async def _calls(peer: Peer, dice: random.Random) -> None:
    """As many calls as the connection takes, and half of them without an end."""
    while peer.frames.open_outbound_streams < min(
        1500, peer.frames.remote_settings.max_concurrent_streams
    ):
        await peer.call(SERVICE + "GenerateStream", _TEXT, end=dice.random() < 0.5)
    await peer.read(1)


async def _large_heads(peer: Peer, dice: random.Random) -> None:
    for _ in range(20):
        size = dice.choice([1000, 20_000, 60_000])
        more = [(f"x-{n}", "v" * (size // 10)) for n in range(dice.choice([1, 10, 40]))]
        await peer.call(SERVICE + "GetInfo", b"", *more)
        await peer.read(0.01)


async def test_broken_frames(attack: Attacked) -> None:
    await attack("broken HTTP/2 frames", _break, workers=8)


async def _break(target: Target, dice: random.Random) -> None:
    with suppress(*_GONE):
        async with connected(target) as peer:
            await peer.read(0.02)
            for _ in range(dice.randrange(1, 10)):
                target.row.tried["frame"] += 1
                await peer.raw(_broken(peer, dice))
            await peer.read(0.05)


def _broken(peer: Peer, dice: random.Random) -> bytes:
    match dice.randrange(5):
        case 0:
            return dice.randbytes(dice.randrange(1, 200))
        case 1:
            kind, stream = dice.randrange(12), dice.choice([0, 1, 2, 3, 1 << 31 | 5])
            return frame(kind, dice.randrange(256), stream, dice.randbytes(dice.randrange(40)))
        case 2:
            block = peer.frames.encoder.encode(headers(SERVICE + "Generate"))
            return frame(1, 4, 1, block) + frame(0, 1, 1, dice.randbytes(dice.randrange(30)))
        case 3:
            wrong = [
                ("x-a\0b", "v"),
                (":path", "/x"),
                ("content-type", "text/html"),
                ("te", "gzip"),
            ]
            block = peer.frames.encoder.encode([*headers("/" * 300), dice.choice(wrong)])
            return frame(1, 5, 1, block)
        case _:
            return PREFACE + frame(0, 0, 1, b"\0\xff\xff\xff\xff")


async def test_windows_that_stay_closed(attack: Attacked) -> None:
    """Those who read nothing hold slots of the model that the neighbour calls."""
    await attack("readers that do not read", _never_read, workers=2, model_id=ATTACKED)


async def _never_read(target: Target, dice: random.Random) -> None:
    watch = pb.WatchModelsRequest().SerializeToString()
    logs = pb.StreamLogsRequest(model_id=ATTACKED, follow=True).SerializeToString()
    with suppress(*_GONE):
        async with connected(target, window=dice.choice([0, 0, 100])) as peer:
            for _ in range(10):
                target.row.tried["stream"] += 1
                method, message = dice.choice(
                    [("GenerateStream", _TEXT), ("WatchModels", watch), ("StreamLogs", logs)]
                )
                await peer.call(SERVICE + method, message)
            await peer.call("/grpc.health.v1.Health/Watch")
            async with asyncio.timeout(30):
                await peer.read(25, acknowledge=False)


async def test_callers_that_vanish(attack: Attacked) -> None:
    await attack("callers that vanish", _vanish, workers=8, model_id=ATTACKED)


async def _vanish(target: Target, dice: random.Random) -> None:
    with suppress(*_GONE):
        async with connected(target) as peer:
            for _ in range(dice.randrange(1, 4)):
                target.row.tried["call"] += 1
                await peer.call(SERVICE + "GenerateStream", _TEXT, end=dice.random() < 0.9)
            await peer.read(dice.choice([0, 0.01, 0.1]))
