"""The times of past starts on this machine, and forecasts by them.

Only time that a start takes again is learnt: what a phase has fetched (bytes, files) is in the
cache the next time. The time of fetching is forecast by its own rate.
"""

from __future__ import annotations

import json
import logging
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from inference_service import stored
from inference_service.lifecycle import Phase, Progress

log = logging.getLogger(__name__)

Past = Mapping[Phase, Sequence[float]]  # the seconds of each phase in the last starts

_KEPT = 5
_LARGEST = 16 << 20  # bytes of the file: 1,000 models take half a megabyte

_Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
_Times = Annotated[list[_Seconds], msgspec.Meta(min_length=1)]
_decode = msgspec.json.Decoder(dict[str, dict[str, _Times]]).decode


class StartTimes:
    """The times of the last five starts of each model, kept in `path`."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._past = {} if path is None else _read(path)

    def past(self, key: str) -> Past:
        """Return the times of the last starts; empty when there were none."""
        return self._past.get(key, {})

    def record(self, key: str, phases: Mapping[Phase, float]) -> None:
        """Learn from a start that has reached READY. Never raises."""
        past = self._past.setdefault(key, {})
        for phase, seconds in phases.items():
            past[phase] = [*past.get(phase, ()), round(seconds, 3)][-_KEPT:]
        if self._path is not None:
            self._write(self._path)

    def _write(self, path: Path) -> None:
        content = {
            key: {p.name: took for p, took in past.items()} for key, past in self._past.items()
        }
        try:
            stored.write(path, json.dumps(content, indent=1))
        except OSError as error:
            log.warning("start times are not kept over a restart: %s", error)


class Forecast:
    """The forecast of one start; times are in seconds, on any one clock.

    Nothing is known of a model that has never been started, nor while a model waits for memory.
    """

    def __init__(self, past: Past, now: float) -> None:
        self._past = past
        self._progress: Progress | None = None
        self._since = self._began = now  # of this phase; of the start, without waiting
        self._took: dict[Phase, float] = {}
        self._fetched: set[Phase] = set()
        self._fraction = 0.0

    @property
    def usual(self) -> float | None:
        """The seconds of a start with nothing to fetch; None when unknown."""
        return sum(map(statistics.median, self._past.values())) if self._past else None

    @property
    def phases(self) -> dict[Phase, float]:
        """The seconds of the phases that are over, and that the next start has too."""
        return {phase: s for phase, s in self._took.items() if phase not in self._fetched}

    def note(self, progress: Progress | None, now: float) -> None:
        """Note the progress of the start; None is its end."""
        last = self._progress
        if last is not None and last.unit:
            self._fetched.add(last.phase)
        if last is None or progress is None or progress.phase != last.phase:
            if last is None or last.phase is Phase.WAITING:
                self._began = now
            else:
                self._took[last.phase] = now - self._since
            self._since = now
        self._progress = progress

    def remaining(self, now: float) -> float | None:
        """Return the seconds until the model is ready, in the median; None when not known."""
        return None if self._waits else self._left(now, statistics.median)

    def at_best(self, now: float) -> float | None:
        """Return the same for the fastest of past starts; waiting for memory counts as 0."""
        return self._left(now, min)

    def fraction(self, now: float) -> float | None:
        """Return the share of the start that is done, 0 to 1; never falling."""
        remaining = self.remaining(now)
        if remaining is None:
            return None
        elapsed = now - self._began
        if elapsed > 0:
            self._fraction = max(self._fraction, elapsed / (elapsed + remaining))
        return self._fraction

    @property
    def _waits(self) -> bool:
        return self._progress is not None and self._progress.phase is Phase.WAITING

    def _left(self, now: float, typical: Callable[[Sequence[float]], float]) -> float | None:
        if not self._past:
            return None
        phase = self._progress.phase if self._progress else Phase.WAITING
        later = sum(typical(took) for known, took in self._past.items() if known > phase)
        return later + self._left_of_phase(now, typical(self._past.get(phase, (0.0,))))

    def _left_of_phase(self, now: float, usual: float) -> float:
        elapsed = now - self._since
        done = self._progress.fraction if self._progress and self._progress.total else None
        if done:
            return elapsed * (1 - done) / done
        return max(0.0, usual - elapsed)


def _read(path: Path) -> dict[str, dict[Phase, list[float]]]:
    try:
        data = stored.read(path, _LARGEST)
        content = {} if data is None else _decode(data)
        return {
            key: {Phase[name]: took[-_KEPT:] for name, took in past.items()}
            for key, past in content.items()
        }
    except (ValueError, KeyError) as error:  # Damaged and those of msgspec are ValueErrors
        stored.set_aside(path, error)
        return {}
