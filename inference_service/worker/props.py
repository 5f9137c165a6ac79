"""What llama.cpp says of its model, at its own address."""

import json
import socket
from typing import Any

_SECONDS = 5.0  # for each read
_LARGEST = 4 << 20  # bytes; the chat template is in it


def takes_tools(host: str, port: int, api_key: str | None) -> bool | None:
    """Return whether the chat template shows tools or calls of tools; None where nobody knows.

    Without either, llama.cpp drops the `tools` of a request, and `required` with them.
    """
    try:
        caps = _get(host, port, "/props", api_key)["chat_template_caps"]
        shown = caps["supports_tools"], caps["supports_tool_calls"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return any(shown) if all(isinstance(each, bool) for each in shown) else None


def _get(host: str, port: int, path: str, api_key: str | None) -> Any:
    """Return the JSON of an answer. `http.client` would load OpenSSL, which a worker can spare."""
    key = "" if api_key is None else f"Authorization: Bearer {api_key}\r\n"
    # Of version 1.0, in which an answer has no chunks and ends with the connection.
    request = f"GET {path} HTTP/1.0\r\nHost: localhost\r\n{key}\r\n"
    answer = bytearray()
    with socket.create_connection((host, port), timeout=_SECONDS) as connection:
        connection.sendall(request.encode())
        while len(answer) < _LARGEST and (data := connection.recv(1 << 16)):
            answer += data
    return json.loads(answer.partition(b"\r\n\r\n")[2])
