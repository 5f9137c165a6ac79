"""The prompts of all requests that run or wait, and the share of each address in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

from inference_service.api.callers import NO_PROXIES, addresses
from inference_service.api.shares import Shares, TooMuch
from inference_service.errors import TooLargePrompts
from rest_bridge.proxies import Proxies

MOST = 128 << 20  # characters; the service holds a prompt about three times
_SMALL = 4096  # characters; as many prompts as there can be calls add 100 MB

_NOTHING = nullcontext()


class Prompts:
    """The prompts that are held, of `most` characters at most; that is beside small ones."""

    def __init__(self, proxies: Proxies = NO_PROXIES, most: int = MOST) -> None:
        self._proxies = proxies
        self._shares = Shares(most)

    def held(self, size: int, context: Any) -> AbstractContextManager[None]:
        """Hold a prompt of this size for the time of a block. Raises TooLargePrompts."""
        return _NOTHING if size <= _SMALL else self._held(size, context)

    def hold(self, size: int, context: Any) -> Callable[[], None] | None:
        """Hold a prompt of this size until what is returned is called. Raises TooLargePrompts."""
        if size <= _SMALL:
            return None
        caller = addresses(context, self._proxies)
        try:
            self._shares.take(caller, size)
        except TooMuch as taken:
            raise TooLargePrompts(taken.args[0]) from None
        return partial(self._shares.give, caller, size)

    @contextmanager
    def _held(self, size: int, context: Any) -> Iterator[None]:
        release = self.hold(size, context)
        assert release is not None, "a small prompt is not held"
        try:
            yield
        finally:
            release()
