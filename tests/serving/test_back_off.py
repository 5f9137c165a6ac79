"""The back-off after failures, on a clock of the test's own."""

from __future__ import annotations

from inference_service.serving.back_off import BackOff


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_each_failure_doubles_the_wait_up_to_a_limit() -> None:
    back_off = BackOff(1, 10, 60, Clock())

    waits = []
    for _ in range(6):
        following = back_off.next
        waits.append(back_off.failed())
        assert waits[-1] == following

    assert waits == [1, 2, 4, 8, 10, 10]


def test_the_wait_passes_with_time() -> None:
    clock = Clock()
    back_off = BackOff(4, 60, 60, clock)
    assert back_off.left <= 0

    back_off.failed()
    assert back_off.left == 4
    clock.now += 3
    assert back_off.left == 1
    clock.now += 1
    assert back_off.left == 0


def test_a_minute_of_service_forgives_failures_and_less_does_not() -> None:
    back_off = BackOff(1, 60, 60, Clock())
    for _ in range(3):
        back_off.failed()

    back_off.served(60)
    assert back_off.next == 8
    back_off.served(60.1)
    assert back_off.next == 1


def test_a_stop_forgives_failures() -> None:
    back_off = BackOff(1, 60, 60, Clock())
    for _ in range(3):
        back_off.failed()

    back_off.forgive()

    assert back_off.left <= 0
    assert back_off.failed() == 1
