"""The HTTP/1.1 server: llhttp (httptools) reads requests, and an ASGI application answers them.

A `connection` has an `intake` (bytes become requests, by `parser` and, in `request`, the rules of
RFC 9110 and 9112), a `pipeline` (requests that are answered one at a time), `deadlines`, and an
`outlet`. A request and its answer are an `exchange`, which a handler answers: `asgi`, or one of a
route's own. `answer` frames what the handler gives. `listener` accepts clients, and `server` begins
and ends all.
"""

from rest_bridge.http.limits import Limits
from rest_bridge.http.server import Server

__all__ = ["Limits", "Server"]
