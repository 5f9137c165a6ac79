"""Causes that no retry mends, in the words of programs that are written in Python.

TGI, vLLM, SGLang and transformers name them by the exceptions of huggingface_hub and transformers,
or by those of their own arguments. What is not known here may well pass, as a network does.
"""

from __future__ import annotations

import re

_LASTING = re.compile(
    r"GatedRepo|gated repo|RepositoryNotFound|RevisionNotFound|HFValidationError"
    r"|(?<!Local)EntryNotFoundError|\b(?:401|403|404) Client Error"
    r"|not a valid model identifier|Repo id must"
    r"|does not appear to have a file named|No local weights found"
    r"|Unsupported model type|Unrecognized (?:model|configuration)|rchitectures? .* not supported"
    r"|should have a `model_type` key|does not recognize this architecture"
    r"|ValidationError|ArgumentValidation|(?:unrecognized|unexpected|invalid) (?:argument|choice)"
    r"|invalid value '.*' for '--|HeaderTooLarge|InvalidHeader|MetadataIncompleteBuffer"
)


def is_lasting(cause: str) -> bool:
    """Return whether a cause stays until somebody changes something."""
    return _LASTING.search(cause) is not None
