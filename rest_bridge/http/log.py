"""The log lines of the server: access, and what was refused or cut."""

import logging
import re
import time

from rest_bridge.http.request import Request

ACCESS = logging.getLogger("rest_bridge.access")
LOG = logging.getLogger("rest_bridge.http")

_EVERY = 1.0  # seconds
_NUMBER = re.compile(r"[\d.-]{1,20}")


class Log:
    """Lines that a client can cause are written once a second for each kind, with their number."""

    def __init__(self, access: bool = False) -> None:
        self.access = access
        self._last: dict[str, float] = {}
        self._left_out: dict[str, int] = {}

    def answered(self, client: str, request: Request, status: int) -> None:
        """Log a request and the status of its answer."""
        target = _shown(request.target.decode("ascii").replace('"', "%22"))
        line = '%s - "%s %s HTTP/%s" %d'
        ACCESS.info(line, client, request.method, target, request.version, status)

    def refused(self, client: str, status: int, detail: str) -> None:
        """Log that the server itself refused a request."""
        line = "refused a request of %s with %d: %s"
        self.warn(f"refused {status}", line, client, status, detail)

    def cut(self, client: str, why: str) -> None:
        """Log that a connection was closed in the middle of a request or an answer."""
        self.warn(f"cut {why}", "closed a connection of %s: %s", client, why)

    def fault(self, error: Exception) -> None:
        """Log a fault of the application."""
        kind = f"fault {type(error).__name__} {error}"[:200]
        if self._counts(kind):
            LOG.error("a fault while a request was answered", exc_info=error)

    def warn(self, kind: str, line: str, *arguments: object) -> None:
        """Log a line, unless one of this kind was logged within the last second."""
        if self._counts(kind):
            if left_out := self._left_out.pop(kind, 0):
                line += f" (and {left_out} more since the line before)"
            LOG.warning(line, *arguments)

    def _counts(self, kind: str) -> bool:
        now = time.monotonic()
        if now - self._last.get(kind, -_EVERY) < _EVERY:
            self._left_out[kind] = self._left_out.get(kind, 0) + 1
            return False
        if len(self._last) > 100:  # kinds can hold words of clients
            self._last.clear()
            self._left_out.clear()
        self._last[kind] = now
        return True


def _shown(target: str) -> str:
    """Return a target with the names and numbers of its query alone: the rest may be a key."""
    path, mark, query = target.partition("?")
    return path + mark + "&".join(map(_masked, query.split("&")))


def _masked(field: str) -> str:
    name, equals, value = field.partition("=")
    if not equals:
        return "***" if name else ""
    return f"{name}={value if not value or _NUMBER.fullmatch(value) else '***'}"
