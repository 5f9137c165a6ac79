"""The failure of a worker: a reason for programs, a sentence for people, and an exit code."""

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of the worker; 0 is a stop on request."""

    CONFIGURATION = 2
    DOWNLOAD = 3
    MODEL = 4
    PORT = 5
    MACHINE = 6


class WorkerError(Exception):
    """The end of the worker. `reason` is UPPER_SNAKE_CASE, `message` a sentence to act on."""

    def __init__(self, code: ExitCode, reason: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
