"""The control tokens of a model, such as `<|im_end|>`, which llama.cpp finds in any text.

It parses them in the text of a message as in the words of the chat template, so that who writes the
one can forge the other.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterable

_CONTROL, _USER_DEFINED = 3, 4
TYPES = (_CONTROL, _USER_DEFINED)

# Ends of a text, which llama.cpp takes for control tokens whatever their type in the file is
# (src/llama-vocab.cpp).
ENDS = frozenset(
    "<|eot_id|> <|im_end|> <|end|> <|return|> <|call|> <|flush|> <|calls|> <end_of_turn> </s> <eos>"
    " <|endoftext|> <|eom_id|> <EOT> _<EOT> [EOT] [EOS] <|end_of_text|> <end_of_utterance> <turn|>"
    " <|tool_response> <｜end▁of▁sentence｜> [e~[".split()
)
# Tokens that users have added parse too. Some are white space or HTML, or parts of answers that
# clients send back, as `<think>` is; in this shape they are the marks of a template.
_MARK = re.compile(r"<[|｜].+[|｜]>", re.DOTALL)

_NUMBERED = re.compile(r"(\D{4,})\d.*", re.DOTALL)
_FEW = 8
_MOST_BYTES = 32 * 1024  # as JSON: a line of a log has 100 KiB


def control_tokens(tokens: Iterable[tuple[str, int]]) -> tuple[str, ...] | None:
    """Return the control tokens among those with these types, without any that holds another.

    Of many that differ in a number alone there is what they begin with, such as `<|reserved_`.
    None where the list is too long for a line of a log.
    """
    found = {token for token, type in tokens if len(token) > 1 and _is_control(token, type)}
    chosen = sorted(_folded(found))
    return tuple(chosen) if len(json.dumps(chosen)) <= _MOST_BYTES else None


def _is_control(token: str, type: int) -> bool:
    if type == _CONTROL or token in ENDS:
        return True
    return type == _USER_DEFINED and _MARK.fullmatch(token) is not None


def _folded(tokens: set[str]) -> set[str]:
    families: dict[str, list[str]] = defaultdict(list)
    for token in tokens:
        if match := _NUMBERED.fullmatch(token):
            families[match[1]].append(token)
    for begin, family in families.items():
        if len(family) > _FEW:
            tokens = tokens.difference(family) | {begin}
    return tokens
