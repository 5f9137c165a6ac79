"""The steps of a start that are worth a line of the log."""

from __future__ import annotations

from inference_service.lifecycle import Phase, Progress, ToldPhase

_TENTHS = 10
_UNKNOWN = 1 << 30  # bytes from line to line, where nobody knows how many are to come


class Milestones:
    """The lines of one start: one for each phase, and for each tenth of what it counts."""

    def __init__(self, creates: str = "") -> None:
        self._creates = creates
        self._last: tuple[Phase, int] | None = None

    def line(self, progress: Progress) -> str | None:
        """Return the line for this progress, or None where nothing worth one has changed."""
        step = (progress.phase, _step(progress))
        if self._last is not None and step <= self._last:
            return None
        self._last = step
        words = str(ToldPhase(progress.phase, self._creates))
        return " ".join([words, *_counted(progress)])


def _step(progress: Progress) -> int:
    if progress.fraction is not None:
        return int(progress.fraction * _TENTHS)
    return progress.completed // _UNKNOWN if progress.unit == "bytes" else 0


def _counted(progress: Progress) -> list[str]:
    """Return how much is done, in words; of a wait, for what, and of a question to the hub."""
    asks = progress.phase is Phase.DOWNLOADING_WEIGHTS and not progress.unit
    if progress.phase is Phase.WAITING or asks:
        return [f"({progress.message})"] if progress.message else []
    share = [] if progress.fraction is None else [f"{progress.fraction:.0%}".replace("%", " %")]
    if progress.unit == "bytes" and (progress.completed or progress.total):
        total = f" of {progress.total / 1e6:,.0f}" if progress.total else ""
        share += [f"({progress.completed / 1e6:,.0f}{total} MB)"]
    return share
