"""The smallest engine: it repeats the words of its entry. It shows what a new kind takes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import aclosing

import msgspec

from inference_service.catalog import EngineNeeds, ModelSpec
from inference_service.engines import relay, sse
from inference_service.engines.base import (
    NO_FACTS,
    Chunk,
    Facts,
    Finish,
    FinishReason,
    Prompt,
)
from inference_service.engines.exchange import Options, Request, Sink, Source
from inference_service.engines.http import Connections
from inference_service.lifecycle import Phase, Progress
from inference_service.runtimes.base import Instance, Running
from inference_service.runtimes.command import Command, Needs, Seat

_PROGRAM = """import http.server, itertools, json, sys
class Toy(http.server.BaseHTTPRequestHandler):
    def do_GET(self, count=0):
        self.wfile.write(b"HTTP/1.0 200 OK\\r\\ncontent-type: text/event-stream\\r\\n\\r\\n")
        for word in itertools.islice(itertools.cycle(sys.argv[3:]), count):
            self.wfile.write(f"data: {json.dumps(word)}\\n\\n".encode())
    def do_POST(self):
        self.do_GET(json.loads(self.rfile.read(int(self.headers["content-length"]))))
http.server.ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Toy).serve_forever()"""


class ToyNeeds(EngineNeeds):
    """The section `toy` of an entry."""

    words: list[str]

    @property
    def runtimes(self) -> tuple[str, ...]:
        return ("process",)


class Toy:
    """The engine `toy`."""

    name = "toy"

    def __init__(self, image: str) -> None:
        self._connections = Connections(keep_alive=False)

    def paths(self, spec: ModelSpec) -> Sequence[str]:
        return ("/words",)

    def check(self, spec: ModelSpec, path: str, options: Options) -> None:
        pass

    def command(self, spec: ModelSpec, seat: Seat) -> Command:
        toy = spec.needs(ToyNeeds)
        program = (sys.executable, "-c", _PROGRAM, seat.host, str(seat.port), *toy.words)
        return Command(model=spec.id, needs=Needs(toy.memory), program=program, port=seat.port)

    async def progress(self, command: Command, running: Running) -> AsyncGenerator[Progress]:
        yield Progress(Phase.LOADING_WEIGHTS)
        await running.wait()

    def cause(self, log: Sequence[str]) -> str:
        return log[-1] if log else ""

    def is_lasting(self, log: Sequence[str]) -> bool:
        return False

    def facts(self, log: Sequence[str]) -> Facts | None:
        return NO_FACTS

    async def ready(self, instance: Instance) -> bool:
        return await sse.answers(self._connections, instance, "/")

    async def generate(
        self, instance: Instance, spec: ModelSpec, prompt: Prompt, *, whole: bool = False
    ) -> AsyncGenerator[Chunk]:
        left = wanted = prompt.max_new_tokens
        async with aclosing(sse.post(self._connections, instance, "/say", wanted)) as batches:
            async for lines in batches:
                texts = [f" {word}" for word in msgspec.json.Decoder(str).decode_lines(lines)]
                left -= len(texts)
                finish = Finish(FinishReason.LENGTH, 0, wanted)
                yield Chunk("".join(texts), len(texts), None if left else finish)

    async def ask(self, instance: Instance, request: Request, sink: Sink) -> None:
        await relay.forward(self._connections, instance, request, sink)

    def ask_now(self, instance: Instance, request: Request, sink: Sink) -> Source | None:
        return None

    def parting(self, instance: Instance) -> Collection[asyncio.Future[None]]:
        return self._connections.parting(instance)

    async def aclose(self) -> None:
        await self._connections.aclose()
