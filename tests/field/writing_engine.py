"""An engine without a model, which writes the bytes of the file WRITES and serves OpenAI's API.

With EXITS=1 it ends then. `GET /write/BYTES` writes more. Each request of a text is refused, with
the bytes of the file as words.
"""

import http.server
import json
import os
import sys
from pathlib import Path
from urllib.parse import unquote_to_bytes


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.startswith("/write/"):
            write(unquote_to_bytes(self.path.removeprefix("/write/")))
        self._answer(200, {"data": [{"id": os.environ["NAME"]}]})

    def do_POST(self) -> None:
        words = Path(os.environ["WRITES"]).read_bytes().decode(errors="replace")
        self._answer(400, {"error": {"message": words, "code": 400}})

    def _answer(self, status: int, answer: object) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Write nothing but the file."""


def write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.flush()


def main() -> None:
    write(Path(os.environ["WRITES"]).read_bytes())
    if os.environ["EXITS"] == "1":
        sys.exit(1)
    address = (os.environ["HOST"], int(os.environ["PORT"]))
    http.server.ThreadingHTTPServer(address, Handler).serve_forever()


if __name__ == "__main__":
    main()
