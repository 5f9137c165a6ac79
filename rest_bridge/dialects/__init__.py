"""The dialects that clients speak to engines, passed on as bytes before any ASGI application.

A `front` finds the endpoint of a request; a `call` reads its body and answers with what the engine
sends; a `shape` is how a dialect writes errors; `events` keeps the events of a stream whole.
"""
