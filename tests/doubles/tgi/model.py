"""The language model: the next token follows from the text so far and from the seed."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from .faults import directives
from .tokenizer import EOS, EOS_TEXT, WORDS, Piece, encode
from .validation import ValidRequest

_WORDS = sorted(WORDS)
_RARE = ("café", "naïve", "façade", "—", "日本", "🦙")
_RARE_IN = 40
_STOP_IN = 11
_EOS_IN = 16
_EOS_PIECE = Piece(EOS, b"", 0, 0)


class Token(NamedTuple):
    """A token of an answer. Its text is empty while the bytes of a character are incomplete."""

    id: int
    text: str
    logprob: float
    special: bool


@dataclass(slots=True)
class GeneratedText:
    """The end of a generation, with its whole text."""

    text: str
    finish_reason: str
    generated_tokens: int
    seed: int | None


class Step(NamedTuple):
    """One decoding step; only the last step has an end."""

    token: Token
    end: GeneratedText | None


@dataclass
class _Writer:
    """The choice of pieces: by the text alone, or when sampling by seed and position too."""

    request: ValidRequest
    tail: str = ""
    position: int = 0
    pending: deque[Piece] = field(default_factory=deque)

    def __post_init__(self) -> None:
        prompt = self.request.prompt.decode(errors="replace")
        self.orders = directives(prompt)
        self.state = hashlib.blake2b(self.request.prompt)
        self.tail = prompt[-1:]
        if self.orders.say is not None:
            self.pending.extend(encode(self.orders.say))

    def next(self) -> Piece:
        self.position += 1
        if self.orders.say is not None:
            ended = not self.pending
        else:
            ended = not self.orders.no_eos and not self.pending and self._sentence_is_last()
        if ended:
            return _EOS_PIECE
        if not self.pending:
            self.pending.extend(encode(self._word()))
        piece = self.pending.popleft()
        self.state.update(piece.data)
        self.tail = piece.data.decode(errors="replace")[-1:]
        return piece

    def dice(self, purpose: str) -> int:
        state = self.state.copy()
        if self.request.sampling:
            state.update(f"{self.request.seed}/{self.position}".encode())
        state.update(purpose.encode())
        return int.from_bytes(state.digest()[:8])

    def _sentence_is_last(self) -> bool:
        return self.tail == "." and self.dice("end") % _EOS_IN == 0

    def _word(self) -> str:
        roll = self.dice("word")
        if self.tail.isalpha() and roll % _STOP_IN == 0:
            return "."
        if roll % _RARE_IN == 1:
            return " " + _RARE[roll // _RARE_IN % len(_RARE)]
        word = _WORDS[roll // _RARE_IN % len(_WORDS)]
        return " " + (word.capitalize() if self.tail in (".", "") else word)


class _Decoder:
    """A decoder of bytes that holds the bytes of an incomplete character back."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> str:
        self._held += data
        text = self._held.decode(errors="replace")
        if text.endswith("\ufffd"):
            return ""
        self._held = b""
        return text


class _Stopping:
    """The tests for the end: length before end-of-sequence before stop sequences."""

    def __init__(self, request: ValidRequest) -> None:
        self._most = request.new_tokens
        self._stop = request.stop
        self._tokens = 0
        self._recent = ""

    def reason(self, piece: Piece, text: str) -> str | None:
        self._tokens += 1
        if self._tokens >= self._most:
            return "length"
        if piece.id == EOS:
            return "eos_token"
        self._recent += text
        if len(self._recent) > 300:
            self._recent = self._recent[-200:]
        # A stop sequence also matches before one last newline, as TGI's regular expressions end in
        # `$`.
        ends = (self._recent, self._recent.removesuffix("\n"))
        if any(end.endswith(stop) for end in ends for stop in self._stop):
            return "stop_sequence"
        return None


def steps(request: ValidRequest) -> Iterator[Step]:
    """Generate one chunk. Only the last step has an `end`."""
    writer, decoder, stopping = _Writer(request), _Decoder(), _Stopping(request)
    output = b""
    for count in range(1, request.new_tokens + 1):
        piece = writer.next()
        text = EOS_TEXT if piece.id == EOS else decoder.feed(piece.data)
        output += piece.data
        token = Token(piece.id, text, _logprob(writer.dice("logprob")), piece.id == EOS)
        reason = stopping.reason(piece, text)
        end = None
        if reason:
            seed = request.seed if request.sampling else None
            end = GeneratedText(_final_text(output), reason, count, seed)
        yield Step(token, end)
        if end:
            return


def _final_text(output: bytes) -> str:
    """Return the whole text; no text at all when it ends inside a character."""
    text = output.decode(errors="replace")
    return "" if text.endswith("\ufffd") else text


def _logprob(roll: int) -> float:
    return -(roll % 1024) / 256
