"""One text, from the call to its outcome, whatever becomes of the engine meanwhile.

An engine that is lost before the caller has seen a token is replaced once, unnoticed. After the
first token the text goes on only where the caller asked for it: from the prompt and what was sent,
with a resumption that is reported in the stream and in the outcome.
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
from inference_service.runtimes.base import Instance
from inference_service.serving.changes import Notify
from inference_service.serving.model import Model
from inference_service.serving.silence import SilenceLimit

_LOSSES = 3  # engines that one text may outlive: a prompt that kills them must come to an end

Write = Callable[[Chunk], Awaitable[None]]
_WriteWithin = Callable[[Chunk, SilenceLimit], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Order:
    """A text that a caller asks for.

    `timeout` is in seconds: for a whole text; in a stream, between two chunks. `idle_timeout`,
    `caller` and `deadline` are those of `Model.lease`. `resumes` lets a stream outlive its engine.
    """

    prompt: Prompt
    timeout: float
    idle_timeout: float | None = None
    caller: str = ""
    deadline: float = math.inf
    resumes: bool = False


@dataclass(frozen=True, slots=True)
class Resumption:
    """The point at which a text goes on after the loss of its engine.

    `token_count` is the number of tokens that were sent before, `cause` the reason of the loss.
    """

    token_count: int
    cause: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a text; times are in seconds.

    With resumptions the counts are sums over the parts, whose tokens can be cut differently than
    those of the whole; the prompt's is 0 where the last engine was lost after the last token.
    """

    finish: Finish
    start: float  # until the model was ready
    first_token: float | None  # from then on, where the text was streamed
    total: float
    resumptions: tuple[Resumption, ...]


class Generation:
    """One text of one model; used once, by `whole` or by `stream`."""

    def __init__(self, model: Model, order: Order, patience: float = 10.0) -> None:
        """`patience` is in seconds: for a lost engine to be found dead, and its back-off."""
        self._model = model
        self._order = order
        self._patience = patience
        self._arrived = self._ready = time.monotonic()
        self._first: float | None = None
        self._finish: Finish | None = None
        self._instance: Instance | None = None  # the last one
        self._sent: list[str] = []
        self._sent_tokens = 0  # as far as chunks count them
        self._begun = False  # the caller has text
        self._resumptions: list[Resumption] = []

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
        self,
        write: Write,
        resumed: Callable[[Resumption], Awaitable[None]],
        notify: Notify | None = None,
    ) -> None:
        """Pass the text on as it is made; `resumed` is awaited at each resumption.

        The text so far is what was written, not what was made. `notify` is that of a lease. Errors
        carry `sent_token_count` when there was text before them.
        """
        losses = 0
        try:
            while True:
                try:
                    return await self._attempt(self._rest(), partial(self._pass_on, write), notify)
                except (EngineDied, EngineLost) as lost:
                    losses += 1
                    if losses > self._losses_allowed:
                        raise
                    if self._sent_tokens:
                        self._resumptions.append(Resumption(self._sent_tokens, lost.message))
                        await resumed(self._resumptions[-1])
                        if self._sent_tokens >= self._order.prompt.max_new_tokens:
                            self._finish = Finish(FinishReason.LENGTH, 0, 0)
                            return None
                    await self._recovery(lost)
                except PromptTooLong:
                    if not self._resumptions:
                        raise
                    # The text fills the context.
                    self._finish = Finish(FinishReason.LENGTH, 0, 0)
                    return None
        except ServiceError as error:
            raise self._with_sent_tokens(error) from None

    def outcome(self) -> Outcome:
        """Return the outcome, after the end."""
        assert self._finish is not None, "an engine ends with a finish or raises"
        now = time.monotonic()
        before = self._resumptions[-1].token_count if self._resumptions else 0
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
            resumptions=tuple(self._resumptions),
        )

    @property
    def _losses_allowed(self) -> int:
        if not self._begun:
            return 1
        # Without counts, nobody knows how many tokens are left.
        return _LOSSES if self._order.resumes and self._sent_tokens else 0

    def _rest(self) -> Prompt:
        """Return the prompt for what is not written yet."""
        prompt = self._order.prompt
        return replace(
            prompt,
            text=prompt.text + "".join(self._sent),
            max_new_tokens=prompt.max_new_tokens - self._sent_tokens,
        )

    async def _attempt(
        self,
        prompt: Prompt,
        write: _WriteWithin,
        notify: Notify | None = None,
        *,
        whole: bool = False,
    ) -> None:
        order = self._order
        leasing = self._model.lease(order.idle_timeout, order.caller, order.deadline, notify)
        limit = SilenceLimit(order.timeout)
        try:
            async with leasing as lease, limit:
                if self._first is None:
                    self._ready = time.monotonic()
                self._instance = lease.instance
                engine, spec = lease.entry.engine, lease.entry.spec
                async with aclosing(
                    engine.generate(lease.instance, spec, prompt, whole=whole)
                ) as chunks:
                    async for chunk in chunks:
                        self._finish = chunk.finish
                        await write(chunk, limit)
        except TimeoutError:
            if not limit.expired():
                raise
            raise GenerationTimeout(self._model.id, order.timeout) from None

    async def _pass_on(self, write: Write, chunk: Chunk, limit: SilenceLimit) -> None:
        if self._first is None:
            self._first = time.monotonic()
        if chunk.text:
            limit.pause()  # a slow reader is no silence of the engine
            await write(chunk)
            self._begun = True
            if self._order.resumes:
                self._sent.append(chunk.text)
            self._sent_tokens += chunk.token_count
        limit.reset()

    async def _recovery(self, lost: ServiceError) -> None:
        """Return when another attempt makes sense. Raises `lost` when that is not soon."""
        try:
            async with asyncio.timeout(self._patience):
                await self._model.recovered(self._instance)
        except TimeoutError:
            raise lost from None

    def _with_sent_tokens(self, error: ServiceError) -> ServiceError:
        """Return the error for a caller who may have a part of the text."""
        if not self._begun:
            return error
        known = EngineFailed | ModelStopped | ShuttingDown | GenerationTimeout
        if self._resumptions and not isinstance(error, known):
            # The error is about a new start, which the caller did not ask for at first.
            error = ResumptionFailed(self._model.id, self._resumptions[-1].cause, error)
        error.metadata["sent_token_count"] = str(self._sent_tokens)
        return error
