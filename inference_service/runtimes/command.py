"""The command of an engine: all that a runtime has to know to run it."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from inference_service.capacity.claims import GpuNeed, GpuShare
from inference_service.catalog import ContainerOptions, Gpus
from inference_service.key import Key
from inference_service.runtimes.environment import TOKEN

_SHORTEST_SECRET = 8  # characters


@dataclass(frozen=True, slots=True)
class Seat:
    """The place that a runtime gives to one engine.

    The engine has to listen at `host` and `port`; one that takes its port itself may have another
    of `ports`, the first and the last. `gpus` are the GPUs that it was given by name; None where it
    has all of them, or none. `key` is a secret of this run: engines that know keys answer nobody
    else. A seat is empty before a run has it: with port 0, no `gpus` and no `key`. `has_gpu` says
    whether the runtime has GPUs to give.
    """

    host: str = "127.0.0.1"
    port: int = 0
    in_container: bool = False
    has_gpu: bool = False
    gpus: GpuShare | None = None
    ports: tuple[int, int] | None = None
    key: str = field(default="", repr=False)

    def gives(self, gpus: Gpus) -> bool:
        """Return whether an engine gets GPUs: for `all` always, for `auto` where there are any."""
        return self.in_container and (gpus == "all" or (gpus == "auto" and self.has_gpu))

    def path(self, file: Path) -> str:
        """Return the path under which the engine sees a file of this machine."""
        return f"/model/{file.name}" if self.in_container else str(file)

    def taken(
        self, port: int, gpus: GpuShare | None, key: str, ports: tuple[int, int] | None = None
    ) -> Seat:
        """Return the seat with the port, the GPUs and the key of one run."""
        return replace(self, port=port, gpus=gpus, key=key, ports=ports)


@dataclass(frozen=True, slots=True)
class Mount:
    """A file of this machine that a container sees at `target`, to read only."""

    source: Path
    target: str


@dataclass(frozen=True, slots=True)
class Needs:
    """What an engine needs of its machine.

    `gpu` is None where it gets no GPU. The other needs are those of a container; a process has them
    by itself.
    """

    memory_bytes: int
    gpu: GpuNeed | None = None
    container: ContainerOptions = field(default_factory=ContainerOptions)


@dataclass(frozen=True, slots=True)
class Command:
    """What a runtime runs in one seat, made by an engine.

    It has an `image`, or a `program` (the words of a process), or the `url` of an engine that
    somebody else runs. `args` follow the program, or the entrypoint of the image. `secrets` are
    variables like those of `env`, and stand in no digest, label or argument. `hub` are the
    service's own variables of the hub, which change without a restart; an engine with
    `reads_token_file` reads the token from the file that HF_TOKEN_PATH names. A program that
    `watches_input` ends by itself when its standard input closes.

    An engine that does not write weights sees the volume of all weights to read only.

    `port` is where the engine listens: that of the seat, or one that its image has chosen. A
    program that takes its port itself says so in its output, where `port_in` finds that port.
    `model` is the engine's own name of the model, and `headers` go with each request to it.
    `health` is the path that tells whether it is ready, where engines of its kind differ in that.
    `context` is the number of tokens at which its answers end, 0 where that is not known.
    `concurrency` is the number of requests that it works on at once; `stop_grace` the seconds from
    the request to stop to the kill.
    """

    model: str
    needs: Needs
    image: str = ""
    program: tuple[str, ...] = ()
    url: str = ""
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    hub: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    reads_token_file: bool = False
    watches_input: bool = False
    writes_weights: bool = True
    mounts: tuple[Mount, ...] = ()
    port: int = 0
    port_in: Callable[[str], int | None] | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    health: str = ""
    context: int = field(default=0, compare=False)
    concurrency: int = 128
    stop_grace: float = 10.0

    @property
    def name(self) -> str:
        """The image, the words of the program or the address, for people."""
        return self.image or self.url or " ".join(self.program)

    @property
    def hidden(self) -> tuple[str, ...]:
        """The values that no log line may show: all that was given as a secret.

        A value of less than 8 characters would hide parts of ordinary words.
        """
        given = [*self.secrets.values(), self.hub.get(TOKEN, "")]
        given += [text.removeprefix("Bearer ") for text in self.headers.values()]
        parts = {part for text in given for line in text.splitlines() for part in _forms(line)}
        long = (part for part in parts if len(part) >= _SHORTEST_SECRET)
        return tuple(sorted(long, key=len, reverse=True))  # one may be a part of another


@dataclass(frozen=True, slots=True)
class Launch:
    """The engine of one run, as a runtime gets it: a key, and the command for each seat."""

    key: Key
    command: Callable[[Seat], Command]


def _forms(line: str) -> tuple[str, str]:
    """Return a line of a secret, as it is and as it stands in JSON."""
    return line, json.dumps(line, ensure_ascii=False)[1:-1]


def new_key() -> str:
    """Return a key for one run."""
    return secrets.token_hex(16)


def bearer(key: str) -> dict[str, str]:
    """Return the header of requests to an engine with this key; none without a key."""
    return {"authorization": f"Bearer {key}"} if key else {}
