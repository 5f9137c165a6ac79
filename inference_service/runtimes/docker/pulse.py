"""Whether a daemon that does not answer a call lives at all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from docker import DockerClient

from inference_service.runtimes.docker.threads import Threads


class Patience(NamedTuple):
    """The patience with a daemon, in seconds.

    `pause` is for a call before the daemon is asked whether it lives, `answer` for that, and
    `whole` for a call to a daemon that lives, beside the time that the call takes by its nature.
    """

    pause: float
    answer: float
    whole: float


USUAL = Patience(5.0, 10.0, 65.0)  # the SDK itself gives a call up after 60 s
HURRIED = Patience(2.0, 3.0, 10.0)


class Pulse:
    """The pulse of a daemon: `ping` asks it something easy, within so many seconds."""

    def __init__(self, ping: Callable[[float], object]) -> None:
        self.patience = USUAL
        self._ping = ping
        self._threads = Threads(2, "docker_ping")
        self._asking: asyncio.Task[bool] | None = None

    @classmethod
    def of(cls, client: DockerClient) -> Pulse:
        """Return the pulse of the daemon of a client."""

        def ping(seconds: float) -> None:
            client.api.get(f"{client.api.base_url}/_ping", timeout=seconds).close()

        return cls(ping)

    def hurry(self) -> None:
        """Have less patience from now on."""
        self.patience = HURRIED

    async def beats(self) -> bool:
        """Return whether the daemon answers; any number of calls may ask at once."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask(), name="ping of the Docker daemon")
        return await asyncio.shield(self._asking)

    def close(self) -> None:
        """Ask no more."""
        self._threads.close()

    async def _ask(self) -> bool:
        seconds = self.patience.answer
        work = self._threads.submit(partial(self._ping, seconds))
        answer = asyncio.wrap_future(work)
        await asyncio.wait([answer], timeout=seconds)
        if not answer.done():
            answer.cancel()
            return False
        return answer.exception() is None
