"""The seam between a model's life and the program that makes its tokens."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from inference_service.catalog import ModelSpec
from inference_service.lifecycle import Progress
from inference_service.runtimes.base import Instance, Launch


class FinishReason(IntEnum):
    """Why a text ended; the numbers are those of the proto."""

    STOP = 1
    LENGTH = 2
    STOP_SEQUENCE = 3


@dataclass(frozen=True, slots=True)
class Prompt:
    """A checked request: every value is within the bounds that the proto names.

    `temperature` 0 is greedy, `top_p` 1 and `top_k` 0 and `repetition_penalty` 1 are off, `seed`
    None is a new one.
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
    """The end of a text; both counts as the engine tells them."""

    reason: FinishReason
    prompt_token_count: int
    completion_token_count: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """All that the engine had made when it was read. The last one, and no other, has `finish`."""

    text: str
    token_count: int
    finish: Finish | None = None


class Engine(Protocol):
    """A kind of engine. One object serves all models of that kind."""

    @property
    def name(self) -> str:
        """`tgi` or `llamacpp`."""

    def launch(self, spec: ModelSpec) -> Launch:
        """What it takes to run this model's engine."""

    def progress(self, launch: Launch, instance: Instance) -> AsyncGenerator[Progress]:
        """Yield how a start goes on, until the engine has ended. Heartbeats do not count."""

    def cause(self, log: Sequence[str]) -> str:
        """The line, or what stands in it, that tells best why the engine ended; may be empty."""

    async def ready(self, url: str) -> bool:
        """Whether the engine answers. Never raises, and takes a few seconds at most."""

    def generate(
        self, url: str, spec: ModelSpec, prompt: Prompt, *, whole: bool = False
    ) -> AsyncGenerator[Chunk]:
        """Yield the text that continues the prompt. Closing it ends the request in the engine.

        `whole` says that nobody looks at the text before it ends: the engine need not stream it.

        Raises InvalidParameter, PromptTooLong, EngineOverloaded, EngineFailed, or EngineLost when
        the engine breaks off, as one does that dies.
        """

    async def aclose(self) -> None:
        """Close the connections."""
