"""What has happened to the models, in order, for those who watch.

Each change has a revision, one higher than the last. A watcher holds nothing but the revision that
it has seen, so a slow one costs no memory; one that comes back with it misses nothing that is still
kept, and starts from a snapshot otherwise.
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


@dataclass(frozen=True, slots=True)
class Change(Generic[Item]):
    """One change."""

    revision: int
    item: Item


class History(Generic[Item]):
    """The last `size` changes."""

    def __init__(self, size: int = 10_000) -> None:
        self._changes: deque[Change[Item]] = deque(maxlen=size)
        self._changed = asyncio.Event()
        self._closed = False
        # Revisions of an earlier run are lower than all of this one, and so are known as foreign.
        self.revision = time.time_ns() // 1000

    def append(self, item: Item) -> None:
        """Add a change."""
        self.revision += 1
        self._changes.append(Change(self.revision, item))
        self._changed.set()
        self._changed = asyncio.Event()

    def close(self) -> None:
        """Say that nothing more happens."""
        self._closed = True
        self._changed.set()

    def keeps(self, revision: int) -> bool:
        """Whether all that came after `revision` is still known."""
        oldest = self._changes[0].revision if self._changes else self.revision + 1
        return oldest - 1 <= revision <= self.revision

    @property
    def closed(self) -> bool:
        """Whether nothing more happens."""
        return self._closed

    async def after(self, revision: int) -> AsyncGenerator[Change[Item]]:
        """Yield what came after `revision` and what comes.

        Ends when what would come next is not kept any more, and after the last change of a history
        that was closed.
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
