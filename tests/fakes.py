"""Fakes of a runtime and of an engine, with state as the real ones have.

The contract suites in `tests/runtimes` and `tests/engines` run against the fakes too, so that they
behave as the real ones do.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Collection, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager

from inference_service.capacity.claims import GpuNeed, GpuShare
from inference_service.capacity.nodes import LOCAL, Node
from inference_service.catalog import ModelSpec
from inference_service.engines.base import Chunk, Facts, Finish, FinishReason, Prompt
from inference_service.engines.exchange import Head, Options, Request, Sink, Source
from inference_service.engines.llamacpp.section import GgufWeights, LlamacppNeeds
from inference_service.errors import EngineLost, LaunchError
from inference_service.key import Key
from inference_service.lifecycle import Phase, Progress
from inference_service.runtimes.base import Exit, Instance, Running, StatelessRuntime
from inference_service.runtimes.command import Command, Launch, Needs, Seat
from inference_service.runtimes.logs import KEPT_LINES, LogBuffer
from tests.waiting import SLOWLY, within


def spec(model_id: str = "tiny", context_length: int = 128, memory: str = "64MiB") -> ModelSpec:
    """Return a model of the catalog."""
    weights = GgufWeights(repo="some/repo", file="model.gguf")
    needs = LlamacppNeeds(memory=memory, weights=weights)  # type: ignore[arg-type]
    return ModelSpec(
        id=model_id,
        hf_name=f"some/{model_id}",
        context_length=context_length,
        sections={"fake": needs},
    )


class FakeRunning:
    """An engine that runs until a call of `die`, or until its run is left."""

    def __init__(self, name: str, port: int) -> None:
        self.instance = Instance(name, f"http://127.0.0.1:{port}", port)
        self.log = LogBuffer()
        self.usage: int | None = None
        self.exit: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()

    async def listens(self) -> None:
        pass

    async def wait(self) -> Exit:
        return await asyncio.shield(self.exit)

    def logs(self, last: int = KEPT_LINES) -> AsyncGenerator[str]:
        return self.log.follow(last)

    def tail(self, count: int) -> tuple[str, ...]:
        return self.log.tail(count)

    async def disk_usage(self, paths: Sequence[str]) -> int | None:
        return self.usage

    def die(self, exit: Exit, *lines: str) -> None:
        """End as an engine that crashes, with these last lines."""
        for line in lines:
            self.log.append(line)
        self.log.close()
        self.exit.set_result(exit)


class FakeRuntime(StatelessRuntime):
    """A runtime without engines, which records what is run.

    `may_pull`, `may_run` and `may_leave` are gates that a test closes to hold a start or a stop at
    that point. The next run raises `refusal`; the next run that is left raises `stop_refusal`.
    """

    name = "fake"
    seat = Seat(in_container=True, has_gpu=True)
    creates = "starting the container"
    patience = 10.0
    nodes: Sequence[Node] = (Node(LOCAL, 10**9),)

    def __init__(self) -> None:
        self.may_pull, self.may_run, self.may_leave = (
            asyncio.Event(),
            asyncio.Event(),
            asyncio.Event(),
        )
        for gate in (self.may_pull, self.may_run, self.may_leave):
            gate.set()
        self.running: dict[str, FakeRunning] = {}
        self.started: list[str] = []
        self.shares: dict[str, GpuShare | None] = {}  # of the last run, by name
        self.changed = asyncio.Event()
        self.refusal: Exception | None = None
        self.stop_refusal: Exception | None = None
        self.unremoved: set[Key] = set()

    async def pull(self, command: Command) -> AsyncGenerator[Progress]:
        if not command.image:
            raise LaunchError("containers only")
        yield Progress(Phase.PULLING_IMAGE, 1, 2, "bytes", 0.5)
        await self.may_pull.wait()
        yield Progress(Phase.PULLING_IMAGE, 2, 2, "bytes", 1.0)

    @asynccontextmanager
    async def run(
        self, launch: Launch, gpus: GpuShare | None = None
    ) -> AsyncGenerator[FakeRunning]:
        await self.may_run.wait()
        refusal, self.refusal = self.refusal, None
        if refusal is not None:
            raise refusal
        name = self.container_name(launch.key)
        self.unremoved.discard(launch.key)
        if name in self.running:
            raise LaunchError(f"the name {name} is taken")
        taken = {running.instance.port for running in self.running.values()}
        port = next(port for port in itertools.count(8080) if port not in taken)
        running = FakeRunning(name, port)
        self.running[name] = running
        self.started.append(name)
        self.shares[name] = gpus
        self._notify()
        try:
            yield running
        finally:
            try:
                await asyncio.sleep(0)  # a test may cancel the stop here, as that of a real one
                await self.may_leave.wait()
            finally:
                refusal, self.stop_refusal = self.stop_refusal, None
                if refusal is not None:
                    self.unremoved.add(launch.key)
                    raise refusal
                del self.running[name]
                running.log.close()
                if not running.exit.done():
                    running.exit.set_result(Exit(0))
                self._notify()

    def removal_pending(self, key: Key) -> bool:
        return key in self.unremoved

    def removes_at_last(self) -> None:
        """Complete the pending removals."""
        for key in self.unremoved:
            del self.running[self.container_name(key)]
        self.unremoved.clear()

    async def engine(self, name: str = "tgi-tiny") -> FakeRunning:
        """Return the engine of this name as soon as it runs."""
        async with within(SLOWLY, f"{name} did not run"):
            while name not in self.running:
                await self.changed.wait()
        return self.running[name]

    def _notify(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()


class FakeSource:
    """The source of an answer of the fake engine."""

    def __init__(self) -> None:
        self.flows = asyncio.Event()
        self.flows.set()
        self.closed = False

    def pause(self) -> None:
        self.flows.clear()

    def resume(self) -> None:
        self.flows.set()

    def close(self) -> None:
        self.closed = True
        self.flows.set()


class FakeEngine:
    """An engine whose texts are "word word ...".

    While `may_answer` is closed, the engine is not ready. While `may_speak` is closed, each token
    is held, and each piece of an answer. Programs whose instances are in `dead` have ended, which
    the runtime need not know yet. Models whose ids are in `gpu_needs` want GPUs. `routes` has the
    answers to `ask`, in pieces.
    """

    name = "fake"

    def __init__(self, concurrency: int = 128) -> None:
        self.concurrency = concurrency
        self.may_answer, self.may_speak = asyncio.Event(), asyncio.Event()
        self.may_answer.set()
        self.may_speak.set()
        self.failure: Exception | None = None
        self.dead: list[Instance] = []
        self.gpu_needs: dict[str, GpuNeed] = {}
        self.open = 0
        self.longest: int | None = None  # token
        self.control_tokens: tuple[str, ...] | None = None
        self.has_chat_template: bool | None = None
        self.takes_tools: bool | None = None
        self.left: list[asyncio.Future[None]] = []  # see `Engine.parting`
        self._generates = asyncio.Event()
        self.idle = asyncio.Event()
        self.idle.set()
        self.sent: list[bytes] = []  # all pieces of answers
        self.routes = {"/whole": [b"a word"], "/words": [b" word"] * 200}

    def paths(self, spec: ModelSpec) -> Sequence[str]:
        return ("/words",)

    def check(self, spec: ModelSpec, path: str, options: Options) -> None:
        pass

    def command(self, spec: ModelSpec, seat: Seat) -> Command:
        need = self.gpu_needs.get(spec.id) if seat.gives("auto") else None
        return Command(
            model=spec.id,
            image="fake",
            needs=Needs(spec.needs(LlamacppNeeds).memory, need),
            port=seat.port,
            concurrency=self.concurrency,
        )

    async def progress(self, command: Command, running: Running) -> AsyncGenerator[Progress]:
        async with aclosing(running.logs()) as lines:
            async for line in lines:
                if line.startswith("load"):
                    yield Progress(Phase.LOADING_WEIGHTS, message=line)

    def cause(self, log: Sequence[str]) -> str:
        return log[-1] if log else ""

    def is_lasting(self, log: Sequence[str]) -> bool:
        return bool(log) and log[-1].startswith("no such")

    def facts(self, log: Sequence[str]) -> Facts | None:
        facts = Facts(self.longest, self.control_tokens, self.has_chat_template, self.takes_tools)
        return None if facts == Facts() else facts

    async def ready(self, instance: Instance) -> bool:
        return self.may_answer.is_set() and not self._has_died(instance)

    async def generate(
        self, instance: Instance, spec: ModelSpec, prompt: Prompt, *, whole: bool = False
    ) -> AsyncGenerator[Chunk]:
        with self._working():
            for count in range(1, prompt.max_new_tokens + 1):
                await self._speaks(instance)
                last = count == prompt.max_new_tokens
                finish = Finish(FinishReason.LENGTH, len(prompt.text.split()), count)
                yield Chunk(" word", 1, finish if last else None)

    async def ask(self, instance: Instance, request: Request, sink: Sink) -> None:
        source, pieces = FakeSource(), self.routes.get(request.path)
        with self._working():
            if self.failure is not None:
                raise self.failure
            sink.head(
                Head(404 if pieces is None else 200, {b"content-type": b"text/plain"}), source
            )
            try:
                for piece in pieces or [b"no such path"]:
                    await asyncio.sleep(0)  # a read of its own
                    await source.flows.wait()
                    await self._speaks(instance)
                    if source.closed:
                        return
                    self.sent.append(piece)
                    sink.data(piece)
            except Exception as error:
                sink.end(error)
                raise
            sink.end(None)

    async def _speaks(self, instance: Instance) -> None:
        self._generates.set()
        await self.may_speak.wait()
        if self.failure is not None:
            raise self.failure
        if self._has_died(instance):
            raise broken()

    def _has_died(self, instance: Instance) -> bool:
        return any(dead is instance for dead in self.dead)  # the next instance can be equal

    @contextmanager
    def _working(self) -> Iterator[None]:
        self.open += 1
        self.idle.clear()
        try:
            yield
        finally:
            self.open -= 1
            if not self.open:
                self.idle.set()

    async def generates(self) -> None:
        """Return as soon as the first text or answer has been asked for."""
        async with within(SLOWLY, "no text was asked for"):
            await self._generates.wait()

    def ask_now(self, instance: Instance, request: Request, sink: Sink) -> Source | None:
        return None

    def parting(self, instance: Instance) -> Collection[asyncio.Future[None]]:
        return self.left

    async def aclose(self) -> None:
        pass


def broken() -> EngineLost:
    """Return the error of an engine that dies under a request."""
    return EngineLost("broke the connection")
