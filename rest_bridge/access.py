"""The one check of who may call, before the routing, for every path of this API."""

from collections.abc import Iterable

from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rest_bridge.errors import BridgeError
from rest_bridge.hosts import Authority, Hosts
from rest_bridge.origins import Origins, is_own

# No GET of this API changes anything, and a browser gives no answer to a page of another origin
# unless the answer allows that.
READING = ("GET", "HEAD", "OPTIONS")

WANTED_METHOD = b"access-control-request-method"
WANTED_HEADERS = b"access-control-request-headers"
WANTED_NETWORK = b"access-control-request-private-network"
FACTS = {b"origin", b"sec-fetch-site", WANTED_METHOD, WANTED_HEADERS, WANTED_NETWORK}
LOOKED_AT = FACTS | {b"host"}

METHODS = b"GET, POST"
EXPOSED = b"X-Error-Reason, Retry-After"
PREFLIGHT_SECONDS = b"600"
MAX_SHOWN_CHARACTERS = 80
MAX_KNOWN_HOSTS = 100

Headers = list[tuple[bytes, bytes]]
Lines = Iterable[tuple[bytes, bytes]]


class Guarded:
    """An ASGI layer around the whole application, so that a page can read each of its errors.

    It is no BaseHTTPMiddleware, which hides the client's disconnect.
    """

    def __init__(self, app: ASGIApp, access: "Access") -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        head = Head(scope["method"], scope["http_version"], scope["headers"])
        answer = self._app
        try:
            self._access.check(head)
        except BridgeError as error:
            answer = JSONResponse({"detail": error.detail}, error.http_status, error.headers)
        else:
            if head.is_preflight:
                answer = preflight(head)
        added = self._access.readable(head.origin)
        await answer(scope, receive, adding(added, send) if added else send)


class Access:
    """Who may call: for these hosts, and from pages of these origins."""

    def __init__(self, hosts: Hosts, origins: Origins) -> None:
        self._hosts = hosts
        self._origins = origins
        self._known: dict[bytes, Authority] = {}  # hosts that are served, as requests write them

    def check(self, head: "Head") -> None:
        """Raise BridgeError for a request that may not be made."""
        served = self._served(head)
        if head.method in READING and not head.is_preflight:
            return
        if head.origin is None:
            # A browser can be told to send no Origin. It still marks requests for 127.0.0.1.
            if head.facts.get(b"sec-fetch-site") in ("cross-site", "same-site"):
                raise refused(403, "a page of another origin may not call this API")
        elif head.origin not in self._origins and not (served and is_own(head.origin, served)):
            origin = shown(head.origin)
            detail = (
                f"a page of the origin {origin} may not call this API; if it should, start the "
                f"service with --cors-origin {origin}"
            )
            raise refused(403, detail)

    def _served(self, head: "Head") -> Authority | None:
        """Return the host of the request, None for one of HTTP/1.0 without. Raises BridgeError."""
        if not head.hosts and head.version == "1.0":  # a probe of a proxy, and no browser
            return None
        if len(head.hosts) != 1:
            raise refused(400, "a request must have one Host header")
        [host] = head.hosts
        if host in self._known:
            return self._known[host]
        served = Authority.parse(host.decode("latin-1"))
        if served is None or served not in self._hosts:
            name = shown(served.host if served else host.decode("latin-1"))
            detail = (
                f"nothing is served at the host {name}; if it is a name of this service, start "
                f"the service with --allowed-host {name}"
            )
            raise refused(421, detail)
        if len(self._known) < MAX_KNOWN_HOSTS:
            self._known[host] = served
        return served

    def readable(self, origin: str | None) -> Headers:
        """Return the headers by which a page of an allowed origin can read an answer."""
        if not self._origins:
            return []
        added: Headers = [(b"vary", b"Origin")]
        if origin is not None and origin in self._origins:
            added.append((b"access-control-allow-origin", origin.encode("latin-1")))
            added.append((b"access-control-expose-headers", EXPOSED))
        return added


class Head:
    """The facts of a request's head that decide who calls."""

    __slots__ = ("facts", "hosts", "method", "origin", "version")

    def __init__(self, method: str, version: str, headers: Lines) -> None:
        self.method = method
        self.version = version
        self.hosts: list[bytes] = []
        self.facts: dict[bytes, str] = {}
        for name, value in headers:
            if name == b"host":
                self.hosts.append(value)
            elif name in FACTS:
                text = value.decode("latin-1")
                # As the fields of a list, so that two origins are none that is allowed.
                self.facts[name] = f"{self.facts[name]}, {text}" if name in self.facts else text
        self.origin = self.facts.get(b"origin")

    @property
    def is_preflight(self) -> bool:
        """Whether a browser asks if a page may make a request."""
        return self.method == "OPTIONS" and WANTED_METHOD in self.facts and self.origin is not None


def preflight(head: Head) -> Response:
    """Answer that the page may make the request, with any header."""
    answer = Response(status_code=204)
    answer.raw_headers += [
        (b"access-control-allow-methods", METHODS),
        (b"access-control-max-age", PREFLIGHT_SECONDS),
    ]
    if headers := head.facts.get(WANTED_HEADERS):
        answer.raw_headers.append((b"access-control-allow-headers", headers.encode("latin-1")))
    if WANTED_NETWORK in head.facts:  # Chromium 104 to 141; later ones ask their user
        answer.raw_headers.append((b"access-control-allow-private-network", b"true"))
    return answer


def refused(status: int, detail: str) -> BridgeError:
    return BridgeError("INVALID_PARAMETER", detail, http_status=status)


def shown(text: str) -> str:
    """Cut a value of the request, for a sentence."""
    return text if len(text) <= MAX_SHOWN_CHARACTERS else text[: MAX_SHOWN_CHARACTERS - 1] + "…"


def adding(added: Headers, send: Send) -> Send:
    """Return a `send` that adds headers to the head of an answer."""

    async def send_more(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *added]}
        await send(message)

    return send_more
