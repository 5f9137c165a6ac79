"""Ends a text before its stop sequence, for engines that send the sequence along."""

from __future__ import annotations


class StopFilter:
    """Passes text on, holding back what may be the beginning of a stop sequence."""

    def __init__(self, stop: tuple[str, ...]) -> None:
        self._stop = stop
        self._held = ""
        self.hit = False
        self.hit_at = 0  # where the sequence ends, in the text that was fed with its end

    def feed(self, text: str) -> str:
        """What of the text so far is certainly before any stop sequence. Nothing after a hit."""
        if self.hit or not self._stop:
            return "" if self.hit else text
        text = self._held + text
        # The one that is complete first, as an engine finds it that looks after each token.
        found = [(at + len(stop), at) for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            end, begin = min(found)
            self.hit, self.hit_at, self._held = True, end - len(self._held), ""
            return text[:begin]
        keep = max(self._overlap(text, stop) for stop in self._stop)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def rest(self) -> str:
        """What was held back and turned out to be text, once no more comes."""
        held, self._held = self._held, ""
        return held

    @staticmethod
    def _overlap(text: str, stop: str) -> int:
        """The length of the longest end of `text` with which `stop` begins."""
        longest = min(len(text), len(stop) - 1)
        return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
