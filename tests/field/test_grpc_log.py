"""What a hostile peer of gRPC writes into the log of the service: nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.attack.http2 import PREFACE, frame
from tests.command import command
from tests.service import free_ports
from tests.waiting import SLOWLY, within

WORDS = b"\x1b[2J\x1b]0;forged\x07\n2026-01-01 00:00:00 ERROR forged line\n"


async def test_the_words_of_a_peer_stay_out_of_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as stderr:
        running = command(
            stderr=stderr, runtime="process", ports=free_ports(2), state_dir=tmp_path / "state"
        )
        async with running as service:
            host, port = service.target.rsplit(":", 1)
            reader, writer = await asyncio.open_connection(host, int(port))
            goaway = frame(7, 0, 0, bytes(8) + WORDS)
            writer.write(PREFACE + frame(4, 0, 0) + goaway + frame(1, 5, 1, b"\xff\xff\xff"))
            async with within(SLOWLY, "the service did not close"):
                while await reader.read(1 << 16):
                    pass
            writer.close()
    assert log.read_bytes() == b""
