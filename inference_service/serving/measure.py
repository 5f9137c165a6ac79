"""Texts of engines, measured against what was asked for.

An engine that is broken, or that somebody else runs, can send a text without end, or counts that
are none. Its text then ends with EngineFailed, before it fills the memory or a field of the answer.
"""

from __future__ import annotations

from collections.abc import Callable

from inference_service.engines.base import Chunk, Finish
from inference_service.errors import EngineFailed

# Of the text of one token. The longest of the vocabularies that were looked at have 512 (gpt-neox).
_TOKEN_BYTES = 1024

# A gateway can count by another tokenizer than its engine, whose limit holds all the same.
_LENIENCE = 4

_LARGEST_COUNT = (1 << 31) - 1  # of the contract, and of engines


Check = Callable[[Chunk], None]


class Measure:
    """The measure of one text, for which `limit` tokens were asked."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._tokens = 0
        self._size = 0

    def check(self, chunk: Chunk) -> None:
        """Take the next chunk. Raises EngineFailed where that is not what was asked for."""
        self._tokens += chunk.token_count
        self._size += len(chunk.text)
        if chunk.token_count < 0 or self._tokens > self._limit * _LENIENCE:
            self._refuse(f"{self._tokens} tokens")
        if self._size > self._limit * _TOKEN_BYTES:
            self._refuse(f"a text of more than {self._limit * _TOKEN_BYTES} characters")
        if chunk.finish is not None:
            self._check_counts(chunk.finish)

    def _check_counts(self, finish: Finish) -> None:
        for count in (finish.prompt_token_count, finish.completion_token_count):
            if not 0 <= count <= _LARGEST_COUNT:
                raise EngineFailed(f"counted {count} tokens")

    def _refuse(self, sent: str) -> None:
        raise EngineFailed(f"sent {sent} where {self._limit} tokens were asked for")
