"""A program that speaks OpenAI's JSON: `keyed_program.py [--patient] [--key VARIABLE] PORT`.

With `--patient` it waits until its port is free. With `--key` it answers 401 to requests without
the key of that variable, which it writes into its log.
"""

import http.server
import json
import os
import sys
import time

CHUNK = json.dumps({"choices": [{"index": 0, "text": "5 words", "finish_reason": "length"}]})
USAGE = json.dumps({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 5}})
TEXT = f"data: {CHUNK}\n\ndata: {USAGE}\n\ndata: [DONE]\n\n".encode()
MODELS = json.dumps({"data": [{"id": "mine"}]}).encode()

KEY = os.environ[sys.argv[sys.argv.index("--key") + 1]] if "--key" in sys.argv else ""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer(MODELS, "application/json")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.answer(TEXT, "text/event-stream")

    def answer(self, body: bytes, kind: str) -> None:
        allowed = not KEY or self.headers.get("authorization") == f"Bearer {KEY}"
        self.send_response(200 if allowed else 401)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


if KEY:
    print(f"the key is {KEY}", flush=True)
while True:
    try:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[-1])), Handler)
        break
    except OSError:
        if "--patient" not in sys.argv:
            raise
        time.sleep(0.1)
server.serve_forever()
