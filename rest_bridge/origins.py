"""The origins whose pages may call this API, which browsers name in the Origin header."""

import re
from collections.abc import Iterable

from rest_bridge.hosts import ANY, Authority

_PORTS = {"http": 80, "https": 443}
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")


class Origins:
    """The origins of the setting, which are exact; `*` is every origin.

    False when there are none.
    """

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        self._allowed = frozenset(allowed)
        self.every = ANY in self._allowed

    def __bool__(self) -> bool:
        return bool(self._allowed)

    def __contains__(self, origin: str) -> bool:
        return self.every or origin in self._allowed


def is_own(origin: str, served: Authority) -> bool:
    """Return whether a page of this origin was served at the host and port of the request.

    The scheme is left aside: behind a proxy that ends TLS, the page has https and the request here
    has not. A missing port is that of the origin's scheme.
    """
    scheme, _, rest = origin.partition("://")
    page = Authority.parse(rest)
    default = _PORTS.get(scheme)
    if page is None or default is None:
        return False
    return page.host == served.host and (page.port or default) == (served.port or default)


def allowed_origin(text: str) -> str:
    """Return an origin of the settings as browsers write it. Raises ValueError with a sentence."""
    if text == ANY:
        return text
    if text == "null":
        raise ValueError(
            "null is the origin of files and of every sandboxed page, so it cannot be allowed; "
            "serve the page from a port of localhost, or allow every origin with *"
        )
    scheme, mark, rest = text.lower().partition("://")
    page = Authority.parse(rest)
    if not (mark and page and _SCHEME.fullmatch(scheme)):
        raise ValueError(
            'must be an origin such as "https://app.example.org" or "http://localhost:3000", '
            "with a scheme and without a path"
        )
    host = f"[{page.host}]" if ":" in page.host else page.host
    usual = page.port in (None, _PORTS.get(scheme))
    return f"{scheme}://{host}" if usual else f"{scheme}://{host}:{page.port}"
