"""The last changes of the models, in order, for those who watch.

Each change has a revision, one higher than the last. A watcher holds only the revision that it has
seen, so a slow watcher costs no memory. A watcher that comes back with its revision misses nothing
that is still kept, and starts from a snapshot otherwise.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")

NO_REVISION = 0  # a history is never at this revision


@dataclass(frozen=True, slots=True)
class Change(Generic[Item]):
    """One change. The item is frozen: a watcher that reads late sees what was then."""

    revision: int
    item: Item


class History(Generic[Item]):
    """The last `size` changes."""

    def __init__(self, size: int = 10_000) -> None:
        self._changes: deque[Change[Item]] = deque(maxlen=size)
        self._changed = asyncio.Event()
        self._closed = False
        # Revisions of an earlier run of the service are lower than all of this one, and so unknown.
        self.revision = time.time_ns() // 1000

    @property
    def closed(self) -> bool:
        """Whether no more changes come."""
        return self._closed

    def append(self, item: Item) -> None:
        """Add a change."""
        self.revision += 1
        self._changes.append(Change(self.revision, item))
        self._changed.set()
        self._changed = asyncio.Event()

    def close(self) -> None:
        """End the history: no more changes come."""
        self._closed = True
        self._changed.set()

    def keeps(self, revision: int) -> bool:
        """Return whether all changes after `revision` are still kept."""
        oldest = self._changes[0].revision if self._changes else self.revision + 1
        return oldest - 1 <= revision <= self.revision

    async def after(self, revision: int) -> AsyncGenerator[Change[Item]]:
        """Yield the changes after `revision`, and those to come.

        Ends when the next change is not kept any more, and after the last change of a history that
        was closed.
        """
        while self.keeps(revision):
            changed = self._changed
            if revision == self.revision:
                if self._closed:
                    return
                await changed.wait()
                continue
            skip = revision + 1 - self._changes[0].revision
            for change in tuple(itertools.islice(self._changes, skip, skip + 100)):
                revision = change.revision
                yield change
