"""The HTTP/1.1 server: llhttp (httptools) reads requests, and an ASGI application answers them.

The way of a request, from the wire: `listener` (sockets), `connection` (bytes and times), `parser`
and `request` (the rules of RFC 9110 and 9112), `exchange` (a request and its answer), `asgi` or
another handler (what answers), `answer` (bytes again). `server` begins and ends all.
"""

from rest_bridge.http.limits import Limits
from rest_bridge.http.server import Server

__all__ = ["Limits", "Server"]
