"""An engine without a model, for tests of runtimes: requests over HTTP control it.

It writes `serving` once it listens at ENGINE_HOST and ENGINE_PORT, and answers
    /write/TEXT  after writing TEXT as a line
    /long/COUNT  after writing a line of so many characters
    /exit/CODE   and ends with that code
    /env/NAME    with the value of that variable
    /file/NAME   with the content of the file that the variable names
    /fork        and makes a child, which has the same port and output
    /grow        and takes memory until it is killed
    /child       and its next child does that
    /map/NAME    after reading the file that the variable names from a map of it, with its size
With ENGINE_STUBBORN=1 it ignores SIGTERM.

It needs only the standard library, and little of that, because tests start it often.
"""

import mmap
import os
import signal
import socket
import sys
from urllib.parse import unquote


def _answer(path: str) -> str:
    _, verb, argument = unquote(path).split("/", 2) if path.count("/") > 1 else ("", path[1:], "")
    match verb:
        case "write":
            print(argument, flush=True)
        case "long":
            print("x" * int(argument), flush=True)
        case "env":
            return os.environ.get(argument, "")
        case "file":
            with open(os.environ[argument], encoding="utf-8") as file:
                return file.read()
        case "map":
            return _mapped(os.environ[argument])
    return ""


_kept: list[mmap.mmap] = []


def _mapped(path: str) -> str:
    with open(path, "rb") as file:
        data = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    _kept.append(data)
    sum(data[at] for at in range(0, len(data), 4096))
    return str(len(data))


def _grow() -> None:
    kept = []
    while True:
        kept.append(bytearray(b"x" * 2**20))


def main() -> None:
    if os.environ.get("ENGINE_STUBBORN") == "1":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    address = (os.environ["ENGINE_HOST"], int(os.environ["ENGINE_PORT"]))
    with socket.create_server(address) as server:
        print("serving", flush=True)
        grows = False
        while True:
            connection, _ = server.accept()
            with connection:
                request = connection.recv(65536).split()
                if not request:  # somebody has only looked whether it listens
                    continue
                path = request[1].decode()
                body = _answer(path).encode()
                connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + body)
            if path.startswith("/exit/"):
                sys.exit(int(path.removeprefix("/exit/")))
            if path == "/child":
                grows = True
            if path == "/fork" and os.fork() == 0:
                if grows:
                    _grow()
                signal.pause()
            if path == "/grow":
                _grow()


main()
