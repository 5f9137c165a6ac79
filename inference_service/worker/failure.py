"""The failure of a worker: a reason for programs, a sentence for people, and an exit code."""

import re
from enum import IntEnum

_LOGIN = re.compile(r"(?<=://)[^\s/?#]*@")


class ExitCode(IntEnum):
    """Exit codes of the worker; 0 is a stop on request."""

    CONFIGURATION = 2
    DOWNLOAD = 3
    MODEL = 4
    PORT = 5
    MACHINE = 6


class WorkerError(Exception):
    """The end of the worker. `reason` is UPPER_SNAKE_CASE, `message` a sentence to act on.

    The user and the password of a URL, such as that of HF_ENDPOINT, are hidden in the message.
    """

    def __init__(self, code: ExitCode, reason: str, message: str) -> None:
        message = _LOGIN.sub("***@", message)
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
