"""A queue that is fair: round robin between callers, at each level of their names."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")

# Who asks, from the outside in: the address that counts, the one it forwards for, the name. Within
# one queue all callers have as many levels.
Caller = tuple[str, ...]


class _Branch:
    """The items of one caller, or the branches below one level of names."""

    __slots__ = ("parts", "size")

    def __init__(self) -> None:
        self.parts: OrderedDict[Any, _Branch | None] = OrderedDict()  # None: the key is an item
        self.size = 0


class Queue(Generic[Item]):
    """Items that wait, by caller.

    Each level of names goes round, so that a caller with a thousand items, or with a thousand names
    at one address, delays the others by one item at a time. The items of one caller keep their
    order. Adding, taking and leaving cost as many steps as there are levels.
    """

    def __init__(self) -> None:
        self._root = _Branch()
        self.size = 0

    def has(self, caller: Caller, item: Item) -> bool:
        """Return whether this item of this caller waits."""
        branches = self._branches(caller)
        return len(branches) > len(caller) and item in branches[-1].parts

    def items(self) -> list[Item]:
        """Return all items."""
        found: list[Item] = []
        branches = [self._root]
        while branches:
            for name, part in branches.pop().parts.items():
                found.append(name) if part is None else branches.append(part)
        return found

    def add(self, caller: Caller, item: Item) -> None:
        """Add an item behind the others of its caller."""
        branch = self._root
        branch.size += 1
        self.size += 1
        for name in caller:
            below = branch.parts.get(name)
            if below is None:
                below = branch.parts[name] = _Branch()
            below.size += 1
            branch = below
        branch.parts[item] = None

    def first(self) -> tuple[Caller, Item]:
        """Return the next item, with its caller."""
        branch = self._root
        names: list[str] = []
        while True:
            name, below = next(iter(branch.parts.items()))
            if below is None:
                return tuple(names), name
            names.append(name)
            branch = below

    def remove(self, caller: Caller, item: Item) -> None:
        """Take an item out, wherever it stands."""
        branches = self._branches(caller)
        del branches[-1].parts[item]
        self.size -= 1
        for branch in branches:
            branch.size -= 1
        for name, branch, below in zip(caller, branches, branches[1:], strict=False):
            if not below.size:
                del branch.parts[name]
                break  # with all that is below

    def turn(self, caller: Caller) -> None:
        """Let the others at each level be next, after an item of this caller."""
        for name, branch in zip(caller, self._branches(caller), strict=False):
            if name in branch.parts:
                branch.parts.move_to_end(name)

    def position(self, caller: Caller, item: Item) -> int:
        """Return the position of an item, 1 is next.

        Before it are those of its own caller, and those of others that round robin takes first: at
        each level as many of each as are before the item below that level, and one more of those
        whose turn comes sooner.
        """
        branches = self._branches(caller)
        before = next(index for index, each in enumerate(branches[-1].parts) if each is item)
        for own, branch in zip(reversed(caller), reversed(branches[:-1]), strict=True):
            position, most = before, before + 1
            for name, below in branch.parts.items():
                assert below is not None, "an item is below the last level"
                if name == own:
                    most = before
                else:
                    position += min(below.size, most)
            before = position
        return before + 1

    def surplus(self, newcomer: Caller) -> tuple[Caller, Item]:
        """Return the item that leaves a queue with too many: the last of who has most in it.

        At each level that is the name with most items; of equals the newcomer, who has just come.
        """
        branch, own = self._root, newcomer
        names: list[str] = []
        while True:
            name, below = max(branch.parts.items(), key=_size)
            if own and _size((own[0], branch.parts[own[0]])) == _size((name, below)):
                name, below, own = own[0], branch.parts[own[0]], own[1:]
            else:
                own = ()
            if below is None:
                return tuple(names), next(reversed(branch.parts))
            names.append(name)
            branch = below

    def _branches(self, caller: Caller) -> list[_Branch]:
        """Return the branches on the way to a caller, from the root; fewer if it has none."""
        branches = [self._root]
        for name in caller:
            below = branches[-1].parts.get(name)
            if below is None:
                break
            branches.append(below)
        return branches


def _size(part: tuple[Any, _Branch | None]) -> int:
    return 1 if part[1] is None else part[1].size
