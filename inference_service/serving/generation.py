"""One text, from the call to its outcome.

Its attempts are those of every request. After the first token the text goes on only where the
caller asked for it: from the prompt and what was sent, with a resumption that is reported in the
stream and in the outcome.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
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
    RuntimeUnavailable,
    ServiceError,
    ShuttingDown,
    SilenceTimeout,
    StartBackingOff,
    StartFailed,
)
from inference_service.serving.ahead import Ahead, Store
from inference_service.serving.attempts import Attempts
from inference_service.serving.changes import Notify
from inference_service.serving.leases import Lease
from inference_service.serving.measure import Check, Measure
from inference_service.serving.model import Model
from inference_service.serving.queue import Caller
from inference_service.serving.reading import FREE, Reading
from inference_service.serving.silence import SilenceLimit

_LOSSES = 3  # engines that one text may outlive: a prompt that kills them must come to an end

# Of a start that another one may follow soon: the daemon is away, say, or restarts.
_NO_START = (StartFailed, StartBackingOff, RuntimeUnavailable)

Write = Callable[[Chunk], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Order:
    """A text that a caller asks for.

    `timeout` is in seconds: for a whole text; in a stream, between two chunks. `idle_timeout`,
    `caller` and `deadline` are those of `Model.lease`. `resumes` lets a stream outlive its engine.
    """

    prompt: Prompt
    timeout: float
    idle_timeout: float | None = None
    caller: Caller = ()
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

    def __init__(self, model: Model, order: Order, reading: Reading = FREE) -> None:
        self._id = model.id
        self._reading = reading
        self._order = order
        prompt = order.prompt.text
        self._attempts = Attempts(
            model, order.timeout, order.idle_timeout, order.caller, order.deadline, prompt
        )
        self._arrived = self._ready = time.monotonic()
        self._first: float | None = None
        self._finish: Finish | None = None
        self._sent_tokens = 0  # as far as chunks count them
        self._resumptions: list[Resumption] = []

    async def whole(self) -> str:
        """Return the text, in one piece."""
        texts: list[str] = []

        async def make(lease: Lease, _: SilenceLimit) -> None:
            texts.clear()
            self._ready = time.monotonic()
            engine, spec = lease.entry.engine, lease.entry.spec
            prompt = self._order.prompt
            chunks = engine.generate(lease.instance, spec, prompt, whole=True)
            check = Measure(prompt.max_new_tokens).check
            async with aclosing(chunks):
                async for chunk in chunks:
                    check(chunk)
                    self._finish = chunk.finish
                    texts.append(chunk.text)

        self._attempts.late = lambda model_id, seconds: GenerationTimeout(model_id, seconds)
        await self._attempts.run(make)
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
        try:
            if self._order.resumes:
                await self._outlive(write, resumed, notify)
            else:
                await self._attempts.run(partial(self._pass_on, write, self._order.prompt), notify)
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

    async def _pass_on(
        self, write: Write, prompt: Prompt, lease: Lease, limit: SilenceLimit
    ) -> None:
        """Write the text that continues a prompt, in one attempt."""
        if self._first is None:
            self._ready = time.monotonic()
        chunks = lease.entry.engine.generate(lease.instance, lease.entry.spec, prompt)
        reading, readers = self._reading, self._reading.readers
        check = Measure(prompt.max_new_tokens).check
        reading.ahead, reading.take = None, partial(self._ahead, chunks, check, lease)
        reading.hold()
        try:
            async for chunk in chunks:
                check(chunk)
                if self._first is None:
                    self._first = time.monotonic()
                self._finish = chunk.finish
                if chunk.says_something:
                    limit.pause()  # a slow reader is no silence of the engine
                    began = reading.began = readers.now
                    await write(chunk)
                    reading.began = None
                    reading.waited += readers.now - began
                    self._attempts.seen = True
                    self._sent_tokens += chunk.token_count
                    reading.sent_token_count = self._sent_tokens
                    if reading.ahead is not None:
                        await self._write_rest(write, reading.ahead)
                        break
                limit.reset()
        finally:
            reading.take = None
            await (chunks.aclose() if reading.ahead is None else reading.ahead.stop())

    def _ahead(
        self, chunks: AsyncGenerator[Chunk], check: Check, lease: Lease, store: Store
    ) -> Ahead:
        timeout = self._order.timeout
        timed_out = partial(SilenceTimeout, self._id, timeout)
        return Ahead(store, chunks, check, partial(self._release, lease), timeout, timed_out)

    def _release(self, lease: Lease) -> None:
        self._attempts.release(lease)
        self._reading.let_go()

    async def _write_rest(self, write: Write, ahead: Ahead) -> None:
        """Write what was taken from the engine meanwhile, and what it still makes."""
        reading, readers = self._reading, self._reading.readers
        while (chunk := await ahead.next()) is not None:
            began = reading.began = readers.now
            await write(chunk)
            reading.began = None
            reading.waited += readers.now - began
            self._sent_tokens += chunk.token_count
            reading.sent_token_count = self._sent_tokens
        self._finish = ahead.finish or self._finish

    async def _outlive(
        self,
        write: Write,
        resumed: Callable[[Resumption], Awaitable[None]],
        notify: Notify | None,
    ) -> None:
        """Write the text, and go on with another engine after a loss.

        From a loss on, starts are tried for as long as a stream may be silent.
        """
        attempts, prompt = self._attempts, self._order.prompt
        sent: list[str] = []
        losses = 0
        until = -math.inf  # when no start is tried any more

        async def keep(chunk: Chunk) -> None:
            await write(chunk)
            sent.append(chunk.text)

        while True:
            rest = replace(
                prompt,
                text=prompt.text + "".join(sent),
                max_new_tokens=prompt.max_new_tokens - self._sent_tokens,
            )
            try:
                return await attempts.once(partial(self._pass_on, keep, rest), notify)
            except (EngineDied, EngineLost) as lost:
                losses += 1
                # Without counts, nobody knows how many tokens are left.
                allowed = _LOSSES if self._sent_tokens else 0
                if losses > (allowed if attempts.seen else 1):
                    raise
                if attempts.seen:
                    self._resumptions.append(Resumption(self._sent_tokens, lost.message))
                    await resumed(self._resumptions[-1])
                    if self._sent_tokens >= prompt.max_new_tokens:
                        self._finish = Finish(FinishReason.LENGTH, 0, 0)
                        return
                until = _now() + self._order.timeout
                await attempts.recovery(lost, self._order.timeout)
            except _NO_START as failed:
                if (left := until - _now()) <= 0:
                    raise
                await attempts.recovery(failed, left)
            except PromptTooLong:
                if not self._resumptions:
                    raise
                # The text fills the context.
                self._finish = Finish(FinishReason.LENGTH, 0, 0)
                return

    def _with_sent_tokens(self, error: ServiceError) -> ServiceError:
        """Return the error for a caller who may have a part of the text."""
        if not self._attempts.seen:
            return error
        known = EngineFailed | ModelStopped | ShuttingDown | GenerationTimeout
        if self._resumptions and not isinstance(error, known):
            # The error is about a new start, which the caller did not ask for at first.
            error = ResumptionFailed(self._id, self._resumptions[-1].cause, error)
        error.metadata["sent_token_count"] = str(self._sent_tokens)
        return error


def _now() -> float:
    return asyncio.get_running_loop().time()
