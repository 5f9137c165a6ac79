"""The blocking Docker SDK, from asyncio. What it raises when no daemon answers is mapped here."""

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

# What the SDK lets through when the daemon is absent, or goes away in the middle of an answer.
UNAVAILABLE = (DockerException, RequestException, HTTPError, OSError)


def unavailable(error: BaseException) -> RuntimeUnavailable:
    """The daemon's absence, in a sentence."""
    while (below := error.__cause__ or error.__context__) is not None:
        error = below  # the socket's own error is at the bottom
    strerror = error.strerror if isinstance(error, OSError) else None
    return RuntimeUnavailable(strerror or error)


def explanation(error: APIError) -> str:
    return str(error.explanation or error).strip()


class Calls:
    """A small pool of threads of its own: asyncio's is shared, and too small for long waits."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(8, thread_name_prefix="docker")

    async def call(self, function: Callable[..., T], *args: Any, **options: Any) -> T:
        """Run it in a thread. APIError, an answer of the daemon, is for the caller to understand.

        A thread cannot be interrupted: when the call is cancelled, it is still awaited, so that
        clean-up sees what it made.
        """
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._pool, functools.partial(function, *args, **options))
        try:
            return await completed(future)
        except APIError:
            raise
        except UNAVAILABLE as error:
            raise unavailable(error) from None

    async def stream(
        self, function: Callable[..., Iterable[T]], *args: Any, **options: Any
    ) -> AsyncGenerator[T]:
        """Yield what an endless answer brings, read by a thread that ends at its next item."""
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
                    raise unavailable(item) from None
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            closed.set()

    async def close(self) -> None:
        """Let the threads go."""
        self._pool.shutdown(wait=False)
