"""A model whose engine is lost in the middle of requests."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import NoReturn

from inference_service.catalog import ModelSpec
from inference_service.engines.base import Chunk, Prompt
from inference_service.engines.exchange import Request, Sink
from inference_service.runtimes.base import Exit, Instance
from inference_service.serving.model import Model
from inference_service.serving.timing import Timing
from tests.build import model as make_model
from tests.build import timing
from tests.fakes import FakeEngine, FakeRuntime, broken, spec
from tests.waiting import WHOLE, within

TIMING = timing(poll_longest=0.001, back_off=0.01)


class Mortal(FakeEngine):
    """An engine that is lost after the given number of tokens or pieces of each request.

    With 0 it is lost before the first token, or before the head of an answer. `on_loss` is called
    at each loss.
    """

    def __init__(self, *losses: int) -> None:
        super().__init__()
        self.on_loss: Callable[[Instance], None] = self.dead.append
        self.prompts: list[Prompt] = []
        self.wholes: list[bool] = []
        self.asked = 0
        self._losses = list(losses)
        self._left = -1  # until the loss; below 0 there is none

    async def generate(
        self, instance: Instance, spec: ModelSpec, prompt: Prompt, *, whole: bool = False
    ) -> AsyncGenerator[Chunk]:
        self.prompts.append(prompt)
        self.wholes.append(whole)
        is_lost = self._begin() >= 0
        async with aclosing(super().generate(instance, spec, prompt)) as chunks:
            async for chunk in chunks:
                yield Chunk(chunk.text, chunk.token_count) if is_lost else chunk
        if is_lost:
            self._lose(instance)

    async def ask(self, instance: Instance, request: Request, sink: Sink) -> None:
        self.asked += 1
        if self._begin() == 0:
            self._lose(instance)
        await super().ask(instance, request, sink)

    async def _speaks(self, instance: Instance) -> None:
        await super()._speaks(instance)
        if self._left == 0:
            self._lose(instance)
        self._left -= 1

    def _begin(self) -> int:
        self._left = self._losses.pop(0) if self._losses else -1
        return self._left

    def _lose(self, instance: Instance) -> NoReturn:
        self.on_loss(instance)
        raise broken()


@asynccontextmanager
async def mortal(
    *losses: int, dies: bool = True, times: Timing = TIMING
) -> AsyncGenerator[tuple[Model, FakeRuntime, Mortal]]:
    """Make a model whose engine is lost: it dies, or without `dies` only its connection breaks."""
    runtime, engine = FakeRuntime(), Mortal(*losses)
    model = make_model(spec(), runtime, engine, times)

    def die(instance: Instance) -> None:
        if dies:
            engine.dead.append(instance)
            runtime.running[instance.name].die(Exit(137))

    engine.on_loss = die
    async with within(WHOLE, "the requests and the model did not come to an end"):
        yield model, runtime, engine
        await model.close(0)
    assert (runtime.running, engine.open) == ({}, 0)
