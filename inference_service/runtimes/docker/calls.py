"""Calls of the blocking Docker SDK from asyncio.

Errors of the SDK that mean that no daemon answers become RuntimeUnavailable here. So does a daemon
that hangs: one that neither answers a call nor says that it lives.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import Any, TypeVar

from docker.errors import APIError, DockerException
from requests.exceptions import RequestException
from urllib3.exceptions import HTTPError

from inference_service.errors import RuntimeUnavailable
from inference_service.runtimes.completion import completed
from inference_service.runtimes.docker.pulse import Pulse
from inference_service.runtimes.docker.threads import Threads

T = TypeVar("T")

_QUIET = 15.0  # seconds without an item, after which the daemon is asked whether it lives

# Errors of the SDK at an answer that no daemon would give.
ODD = (AttributeError, LookupError, StopIteration, TypeError, ValueError)
NO_DOCKER = "something else than Docker answers there"

# Errors that pass through the SDK when the daemon is absent, or goes away during an answer.
UNAVAILABLE = (DockerException, RequestException, HTTPError, OSError)


def unavailable(error: BaseException, said: str = "") -> RuntimeUnavailable:
    """Make the error for a daemon that does not answer, with its first cause.

    `said` is what the program on the way to the daemon says, which knows better.
    """
    if said:
        return RuntimeUnavailable(said)
    while (below := error.__cause__ or error.__context__) is not None:
        error = below  # the first of them is the error of the socket
    if isinstance(error, ODD) and not isinstance(error, (*UNAVAILABLE, UnicodeError)):
        return RuntimeUnavailable(NO_DOCKER)
    strerror = error.strerror if isinstance(error, OSError) else None
    return RuntimeUnavailable(strerror or error)


def explanation(error: APIError) -> str:
    """Return the sentence with which the daemon refuses a call."""
    return str(error.explanation or error).strip()


class Calls:
    """A pool of threads for calls: asyncio's is shared, and too small for long waits.

    `pulse` is that of the daemon; without one each call has a time limit of its own. `said` returns
    what the program on the way to the daemon has said since it was last asked.
    """

    def __init__(self, pulse: Pulse | None = None, said: Callable[[], str] = str) -> None:
        self.pulse = pulse
        self._said = said
        self._threads = Threads(8, "docker")

    async def call(
        self, function: Callable[..., T], *args: Any, takes: float = 0.0, **options: Any
    ) -> T:
        """Run a function of the SDK in a thread. Raises APIError or RuntimeUnavailable.

        A thread cannot be interrupted. A cancelled call is therefore awaited to its end, so that
        the clean-up finds what the call has made. A daemon that hangs ends the wait in both cases,
        and leaves the call to the thread. `takes` is what the call may take by its nature, in
        seconds.
        """
        work = self._threads.submit(functools.partial(function, *args, **options))
        waiting = self._answer(asyncio.wrap_future(work), takes)
        try:
            return await completed(asyncio.create_task(waiting, name="call of the Docker daemon"))
        except APIError:
            raise
        except UNAVAILABLE as error:
            raise unavailable(error, self._said()) from None

    async def _answer(self, answer: asyncio.Future[T], takes: float) -> T:
        loop = asyncio.get_running_loop()
        began = loop.time()
        while not answer.done():
            pause = None if self.pulse is None else self.pulse.patience.pause
            await asyncio.wait([answer], timeout=pause)
            if self.pulse is None or answer.done():
                break
            if not await self.pulse.beats() and not answer.done():
                raise self._given_up(answer, loop.time() - began)
            if loop.time() - began > takes + self.pulse.patience.whole and not answer.done():
                raise self._given_up(answer, loop.time() - began)
        return answer.result()

    @staticmethod
    def _given_up(answer: asyncio.Future[T], seconds: float) -> RuntimeUnavailable:
        answer.cancel()  # a call for which no thread was free is not made any more
        return RuntimeUnavailable(f"it has not answered for {seconds:.0f} s")

    async def stream(
        self, function: Callable[..., Iterable[T]], *args: Any, **options: Any
    ) -> AsyncGenerator[T]:
        """Yield the items of an endless answer. Raises APIError or RuntimeUnavailable.

        A thread reads them. A daemon that hangs ends them. When the generator is closed the thread
        ends at its next item.
        """
        loop = asyncio.get_running_loop()
        items: asyncio.Queue[T | BaseException | None] = asyncio.Queue()
        closed = threading.Event()

        def put(item: T | BaseException | None) -> None:
            if not closed.is_set():
                loop.call_soon_threadsafe(items.put_nowait, item)

        def read() -> None:
            try:
                for item in function(*args, **options):
                    if closed.is_set():
                        return
                    put(item)
                put(None)
            except BaseException as error:
                put(error)

        threading.Thread(target=read, name="docker-stream", daemon=True).start()
        try:
            while (item := await self._next(items)) is not None:
                if isinstance(item, APIError):
                    raise item
                if isinstance(item, UNAVAILABLE):
                    raise unavailable(item, self._said()) from None
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            closed.set()

    async def _next(self, items: asyncio.Queue[T | BaseException | None]) -> Any:
        """Return the next item, or the error of a daemon that hangs."""
        while True:
            pause = None if self.pulse is None else _QUIET
            try:
                async with asyncio.timeout(pause):
                    return await items.get()
            except TimeoutError:
                assert self.pulse is not None, "else nothing has a limit here"
                if not await self.pulse.beats() and items.empty():
                    return RuntimeUnavailable(f"it has said nothing for {_QUIET:.0f} s")

    def hurry(self) -> None:
        """Have less patience from now on."""
        if self.pulse is not None:
            self.pulse.hurry()

    async def close(self) -> None:
        """Let each thread end when it has no call."""
        self._threads.close()
        if self.pulse is not None:
            self.pulse.close()
