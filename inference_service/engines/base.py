"""The protocol `Engine`, between the service and the programs that make tokens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import msgspec

from inference_service.catalog import ModelSpec
from inference_service.engines.exchange import Options, Request, Sink, Source
from inference_service.errors import EngineFailed
from inference_service.lifecycle import Progress
from inference_service.runtimes.base import Instance, Running
from inference_service.runtimes.command import Command, Seat


class FinishReason(IntEnum):
    """The reason for which a text ended, with the numbers of the proto."""

    STOP = 1
    LENGTH = 2
    STOP_SEQUENCE = 3


@dataclass(frozen=True, slots=True)
class Prompt:
    """A checked request: every value is within the bounds of the proto.

    `temperature` 0 is greedy. `top_p` 1, `top_k` 0 and `repetition_penalty` 1 are off. `seed` None
    is another seed at each request.
    """

    text: str
    max_new_tokens: int = 200
    temperature: float = 0.7
    top_p: float = 0.95
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Finish:
    """The end of a text, with the engine's own counts."""

    reason: FinishReason
    prompt_token_count: int
    completion_token_count: int


class Chunk(msgspec.Struct, frozen=True):
    """The tokens that have come since the chunk before. Only the last chunk has `finish`."""

    text: str
    token_count: int
    finish: Finish | None = None

    @property
    def says_something(self) -> bool:
        """Whether a reader needs it: for text, or for tokens without text at the end."""
        return bool(self.text) or (self.finish is not None and self.token_count > 0)


@dataclass(frozen=True, slots=True)
class Facts:
    """What an engine that serves has said of its model; None is not known.

    `longest_token` is its length in bytes, and 0 where the tokenizer can drop a part of a text, so
    that the size of a text says nothing about its tokens. `control_tokens` are those that in a text
    are taken for those of the chat template. Without a chat template, what the engine makes of
    messages is wrong. Tools are dropped where a model does not take them.
    """

    longest_token: int | None = None
    control_tokens: tuple[str, ...] | None = None
    has_chat_template: bool | None = None
    takes_tools: bool | None = None


NO_FACTS = Facts()


class NoRoom(Exception):
    """A context with only `room` tokens for the text, fewer than the request has.

    The engine asks again with a lower limit, so that callers of `generate` get no such error.
    """

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def lower(self, limit: int) -> int:
        """Return a lower limit. Raises EngineFailed where the request had room."""
        if self.room >= limit:
            raise EngineFailed("refuses a request that fits") from None
        return self.room


