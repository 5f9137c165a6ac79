"""An engine of kind `openai` that does what no engine should, by the name in the prompt.

The table `FAULTS` has what it sends for each. It needs only the standard library.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
EVENTS = HEAD + b"\r\n"  # to the end of the connection
CHUNKS = HEAD + b"transfer-encoding: chunked\r\n\r\n"
DEEP = 100_000


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(text: str = " x", **more: object) -> bytes:
    return b"data: " + json.dumps({"choices": [{"text": text}], **more}).encode() + b"\n\n"


def last(reason: str = "length", **usage: object) -> bytes:
    done = {"choices": [{"text": "", "finish_reason": reason}], "usage": usage}
    return b"data: " + json.dumps(done).encode() + b"\n\ndata: [DONE]\n\n"


GOOD = EVENTS + event(" good") + last(prompt_tokens=1, completion_tokens=1)


@dataclass(frozen=True)
class Fault:
    """What the engine sends: `begin`, then `again` without an end, each after `pause` seconds.

    `words` are in the error that the caller gets, whose reason is `reason`.
    """

    begin: bytes
    again: bytes = b""
    words: str = ""
    reason: str = "ENGINE_FAILED"
    pause: float = 0.0


def silent(begin: bytes, again: bytes = b"", pause: float = 0.0) -> Fault:
    """Make a fault by which no token comes, until the time limit of the request."""
    return Fault(begin, again, " 2 s; ", "GENERATION_TIMEOUT", pause)


TOO_MUCH = "a head, or trailers, of more than 64 KiB"
NOT_ITS_OWN = "sent an event that is not its own"
NO_HTTP = "what the engine sent is no HTTP"

FAULTS = {
    "a header without end": Fault(b"HTTP/1.1 200 OK\r\nx: ", b"a" * 65536, TOO_MUCH),
    "headers without end": Fault(b"HTTP/1.1 200 OK\r\n", b"x: y\r\n" * 999, TOO_MUCH),
    "a name of a header without end": Fault(b"HTTP/1.1 200 OK\r\n", b"a" * 65536, TOO_MUCH),
    "a status line without end": Fault(b"HTTP/1.1 200 ", b"a" * 65536, TOO_MUCH),
    "empty lines before the head": Fault(b"", b"\r\n" * 9999, TOO_MUCH),
    "interim answers without end": Fault(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 99, TOO_MUCH),
    "an interim answer alone": silent(b"HTTP/1.1 100 Continue\r\n\r\n"),
    "an interim answer that slowly comes again": silent(
        b"", b"HTTP/1.1 102 Processing\r\n\r\n", pause=0.2
    ),
    "an interim answer with the text": Fault(
        b"HTTP/1.1 103 Early Hints\r\ncontent-type: text/event-stream\r\n\r\n" + event(),
        b"",
        NO_HTTP,
    ),
    "a switch of protocols": Fault(
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n",
        b"",
        "a switch to another protocol",
    ),
    "a status below 100": Fault(
        b"HTTP/1.1 000 X\r\ncontent-type: text/event-stream\r\n\r\n", b"", "with the status 0"
    ),
    "two lengths": Fault(HEAD + b"content-length: 5\r\ncontent-length: 6\r\n\r\n", b"", NO_HTTP),
    "a length below 0": Fault(HEAD + b"content-length: -1\r\n\r\n", b"", NO_HTTP),
    "a length above 64 bits": Fault(
        HEAD + b"content-length: 9%b\r\n\r\n" % (b"9" * 30), b"", NO_HTTP
    ),
    "a chunk above 64 bits": Fault(CHUNKS + b"f" * 17 + b"\r\n", b"", NO_HTTP),
    "an extension of a chunk without end": Fault(CHUNKS + b"1;", b"a" * 65536, TOO_MUCH),
    "trailers without end": Fault(CHUNKS + b"0\r\n", b"x: y\r\n" * 999, TOO_MUCH),
    "no HTTP": Fault(b"\x16\x03\x01\x02\x00", b"", NO_HTTP),
    "an event without end": Fault(EVENTS + b"data: ", b"a" * 65536, "an event of more than 1 MiB"),
    "an event of one text without end": Fault(
        EVENTS + b'data: {"choices":[{"text":"', b"a" * 65536, "an event of more than 1 MiB"
    ),
    "a text without end": Fault(EVENTS, event() * 99, "where 20 tokens were asked for"),
    "a text of large tokens": Fault(
        EVENTS, event("x" * 100_000), "a text of more than 20480 characters"
    ),
    "a text that counts its tokens and has no end": Fault(
        EVENTS,
        event(usage={"completion_tokens": 500, "prompt_tokens": 1}),
        "sent 500 tokens where 20",
    ),
    "comments without end": silent(EVENTS, b": x\n\n" * 999),
    "empty events without end": silent(EVENTS, b"data:\n\n" * 999),
    "events of nothing without end": silent(EVENTS, b"data: {}\n\n" * 999),
    "empty lines without end": silent(EVENTS, b"\n" * 999),
    "a head that drips": silent(b"HTTP/1.1 200 OK\r\nx: ", b"a", pause=0.1),
    "an event that drips": silent(EVENTS + b"data: ", b" ", pause=0.1),
    "chunks that drip": silent(CHUNKS, chunk(b"\n"), pause=0.1),
    "an answer that never begins": silent(b""),
    "nesting": Fault(EVENTS + b'data: {"x":' + b"[" * DEEP + b"\n\n", b"", NOT_ITS_OWN),
    "nesting that is closed": Fault(
        EVENTS + b'data: {"x":' + b"[" * DEEP + b"]" * DEEP + b"}\n\n", b"", NOT_ITS_OWN
    ),
    "objects in objects": Fault(EVENTS + b"data: " + b'{"x":' * DEEP + b"\n\n", b"", NOT_ITS_OWN),
    "an error that is nested": Fault(
        EVENTS + b'data: {"error":' + b'{"error":' * 900 + b"1" + b"}" * 901 + b"\n\n",
        b"",
        "failed",
    ),
    "an error of an odd shape": Fault(
        EVENTS + b'data: {"error":{"msg":{},"loc":5}}\n\n', b"", "failed: 5: {}"
    ),
    "a refusal that is nested": Fault(
        b"HTTP/1.1 500 X\r\nconnection: close\r\n\r\n" + b'{"error":' * 1500, b"cut", "failed"
    ),
    "a refusal without end": Fault(
        b"HTTP/1.1 500 X\r\nconnection: close\r\n\r\n", b"a" * 65536, "aaaa"
    ),
    "a count above int32": Fault(
        EVENTS + event() + last(prompt_tokens=1 << 31, completion_tokens=1),
        b"",
        "counted 2147483648 tokens",
    ),
    "a count above int64": Fault(
        EVENTS + event() + last(prompt_tokens=10**30, completion_tokens=1), b"", "counted 1000000"
    ),
    "a count below 0": Fault(
        EVENTS + event() + last(prompt_tokens=-1, completion_tokens=1), b"", "counted -1 tokens"
    ),
    "a count of many digits": Fault(
        EVENTS + b'data: {"usage":{"prompt_tokens":' + b"9" * 9999 + b"}}\n\n", b"", NOT_ITS_OWN
    ),
    "a count that is no number": Fault(
        EVENTS + b'data: {"usage":{"prompt_tokens":NaN}}\n\n', b"", NOT_ITS_OWN
    ),
    "infinity": Fault(EVENTS + b'data: {"usage":{"prompt_tokens":1e999}}\n\n', b"", NOT_ITS_OWN),
    "bytes that are no UTF-8": Fault(
        EVENTS + b'data: {"choices":[{"text":"\xff\xfe"}]}\n\n', b"", NOT_ITS_OWN
    ),
    "half of a surrogate pair": Fault(
        EVENTS + b'data: {"choices":[{"text":"\\ud800"}]}\n\n', b"", NOT_ITS_OWN
    ),
    "no object": Fault(EVENTS + b"data: null\n\n", b"", NOT_ITS_OWN),
    "a page for people": Fault(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n\r\n",
        b"<br>" * 9999,
        "with no stream of events",
    ),
    "a reason of its own": Fault(
        EVENTS + event() + last("because"), b"", "for a reason of its own"
    ),
    "an end without a text": Fault(EVENTS + b"data: [DONE]\n\n", b"", "without a `finish_reason`"),
    "an end that is cut": Fault(EVENTS + event(), b"cut", "before the text was finished"),
}


def _play(fault: Fault, connection: socket.socket) -> None:
    connection.sendall(fault.begin)
    if fault.again == b"cut":
        return
    if not fault.again:
        connection.recv(1)  # the caller leaves
        return
    while True:
        connection.sendall(fault.again)
        time.sleep(fault.pause)


def _serve(connection: socket.socket) -> None:
    with connection, contextlib.suppress(OSError), connection.makefile("rb") as reader:
        head = b"".join(itertools.takewhile(lambda line: bytes(line).strip(), reader)).lower()
        if head.startswith(b"get"):
            with contextlib.suppress(FileNotFoundError):
                _play(PROBES[Path(os.environ["PROBE"]).read_text()], connection)
            body = json.dumps({"data": [{"id": os.environ["NAME"]}]}).encode()
            answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
            connection.sendall(answer + b"content-length: %d\r\n\r\n" % len(body) + body)
            return
        length = int(head.partition(b"content-length: ")[2].split()[0])
        prompt = json.loads(reader.read(length))["prompt"]
        _play(FAULTS[prompt], connection) if prompt in FAULTS else connection.sendall(GOOD)


JSON = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n"

PROBES = {
    "a list without end": Fault(JSON + b'{"data":[', b'{"id":"x"},' * 9999),
    "nesting": Fault(JSON + b"[" * DEEP, b"["),
    "a name without end": Fault(JSON + b'{"data":[{"id":"', b"a" * 65536),
    "a list that drips": Fault(JSON + b'{"data":[', b" ", pause=0.1),
    "a header without end": Fault(b"HTTP/1.1 200 OK\r\nx: ", b"a" * 65536),
    "no answer": Fault(b""),
}


def main() -> None:
    address = (os.environ["HOST"], int(os.environ["PORT"]))
    with socket.create_server(address, backlog=100) as server:
        while True:
            connection, _ = server.accept()
            threading.Thread(target=_serve, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    main()
