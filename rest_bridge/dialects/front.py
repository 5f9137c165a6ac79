"""The way of requests in the dialects of engines, before any ASGI application."""

from __future__ import annotations

from rest_bridge.access import Access, Head
from rest_bridge.caller import metadata
from rest_bridge.dialects.call import Call, Terms, too_large
from rest_bridge.dialects.endpoints import ENDPOINTS, Endpoint
from rest_bridge.errors import BridgeError
from rest_bridge.http.exchange import Exchange, Handler
from rest_bridge.http.request import Request
from rest_bridge.proxies import Proxies

_JSON = b"application/json"
_SHOWN = 40  # characters


class Front:
    """The handlers of requests at `ENDPOINTS`; the others are left to the application."""

    def __init__(self, access: Access, proxies: Proxies, terms: Terms) -> None:
        self._access = access
        self._proxies = proxies
        self._terms = terms

    def route(self, exchange: Exchange) -> Handler | None:
        """Return the handler of a request, which can have refused it, or None."""
        request, client = exchange.request, exchange.client
        endpoint = ENDPOINTS.get(request.path)
        if endpoint is None or request.method == "OPTIONS":
            return None
        head = Head(request.method, request.version, request.headers)
        caller = metadata(client[0] if client else "", request.headers, self._proxies)
        call = Call(exchange, endpoint, caller, self._access.readable(head.origin), self._terms)
        try:
            self._access.check(head)
            self._check(request, endpoint)
        except BridgeError as error:
            call.refuse(error)
        else:
            call.on_body()  # of a request in a pipeline, the body can be there
        return call

    def _check(self, request: Request, endpoint: Endpoint) -> None:
        """Raise BridgeError for a head that no call can follow."""
        if request.method != "POST":
            path = request.path.decode("ascii")
            detail = f"no endpoint {request.method} {path}; send a POST"
            raise _refused(405, detail, {"Allow": "POST"})
        if (request.length or 0) > self._terms.largest:
            raise too_large(self._terms.largest)
        for name, value in request.headers:
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