class Engine(Protocol):
    """A kind of engine: how its program is launched, watched and asked. See each method.

    One object serves all models of its kind, and all their runs, at the same time: it has no state
    but its connections. It hides what is particular to its program, so that a model behaves the
    same with each engine that it can have.

    To add an engine:

    1. Write a module here, or a folder where one module has more than 350 lines. `relay`, `sse` and
       `stops` do for programs that speak HTTP. The module has the section of an entry too: weights,
       memory, options. A contract in pyproject.toml names each module.
    2. Add its line to the table in `engines/kinds.py`: catalog, settings, placement and server read
       that table.
    3. Give the tests a `Bed` with the real program, or a double of it (`tests/engines/beds.py`):
       `tests/engines/test_contract.py` then tests what is promised here.
    """

    @property
    def name(self) -> str:
        """The name in the catalog and in settings: `tgi`, `llamacpp`."""

    def paths(self, spec: ModelSpec) -> Sequence[str]:
        """Return the paths at which callers may ask an engine of this model, by `ask`."""

    def check(self, spec: ModelSpec, path: str, options: Options) -> None:
        """Refuse a request with an option that the engine would drop or take for another.

        This is before a start is paid. `options` are the fields of a body of JSON, by name, each as
        its caller wrote it. Raises InvalidParameter, which names the fields.
        """

    def command(self, spec: ModelSpec, seat: Seat) -> Command:
        """Return what a runtime runs in this seat as the engine of this model.

        `spec` has the engine's section. Equal entries must give equal commands for an empty seat:
        by comparing them the service learns whether a changed entry restarts the model, and whether
        the container of an earlier service fits. The program listens at the host and the port of
        the seat, ends within `stop_grace` of SIGTERM, and works on `concurrency` requests at once:
        further requests wait in the service's queue.
        """

    def progress(self, command: Command, running: Running) -> AsyncGenerator[Progress]:
        """Yield how far a start has come, until the engine has ended.

        `command` is that of the empty seat. The caller uses `aclosing`, and closes the generator
        when the engine is ready or the start has failed. No task may be left then. Read
        `running.logs()`, in `aclosing` too: it begins with the lines that are kept, for the engine
        can have started before this call.

        The service gives up a start in which nothing moves, and each new progress counts as a move:
        do not yield heartbeats, or lines that a hung program repeats. The caller keeps phases and
        fractions from going back. Progress is only shown, and `ready` alone ends a start. An error
        raised here fails the start: where something cannot be read, log that and yield less.
        """

    def cause(self, log: Sequence[str]) -> str:
        """Return the line of the log, or its part, that best explains the engine's end.

        `log` are the last lines, oldest first. The cause goes into the error that callers get: a
        person must be able to act on it. Empty where no line explains the end.
        """

    def is_lasting(self, log: Sequence[str]) -> bool:
        """Return whether no retry mends the cause of the end of a start.

        Nothing can be downloaded where there is no such repository, and a file that is no model
        stays none. A network, a disk and the memory of the machine can be other ones next time.
        """

    def facts(self, log: Sequence[str]) -> Facts | None:
        """Return what the log of an engine that serves says of its model; None: nothing yet."""

    async def ready(self, instance: Instance) -> bool:
        """Return whether the engine can answer requests now.

        The answer is False, within a few seconds, while the engine loads or hangs and when it is
        gone. A start asks up to a hundred times a second. After that the service asks every few
        seconds, and replaces an engine that is not ready for too long.

        Raises LaunchError where what answers is not the engine of this model, and never will be.
        """

    def generate(
        self, instance: Instance, spec: ModelSpec, prompt: Prompt, *, whole: bool = False
    ) -> AsyncGenerator[Chunk]:
        """Yield the text that continues the prompt, as it is made.

        The caller uses `aclosing`. Closing the generator ends the request in the engine, whose slot
        is then free within a second. Tokens that come together leave in one chunk, and there is no
        task or queue for each token. A slow caller slows the engine down: only a bounded number of
        bytes is read ahead.

        - Every chunk but the last has text. The last chunk has the finish, and the rest of the text
          if there is any. Tokens without text are counted in the next chunk, so that the counts of
          all chunks add up to that of the finish, for an engine that counts as it goes.
        - The text has neither the prompt nor special tokens. It ends before the first complete stop
          sequence, wherever the engine's tokens begin and end, and otherwise has all that was made,
          also what could have begun a sequence. It has at most `max_new_tokens`
          tokens, and ends with LENGTH where the context ends earlier.
        - Each parameter works up to its bounds, as `Prompt` describes. Every sampler that `Prompt`
          does not have is off. Equal requests with a seed, or with temperature 0, give equal texts.
        - With `whole`, the caller reads the text only at its end: one chunk is enough, and the
          engine need not stream.

        Raises:
            InvalidRequest: the engine refuses the request.
            PromptTooLong: the prompt leaves no room for a token in the context.
            EngineOverloaded: the engine has no slot for the request.
            EngineLost: the engine broke off, as one does that dies. Another may repeat the request.
            EngineFailed: the engine failed, or its answer makes no sense; with what it sent.
        """

    async def ask(self, instance: Instance, request: Request, sink: Sink) -> None:
        """Pass a request on as it is, and the bytes of its answer to the sink.

        This is for all that `generate` does not know. Returns when the sink has the end. Cancelling
        the call, or closing the source, ends the request in the engine, whose slot is then free
        within a second.

        - The engine gets the method, the path below the URL of the instance, the body, and of the
          caller's headers `accept` and `content-type` alone. The headers of the instance go along,
          and replace those of the same name.
        - The sink gets the answer as the engine has sent it, whatever its status: the engine's own
          404, too. It gets the head, then the bytes of each read, then the end, straight from the
          loop: there is no task, queue or object for each piece.
        - A sink that is slow pauses its source. Then the engine waits, and only what had been read
          already still comes. Neither an answer nor the time that it takes has a limit here.

        Raises EngineLost where the engine cannot be reached, breaks off, or sends something else
        than HTTP. If the sink has got nothing by then, another engine may repeat the request;
        otherwise the sink gets that end, too.
        """

    def ask_now(self, instance: Instance, request: Request, sink: Sink) -> Source | None:
        """Pass a request on as `ask` does, where nothing has to be waited for; None elsewhere.

        The sink gets the end in any case, be it an error before the head, such as the OSError of a
        connection. Closing the source ends the request.
        """

    def parting(self, instance: Instance) -> Collection[asyncio.Future[None]]:
        """Return an end to wait for of each request that was left and may still be worked on.

        An engine can notice late that its caller has left, and a slot is free only after that. Each
        future is done when the engine has answered, has closed the connection, or has died, and
        after a limit in any case.
        """

    async def aclose(self) -> None:
        """Close the connections. No other method is called after that."""
