"""An entry of the catalog, with its runtime and its engine."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial

from inference_service.capacity.claims import Demand
from inference_service.catalog import ModelSpec
from inference_service.engines.base import Engine
from inference_service.key import Key
from inference_service.runtimes.base import Runtime
from inference_service.runtimes.command import Command, Launch


@dataclass(frozen=True, slots=True)
class Entry:
    """A model of the catalog, with its runtime and its engine.

    `command` is that of an empty seat, and `placement` says why it is this engine.

    Two entries are equal when the same engine would run in the same way: what the engine does not
    know of, such as the idle timeout, changes without a restart.
    """

    spec: ModelSpec = field(compare=False)
    runtime: Runtime
    engine: Engine
    command: Command
    placement: str = field(default="", compare=False)

    @classmethod
    def of(cls, spec: ModelSpec, runtime: Runtime, engine: Engine, placement: str = "") -> Entry:
        """Return the entry with the command that the engine makes."""
        return cls(spec, runtime, engine, engine.command(spec, runtime.seat), placement)

    def launch(self, key: Key) -> Launch:
        """Return what the runtime runs under this key."""
        return Launch(key, partial(self.engine.command, self.spec))

    @property
    def reachable(self) -> bool:
        """Whether the runtime is one in which the engine can run; see `placement.place`."""
        return self.runtime.name in self.spec.sections[self.engine.name].runtimes

    @property
    def generates(self) -> bool:
        """Whether the model makes text in this engine."""
        return self.spec.sections[self.engine.name].generates

    @property
    def revives(self) -> bool:
        """Whether the model starts again by itself after a failure."""
        return self.spec.pinned or self.spec.preload

    @property
    def start_key(self) -> str:
        """The key of past starts that took about as long as the next one."""
        return f"{self.runtime.name} {self.command.name} {self.spec.id}"

    def demand(self, key: Key) -> Demand:
        """Return the memory and the GPUs that a run needs."""
        nodes = tuple(node.name for node in self.runtime.nodes)
        return Demand(key, nodes, self.command.needs.memory_bytes, self.command.needs.gpu)

    def idle_timeout(self, default: float, asked: float | None = None) -> float:
        """Return the seconds without use after which a run stops.

        A request may ask for other than the entry's own or the default; a pinned model never stops.
        """
        if self.spec.pinned:
            return math.inf
        own = default if self.spec.idle_timeout is None else self.spec.idle_timeout
        return own if asked is None else asked
