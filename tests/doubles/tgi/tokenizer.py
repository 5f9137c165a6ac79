"""A small lossless tokenizer: common words, pieces of other words, and bytes of the rest."""

from __future__ import annotations

import re
import zlib
from typing import NamedTuple

BOS, EOS = 1, 2
EOS_TEXT = "</s>"
_FIRST_BYTE = 3
_FIRST_PIECE = _FIRST_BYTE + 256
_PIECES = 31_000
_PIECE_LETTERS = 4
_SPLIT = re.compile(r" ?[A-Za-z]+| ?[0-9]| ?[!-/:-@\[-`{-~]|[\n\t ]|.", re.DOTALL)

WORDS = frozenset(
    """a about after again all along always an and another are around as at away be because been
    before began behind below beside best better between beyond big black blue book both bright but
    by came can children city clear close cold come could dark day deep door down each early earth
    end even evening every eyes face far father few field fire first five follow for forest found
    four friend from garden gave go gold good great green ground had half hand happy hard has have
    he head hear heart her here high hill him his hold home hope house how if in into is island it
    its just keep kind king knew land language large last late learn leave left less let letter
    life light like line little long look lost made man many map me men might mind model moon more
    morning most mother mountain move much music must my name near never new next night no north
    not now of off old on once one only open or other our out over own paper part path people place
    quiet rain read red rest right river road room round said same sea second see set she ship
    should side silver sky sleep slow small snow so some song soon sound south star still stone
    story street such summer sun sure take tell than that the their them then there these they
    thing think this those though thought three through time to together told took tree turn two
    under until up upon us very voice wait walk wall want warm was watch water way we well went
    were west what when where which while white who why wide wild wind window winter with without
    woman wood word work world would write year yellow yes yet you young your""".split()
)


class Piece(NamedTuple):
    """One token: its id, its bytes, and its place in the text, in bytes.

    A character without a token of its own is one token for each byte, all with the place of the
    whole character.
    """

    id: int
    data: bytes
    start: int
    stop: int


def encode(text: str) -> list[Piece]:
    """Split a text into pieces, whose `data` joined is the text."""
    pieces: list[Piece] = []
    offset = 0
    for part in _SPLIT.findall(text):
        if (part.isascii() and part.isprintable()) or part in "\n\t":
            for chunk in _chunks(part):
                data = chunk.encode()
                pieces.append(Piece(_piece_id(data), data, offset, offset + len(data)))
                offset += len(data)
        else:
            data = part.encode()
            stop = offset + len(data)
            pieces += [Piece(_FIRST_BYTE + byte, bytes([byte]), offset, stop) for byte in data]
            offset = stop
    return pieces


def _chunks(part: str) -> list[str]:
    word = part.lstrip(" ")
    if not word.isalpha() or word.lower() in WORDS:
        return [part]
    first = len(part) - len(word) + _PIECE_LETTERS
    rest = range(first, len(part), _PIECE_LETTERS)
    return [part[:first], *(part[start : start + _PIECE_LETTERS] for start in rest)]


def _piece_id(data: bytes) -> int:
    return _FIRST_PIECE + zlib.crc32(data) % _PIECES


def prompt_ids(text: str, bos: bool) -> list[Piece]:
    """Return the pieces of a prompt, for most models after a beginning-of-text token."""
    start = [Piece(BOS, b"", 0, 0)] if bos else []
    return start + encode(text)
