"""One text, from the call to its summary, whatever becomes of the engine meanwhile.

An engine that is lost before the caller has seen a token is replaced once, unseen. After that the
text goes on only where the caller asked for it: from the prompt and what was sent, with a seam that
is told in the stream and in the outcome.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial

from inference_service.engines.base import Chunk, Finish, FinishReason, Prompt
from inference_service.errors import (
    EngineDied,
    EngineFailed,
    EngineLost,
    GenerationTimeout,
    ModelStopped,
    PromptTooLong,
    ResumptionFailed,
    ServiceError,
    ShuttingDown,
)
from inference_service.serving.model import Supervisor, Tell
from inference_service.serving.silence import SilenceLimit

_LOSSES = 3  # engines that one text may outlive: a prompt that kills them must come to an end
_PATIENCE = 10.0  # seconds for a lost engine to be found dead, with the back-off after it

Write = Callable[[Chunk], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Order:
    """What a caller wants.

    `timeout` is in seconds: for a whole text; in a stream, between two chunks. The others are those
    of `Supervisor.lease`. `resumes` lets a stream outlive its engine.
    """

    prompt: Prompt
    timeout: float
    idle_timeout: float | None = None
    caller: str = ""
    deadline: float = math.inf
    resumes: bool = False


@dataclass(frozen=True, slots=True)
class Seam:
    """Where a text goes on after its engine was lost: the tokens before it, and what happened."""

    token_count: int
    cause: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it went; times are in seconds.

    With seams, counts are sums over the parts, whose tokens can be cut differently than those of
    the whole; the prompt's is 0 where the last engine was lost after the last token.
    """

    finish: Finish
    start: float  # until the model was ready
    first_token: float | None  # from then on, where the text was streamed
    total: float
    seams: tuple[Seam, ...]


class Generation:
    """One text of one model; used once, by `whole` or by `stream`."""

    def __init__(self, model: Supervisor, order: Order) -> None:
        self._model = model
        self._order = order
        self._arrived = self._ready = time.monotonic()
        self._first: float | None = None
        self._finish: Finish | None = None
        self._sent: list[str] = []
        self._sent_tokens = 0
        self._seams: list[Seam] = []

    async def whole(self) -> str:
        """Return the text, in one piece."""
        texts: list[str] = []

        async def keep(chunk: Chunk, _: SilenceLimit) -> None:
            texts.append(chunk.text)

        attempt = partial(self._attempt, self._order.prompt, keep, whole=True)
        try:
            await attempt()
        except (EngineDied, EngineLost) as lost:
            await self._recovery(lost)
            texts.clear()
            await attempt()
        return "".join(texts)

    async def stream(
        self, write: Write, seam: Callable[[Seam], Awaitable[None]], tell: Tell | None = None
    ) -> None:
        """Pass the text on as it is made; `seam` is awaited where it goes on after a loss.

        What is written, and not what is made, is the text so far. `tell` is that of a lease. Errors
        carry `sent_token_count` when there was text before them.
        """
        losses = 0
        try:
            while True:
                try:
                    return await self._attempt(self._rest(), partial(self._pass_on, write), tell)
                except (EngineDied, EngineLost) as lost:
                    losses += 1
                    if losses > self._losses_allowed:
                        raise
                    if self._sent_tokens:
                        self._seams.append(Seam(self._sent_tokens, lost.message))
                        await seam(self._seams[-1])
                        if self._sent_tokens >= self._order.prompt.max_new_tokens:
                            self._finish = Finish(FinishReason.LENGTH, 0, 0)
                            return None
                    await self._recovery(lost)
                except PromptTooLong:
                    if not self._seams:
                        raise
                    self._finish = Finish(FinishReason.LENGTH, 0, 0)  # it fills the context
                    return None
        except ServiceError as error:
            raise self._told(error) from None

    def outcome(self) -> Outcome:
        """How it went, after the end."""
        assert self._finish is not None, "an engine ends with a finish or raises"
        now = time.monotonic()
        before = self._seams[-1].token_count if self._seams else 0
        finish = Finish(
            self._finish.reason,
            max(0, self._finish.prompt_token_count - before),
            self._finish.completion_token_count + before,
        )
        return Outcome(
            finish,
            start=self._ready - self._arrived,
            first_token=None if self._first is None else self._first - self._ready,
            total=now - self._arrived,
            seams=tuple(self._seams),
        )

    @property
    def _losses_allowed(self) -> int:
        if not self._sent_tokens:
            return 1
        return _LOSSES if self._order.resumes else 0

    def _rest(self) -> Prompt:
        """The prompt for what is not written yet."""
        prompt = self._order.prompt
        return replace(
            prompt,
            text=prompt.text + "".join(self._sent),
            max_new_tokens=prompt.max_new_tokens - self._sent_tokens,
        )

    async def _attempt(
        self,
        prompt: Prompt,
        write: Callable[[Chunk, SilenceLimit], Awaitable[None]],
        tell: Tell | None = None,
        *,
        whole: bool = False,
    ) -> None:
        order = self._order
        lease = self._model.lease(order.idle_timeout, order.caller, order.deadline, tell)
        limit = SilenceLimit(order.timeout)
        try:
            async with lease as model, limit:
                if self._first is None:
                    self._ready = time.monotonic()
                async with aclosing(model.generate(prompt, whole=whole)) as chunks:
                    async for chunk in chunks:
                        self._finish = chunk.finish
                        await write(chunk, limit)
        except TimeoutError:
            if not limit.expired():
                raise
            raise GenerationTimeout(self._model.spec.id, order.timeout) from None

    async def _pass_on(self, write: Write, chunk: Chunk, limit: SilenceLimit) -> None:
        if self._first is None:
            self._first = time.monotonic()
        if chunk.text:
            limit.pause()  # a slow reader is no silence of the engine
            await write(chunk)
            if self._order.resumes:
                self._sent.append(chunk.text)
            self._sent_tokens += chunk.token_count
        limit.heard()

    async def _recovery(self, lost: ServiceError) -> None:
        """Return when another attempt makes sense. Raises `lost` when that is not soon."""
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._model.recovered()
        except TimeoutError:
            raise lost from None

    def _told(self, error: ServiceError) -> ServiceError:
        """What the caller of a stream is told, who may have a part of the text."""
        if not self._sent_tokens:
            return error
        known = EngineFailed | ModelStopped | ShuttingDown | GenerationTimeout
        if self._seams and not isinstance(error, known):
            # It is about a new start, which was not this call's first wish.
            error = ResumptionFailed(self._model.spec.id, self._seams[-1].cause, error)
        error.metadata["sent_token_count"] = str(self._sent_tokens)
        return error
