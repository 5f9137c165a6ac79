"""The way of requests in the dialects of engines, before any ASGI application."""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from typing import NamedTuple

from rest_bridge import access, caller
from rest_bridge.access import Access, Head
from rest_bridge.caller import metadata
from rest_bridge.dialects.answers import Headers
from rest_bridge.dialects.call import Call, Terms, too_large
from rest_bridge.dialects.endpoints import ENDPOINTS, Endpoint
from rest_bridge.errors import BridgeError
from rest_bridge.http.exchange import Exchange, Handler
from rest_bridge.proxies import Proxies
from rest_bridge.service import Metadata

_JSON = b"application/json"
_SHOWN = 40  # characters
_LOOKED_AT: Collection[bytes] = frozenset(
    (*access.LOOKED_AT, *caller.LOOKED_AT, b"content-type", b"content-encoding")
)


class Admission(NamedTuple):
    """What is known of a request by its head; with an `error` it is refused."""

    caller: Metadata
    added: Headers  # to the head of the answer
    error: BridgeError | None


class Front:
    """The handlers of requests at `ENDPOINTS`; the others are left to the application."""

    def __init__(self, access: Access, proxies: Proxies, terms: Terms) -> None:
        self._access = access
        self._proxies = proxies
        self._terms = terms
        # Clients send the same lines with each request. A head has at most 64 KiB.
        self._admission = lru_cache(maxsize=128)(self._admit)

    def route(self, exchange: Exchange) -> Handler | None:
        """Return the handler of a request, which can have refused it, or None."""
        request, client = exchange.request, exchange.client
        endpoint = ENDPOINTS.get(request.path)
        if endpoint is None or request.method == "OPTIONS":
            return None
        lines = tuple([line for line in request.headers if line[0] in _LOOKED_AT])
        host = client[0] if client else ""
        known = self._admission(host, request.method, request.path, request.version, lines)
        call = Call(exchange, endpoint, known.caller, known.added, self._terms)
        if known.error is not None:
            call.refuse(known.error)
        elif (request.length or 0) > self._terms.largest:
            call.refuse(too_large(self._terms.largest))
        elif exchange.received or exchange.whole or request.expects_continue:
            call.on_body()  # of a request in a pipeline, the body can be there
        return call

    def _admit(
        self,
        client: str,
        method: str,
        path: bytes,
        version: str,
        lines: tuple[tuple[bytes, bytes], ...],
    ) -> Admission:
        head = Head(method, version, lines)
        error = None
        try:
            self._access.check(head)
            _check(method, ENDPOINTS[path], lines)
        except BridgeError as refused:
            error = refused.with_traceback(None)
        who = metadata(client, lines, self._proxies)
        return Admission(who, self._access.readable(head.origin), error)


def _check(method: str, endpoint: Endpoint, lines: access.Lines) -> None:
    """Raise BridgeError for a head that no call can follow."""
    if method != "POST":
        detail = f"no endpoint {method} {endpoint.path}; send a POST"
        raise _refused(405, detail, {"Allow": "POST"})
    for name, value in lines:
        if name == b"content-type":
            if not endpoint.any_type:
                _check_type(value)
        elif name == b"content-encoding" and value.lower() != b"identity":
            raise _refused(415, "the body must not be compressed; leave out Content-Encoding")


def _check_type(value: bytes) -> None:
    if value.partition(b";")[0].strip().lower() != _JSON:
        shown = value.decode("latin-1")[:_SHOWN]
        raise _refused(415, f"the content type must be application/json, not {shown}")


def _refused(status: int, detail: str, headers: dict[str, str] | None = None) -> BridgeError:
    return BridgeError("INVALID_PARAMETER", detail, http_status=status, headers=headers)
