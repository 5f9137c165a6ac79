"""The log of a container that writes faster than the loop reads, without a daemon."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, cast

from docker.models.containers import Container

from inference_service.runtimes.command import Command, Needs
from inference_service.runtimes.docker.calls import Calls
from inference_service.runtimes.docker.instance import RunningContainer
from inference_service.runtimes.docker.ways import Published
from tests.waiting import until


class Floods:
    """A container whose log has no end until it is told."""

    name = "tgi-tiny"

    def __init__(self) -> None:
        self.given = 0
        self.ended = False
        self.attrs: dict[str, Any] = {
            "State": {"Running": False, "ExitCode": 0, "OOMKilled": False}
        }

    def logs(self, **_: Any) -> Iterator[bytes]:
        while not self.ended:
            self.given += 1
            yield b"x" * 99 + b"\n"

    def reload(self) -> None:
        pass


async def test_a_container_waits_for_the_loop() -> None:
    """Else the lines that wait in the loop fill the memory."""
    floods = Floods()
    command = Command("tiny", Needs(1))
    running = RunningContainer(
        cast(Container, floods), command, 1, cast(Calls, None), Published("127.0.0.1", 1)
    )
    await until(lambda: floods.given, "no line came")
    time.sleep(0.2)  # noqa: ASYNC251  # a loop that is busy
    before = floods.given
    time.sleep(0.2)  # noqa: ASYNC251
    assert floods.given <= before + 1
    floods.ended = True
    assert (await running.wait()).code == 0
    running.leave()
