"""Calls of the blocking Docker SDK from asyncio.

Errors of the SDK that mean that no daemon answers become RuntimeUnavailable here.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import AsyncGenerator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from docker.errors import APIError, DockerException
from requests.exceptions import RequestException
from urllib3.exceptions import HTTPError

from inference_service.errors import RuntimeUnavailable
from inference_service.runtimes.completion import completed

T = TypeVar("T")

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
    strerror = error.strerror if isinstance(error, OSError) else None
    return RuntimeUnavailable(strerror or error)


def explanation(error: APIError) -> str:
    """Return the sentence with which the daemon refuses a call."""
    return str(error.explanation or error).strip()


class Calls:
    """A pool of threads for calls: asyncio's is shared, and too small for long waits.

    `said` returns what the program on the way to the daemon has said since it was last asked.
    """

    def __init__(self, said: Callable[[], str] = str) -> None:
        self._said = said
        self._pool = ThreadPoolExecutor(8, thread_name_prefix="docker")

    async def call(self, function: Callable[..., T], *args: Any, **options: Any) -> T:
        """Run a function of the SDK in a thread. Raises APIError or RuntimeUnavailable.

        A thread cannot be interrupted. A cancelled call is therefore awaited to its end, so that
        the clean-up finds what the call has made.
        """
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._pool, functools.partial(function, *args, **options))
        try:
            return await completed(future)
        except APIError:
            raise
        except UNAVAILABLE as error:
            raise unavailable(error, self._said()) from None

    async def stream(
        self, function: Callable[..., Iterable[T]], *args: Any, **options: Any
    ) -> AsyncGenerator[T]:
        """Yield the items of an endless answer. Raises APIError or RuntimeUnavailable.

        A thread reads them. When the generator is closed the thread ends at its next item.
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
            while (item := await items.get()) is not None:
                if isinstance(item, APIError):
                    raise item
                if isinstance(item, UNAVAILABLE):
                    raise unavailable(item, self._said()) from None
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            closed.set()

    async def close(self) -> None:
        """Let each thread end when it has no call."""
        self._pool.shutdown(wait=False)
