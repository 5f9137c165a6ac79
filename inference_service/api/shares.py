"""A stock that callers use up, and the share of each address in it."""

from __future__ import annotations

from inference_service.api.callers import Addresses


class TooMuch(Exception):
    """What an address has taken already, which is its share."""


class Shares:
    """A stock of `most`.

    An address may have as much as is free: half of all where it is alone, a third each where two
    want all that they can get. So something is always left for another. A bridge of this machine
    says for whom it calls, and so divides its half in the same way.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken: dict[str, int] = {}  # by address
        self._forwarded: dict[Addresses, int] = {}
        self._all = 0

    def take(self, caller: Addresses, amount: int = 1) -> None:
        """Take so much for a caller, until `give`. Raises TooMuch."""
        address, forwarded = caller
        taken = self._taken.get(address, 0)
        if taken + amount > self._most - self._all:
            raise TooMuch(taken)
        if forwarded:
            own = self._forwarded.get(caller, 0)
            if own + amount > self._most // 2 - taken:
                raise TooMuch(own)
            self._forwarded[caller] = own + amount
        self._taken[address] = taken + amount
        self._all += amount

    def give(self, caller: Addresses, amount: int = 1) -> None:
        """Give back what was taken."""
        address, forwarded = caller
        self._all -= amount
        self._taken[address] -= amount
        if not self._taken[address]:
            del self._taken[address]
        if forwarded:
            self._forwarded[caller] -= amount
            if not self._forwarded[caller]:
                del self._forwarded[caller]
