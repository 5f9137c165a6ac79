"""The end of a text before its stop sequence, where engines send that along."""

from __future__ import annotations


class StopFilter:
    """A filter that holds back text with which a stop sequence may begin."""

    def __init__(self, stop: tuple[str, ...]) -> None:
        self._stop = stop
        self._held = ""
        self.hit = False
        self.hit_at = 0  # where the sequence ends, in the text that was fed with its end

    def feed(self, text: str) -> str:
        """Return the text that is surely before any stop sequence. After a hit there is none."""
        if self.hit or not self._stop:
            return "" if self.hit else text
        text = self._held + text
        # The sequence that is complete first: an engine that looks after each token finds that one.
        found = [(at + len(stop), at) for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            end, begin = min(found)
            self.hit, self.hit_at, self._held = True, end - len(self._held), ""
            return text[:begin]
        keep = max(self._overlap(text, stop) for stop in self._stop)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def rest(self) -> str:
        """Return the text that is held back, when no more text comes."""
        held, self._held = self._held, ""
        return held

    @staticmethod
    def _overlap(text: str, stop: str) -> int:
        """Return the length of the longest end of `text` that is a beginning of `stop`."""
        longest = min(len(text), len(stop) - 1)
        return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
