"""The back-off between a failure and the next start."""

from __future__ import annotations

from collections.abc import Callable


class BackOff:
    """A wait after each failure, doubled up to a limit; times are in seconds."""

    def __init__(
        self, first: float, longest: float, forgiven_after: float, clock: Callable[[], float]
    ) -> None:
        self._first = first
        self._longest = longest
        self._forgiven_after = forgiven_after
        self._clock = clock
        self._failures = 0  # in a row
        self._until = 0.0

    @property
    def next(self) -> float:
        """The wait that one more failure would cause."""
        return min(self._first * 2.0**self._failures, self._longest)

    @property
    def left(self) -> float:
        """The time until the next start may be made; 0 or less when it may."""
        return self._until - self._clock()

    def failed(self) -> float:
        """Count a failure, and return the wait that it causes."""
        wait = self.next
        self._failures += 1
        self._until = self._clock() + wait
        return wait

    def served(self, seconds: float) -> None:
        """Forgive earlier failures if the engine has served for long enough."""
        if seconds > self._forgiven_after:
            self._failures = 0

    def forgive(self) -> None:
        """Forget earlier failures: the next start may be made now."""
        self._failures = 0
        self._until = 0.0
