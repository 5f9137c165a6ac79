"""Advice for causes that the service itself has brought about, added to what the engine says."""

from __future__ import annotations

import re

# Of Python, of Rust, and of C.
_DENIED = re.compile(r"Permission denied|PermissionError|os error 13\b|EACCES")
_OURS = re.compile(r"(?<![\w.-])/(?:data|model)\b")  # what a container sees of weights

# Root without capabilities may do with the files of others what all may do with them. Where the
# daemon maps users, as rootless and with userns-remap, no capability reaches those of its machine.
_RIGHTS = (
    "; a container has no right to files of other users: give the volume or the file to root, or "
    'add `container = {cap_add = ["DAC_OVERRIDE"]}` to the section; where the daemon maps users '
    "(rootless, userns-remap), let all read the file, with `chmod a+r`"
)


def advised(cause: str) -> str:
    """Return a cause, with what to do where the engine lacks a right."""
    if _DENIED.search(cause) and _OURS.search(cause):
        return cause.rstrip(".") + _RIGHTS
    return cause
