"""The times and the bounds that rule a model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Times in seconds, and the length of the queue. Those without a default are settings."""

    queue_size: int
    queue_wait: float  # a request that has waited for a slot for so long is refused
    stall: float  # a start in which nothing moves for so long is given up
    drain: float  # time that a stop gives to running requests
    idle: float  # unused for so long, a model is stopped
    residency: float  # READY for so long before a model makes room for another
    hang: float  # without an answer for so long, an engine is replaced
    probe: float  # between two looks at an engine that is READY
    poll: float = 0.01  # between two looks at an engine that does not answer yet, at first
    poll_longest: float = 1.0
    back_off: float = 1.0  # after the first failure, doubled at each
    back_off_longest: float = 60.0
    healthy_spell: float = 60.0  # READY for so long, and earlier failures are forgiven
    heartbeat: float = 10.0  # between two reports to a caller who waits and sees no change
