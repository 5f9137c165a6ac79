"""The command of an engine: all that a runtime has to know to run it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from inference_service.capacity.claims import GpuNeed, GpuShare
from inference_service.catalog import ContainerOptions, Gpus
from inference_service.key import Key

# Variables of this service's own environment that every engine gets. They are in no digest: an
# engine with its weights on the disk does not need them.
HUB_ENV = ("HF_TOKEN", "HF_ENDPOINT")

_SECRET = re.compile("(TOKEN|SECRET|PASSWORD|KEY)$")


@dataclass(frozen=True, slots=True)
class Seat:
    """The place that a runtime gives to one engine.

    The engine has to listen at `host` and `port`. `gpus` are the GPUs that it was given by name;
    None where it has all of them, or none. A seat is empty before a run has it: with port 0 and no
    `gpus`. `has_gpu` says whether the runtime has GPUs to give.
    """

    host: str = "127.0.0.1"
    port: int = 0
    in_container: bool = False
    has_gpu: bool = False
    gpus: GpuShare | None = None

    def gives(self, gpus: Gpus) -> bool:
        """Return whether an engine gets GPUs: for `all` always, for `auto` where there are any."""
        return self.in_container and (gpus == "all" or (gpus == "auto" and self.has_gpu))

    def path(self, file: Path) -> str:
        """Return the path under which the engine sees a file of this machine."""
        return f"/model/{file.name}" if self.in_container else str(file)

    def taken(self, port: int, gpus: GpuShare | None) -> Seat:
        """Return the seat with the port and the GPUs of one run."""
        return replace(self, port=port, gpus=gpus)


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
    variables like those of `env`, and stand in no digest, label or argument. A program that
    `watches_input` ends by itself when its standard input closes.

    `port` is where the engine listens: that of the seat, or one that its image has chosen.
    `model` is the engine's own name of the model, and `headers` go with each request to it.
    `health` is the path that tells whether it is ready, where engines of its kind differ in that.
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
    watches_input: bool = False
    mounts: tuple[Mount, ...] = ()
    port: int = 0
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    health: str = ""
    concurrency: int = 128
    stop_grace: float = 10.0

    @property
    def name(self) -> str:
        """The image, the words of the program or the address, for people."""
        return self.image or self.url or " ".join(self.program)

    @property
    def hidden(self) -> tuple[str, ...]:
        """The values that no log line may show."""
        secrets = (text for name, text in self.secrets.items() if _SECRET.search(name))
        return tuple(filter(None, (*secrets, *self.headers.values())))


@dataclass(frozen=True, slots=True)
class Launch:
    """The engine of one run, as a runtime gets it: a key, and the command for each seat."""

    key: Key
    command: Callable[[Seat], Command]


def environment(variables: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Divide the variables of an engine into plain ones and secrets.

    A variable is a secret by its name. The hub's variables of this service are added.
    """
    ours = {name: os.environ[name] for name in HUB_ENV if os.environ.get(name)}
    secrets = {name: text for name, text in variables.items() if _SECRET.search(name)}
    plain = {name: text for name, text in variables.items() if name not in secrets}
    return plain, {name: ours[name] for name in ours if name not in plain} | secrets
