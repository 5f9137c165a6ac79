"""One request that is passed on as it is, with a task only while it has to wait."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine
from typing import Any

from inference_service.engines.exchange import Head, Request, Sink, Source, lost
from inference_service.errors import ServiceError, SilenceTimeout
from inference_service.serving.attempts import Lost
from inference_service.serving.model import Model
from inference_service.serving.reading import NOTHING, Reader, Readers
from inference_service.serving.runs import Taken

# Waits for what the request needs, asks, and returns when the sink has the end.
Ask = Callable[[Lost | None], Coroutine[Any, Any, None]]


class _Deaf:
    """A sink that drops all."""

    def head(self, head: Head, source: Source) -> None:
        pass

    def data(self, data: bytes) -> None:
        pass

    def end(self, error: Exception | None) -> None:
        pass


_DEAF = _Deaf()


class Passing(Reader):
    """The way of one request to an engine, and of the answer to the sink.

    Most requests find a slot and a connection that are free. They are passed on at once: the bytes
    of the answer go straight to the sink, and the look at all readers, once a second, finds who is
    silent for more than `silence` seconds. A request that has to wait does so in a task, and so
    does one that has lost its engine before the first byte of an answer.

    The sink gets an end in any case, with an error where there is one, unless `cancel` is called.
    It has a limit of its own for a client that takes no byte.
    """

    __slots__ = (
        "_ask", "_begun", "_error", "_heard", "_model", "_release", "_silence", "_since", "_sink",
        "_source", "_taken", "_task", "over",
    )  # fmt: skip

    def __init__(self, readers: Readers, sink: Sink, silence: float) -> None:
        super().__init__(readers, NOTHING, math.inf)
        self.over = False
        self._sink = sink
        self._silence = silence
        self._since = readers.now
        self._heard = True
        self._begun = False
        self._ask: Ask | None = None
        self._model: Model | None = None
        self._release: Callable[[], None] | None = None
        self._source: Source | None = None
        self._taken: Taken | None = None
        self._task: asyncio.Task[None] | None = None
        self._error: ServiceError | None = None

    # The caller calls these.

    def begin(
        self, model: Model, request: Request, ask: Ask, release: Callable[[], None] | None
    ) -> None:
        """Pass a request on, now or after a wait; `release` is called at its end."""
        self._model = self.held = model
        self._ask = ask
        self._release = release
        self.readers.add(self)
        if not self._now(model, request):
            self.wait(ask(None))

    def wait(self, asking: Coroutine[Any, Any, None]) -> None:
        """Have a task do what takes a while."""
        self._task = asyncio.get_running_loop().create_task(self._waited(asking))

    def fail(self, error: Exception) -> None:
        """End with an error, unless there was an end."""
        if not self.over:
            self._leave().end(error)

    def cancel(self) -> None:
        """End without a word to the sink."""
        if self.over:
            return
        self._leave()
        if self._task is not None:
            self._task.cancel()
        elif self._source is not None:
            self._source.close()
            self._give()

    # The engine calls these.

    def head(self, head: Head, source: Source) -> None:
        """Pass the head on."""
        self._begun = self._heard = True
        self._source = source
        self._sink.head(head, self)

    def data(self, data: bytes) -> None:
        """Pass bytes on."""
        self._heard = True
        self._sink.data(data)

    def end(self, error: Exception | None) -> None:
        """Pass the end on, or repeat a request that nobody has answered."""
        if self._task is not None and error is not None:
            return  # the task raises it, too
        taken = self._taken
        self._give()
        if error is None:
            if not self.over:
                self._leave().end(None)
        elif self._begun or self._ask is None or taken is None:
            self.fail(self._known(lost(error)))
        elif not self.over:
            # An engine can close a connection just as it is used again, and has read nothing then.
            again = None if unread(error) else Lost(lost(error), taken.lease.instance)
            self.wait(self._ask(again))

    # The sink calls these.

    def pause(self) -> None:
        """Hold the engine back, for the client is slow."""
        if self._source is not None:
            self.began = self.readers.now
            self._source.pause()

    def resume(self) -> None:
        """Let the engine send on."""
        if self._source is not None:
            self.written()
            self._heard = True
            self._source.resume()

    def close(self) -> None:
        """End the request."""
        self.cancel()

    # The look at all readers calls these.

    def look(self) -> None:
        """Stop what is held up by its reader, or has an engine that is silent."""
        super().look()
        if self._heard or self.began is not None or self._task is not None:
            self._heard = False
            self._since = self.readers.now
        elif self.readers.now - self._since >= self._silence and self._model is not None:
            self.stop(SilenceTimeout(self._model.id, self._silence))

    def stop(self, error: ServiceError) -> None:
        """End with an error."""
        if self._task is not None:
            self._error = error
            self._task.cancel()
            return
        if self._source is not None:
            self._source.close()
        self._give()
        self.fail(error)

    def _now(self, model: Model, request: Request) -> bool:
        """Ask an engine that needs no wait; return whether there is one."""
        taken = model.take_now()
        if taken is None:
            return False
        lease = taken.lease
        if lease.checks.passes(request, lease.entry):
            self._source = lease.entry.engine.ask_now(lease.instance, request, self)
        if self._source is None:
            taken.give()
            return False
        self._taken = taken
        lease.cut.then(lambda: self.stop(model.stopped()))
        return True

    async def _waited(self, asking: Coroutine[Any, Any, None]) -> None:
        try:
            await asking
        except asyncio.CancelledError:
            if self._error is not None:
                self.fail(self._error)
        except Exception as error:
            self.fail(error)

    def _known(self, error: ServiceError) -> ServiceError:
        if self._model is not None:
            error.metadata.setdefault("model_id", self._model.id)
        return error

    def _give(self) -> None:
        if self._taken is not None:
            taken, self._taken = self._taken, None
            taken.give()

    def _leave(self) -> Sink:
        """Note the end, let go of what is held, and return the sink, which gets no more later."""
        self.over = True
        # A task that is cancelled ends later, and bytes can come before that.
        sink, self._sink = self._sink, _DEAF
        self.readers.remove(self)
        self._ask = None
        if self._release is not None:
            release, self._release = self._release, None
            release()
        return sink


def unread(error: Exception) -> bool:
    """Return whether an engine has closed the connection before it has read a request."""
    return isinstance(error, (ConnectionResetError, BrokenPipeError))
