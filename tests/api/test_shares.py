"""The shares of addresses in a stock."""

from __future__ import annotations

import pytest

from inference_service.api.shares import Shares, TooMuch

ONE, OTHER = ("10.0.0.1", ""), ("10.0.0.2", "")


def taken(shares: Shares, caller: tuple[str, str], amount: int = 1) -> int:
    """Take as often as possible; return how often."""
    count = 0
    while True:
        try:
            shares.take(caller, amount)
        except TooMuch:
            return count
        count += 1


def test_one_address_gets_half_and_leaves_something_for_others() -> None:
    shares = Shares(12)
    assert taken(shares, ONE) == 6
    assert taken(shares, OTHER) == 3
    assert taken(shares, ("10.0.0.3", "")) == 2


def test_two_get_a_third_each() -> None:
    shares = Shares(12)
    for _ in range(4):
        shares.take(ONE)
        shares.take(OTHER)
    assert taken(shares, ONE) == taken(shares, OTHER) == 0


def test_what_is_given_back_can_be_taken_again() -> None:
    shares = Shares(12)
    assert taken(shares, ONE, 3) == 2
    with pytest.raises(TooMuch, match="6"):
        shares.take(ONE, 3)
    shares.give(ONE, 3)
    shares.give(ONE, 3)
    assert taken(shares, OTHER, 6) == 1


def test_those_behind_a_bridge_divide_its_half() -> None:
    shares = Shares(16)
    assert taken(shares, ("local", "10.0.0.1")) == 4
    assert taken(shares, ("local", "10.0.0.2")) == 2
    assert taken(shares, ONE) == 5
