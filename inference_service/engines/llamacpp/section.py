"""The section `llamacpp` of an entry of the catalog."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from inference_service.catalog import UNASKED_CONTEXT, EngineNeeds, Section, Size
from inference_service.engines.llamacpp import shape
from inference_service.mistakes import Mistake, place

_CHOSEN = {
    "API_KEY": "the service gives each run a key of its own",
    **dict.fromkeys(("HOST", "PORT", "PORTS"), "the service chooses address and port"),
    "EXIT_WITH_PARENT": "the service chooses how a process ends",
    "NAME": "the name is the id of the entry",
    "CONTEXT": "use `context_length` of the entry",
    **dict.fromkeys(("FILE", "REPO", "REVISION", "SHA256"), "use `weights`"),
    **{
        key.upper(): f"use `{key}`"
        for key in ("slots", "threads", "serves", "pooling", "chat_template")
    },
}
_JINJA = re.compile(r"\{[{%]")
_LONGEST_TEMPLATE = 30_000  # characters: Linux takes 128 KiB for a variable


class GgufWeights(Section):
    """One GGUF file: in a repository, or at `path`, relative to the catalog."""

    repo: str | None = Field(default=None, pattern=r"^[\w.-]+(/[\w.-]+)?$")
    file: str | None = Field(default=None, pattern=r"^[\w./-]+\.gguf$")
    revision: str = Field(default="main", pattern=r"^[\w./-]+$")
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    path: Path | None = Field(default=None, strict=False)

    @model_validator(mode="after")
    def _one_source(self) -> GgufWeights:
        if (self.path is None) == (self.repo is None) or (self.repo is None) != (self.file is None):
            raise ValueError("must have either `path`, or `repo` and `file`")
        return self


class LlamacppNeeds(EngineNeeds):
    """The needs of a model that llama.cpp runs, in a process or in a container.

    `memory` is estimated where the weights are a file of this machine, which `shape` can read.
    `slots` is the number of requests that it works on at once, each with the whole context.
    `image` replaces that of the settings. `serves` is the one thing that the model does. `pooling`
    is how the vectors of all tokens become that of the text, where the file does not name it.
    `chat_template` is Jinja, the name of a file `*.jinja` beside the catalog, or `chatml`.
    """

    own_variables: ClassVar[Mapping[str, str]] = {
        f"LLAMACPP_{name}": why for name, why in _CHOSEN.items()
    }

    memory: Size = 0
    weights: GgufWeights
    image: str | None = None
    slots: int = Field(default=4, ge=1, le=64)
    threads: int | None = Field(default=None, ge=1, le=256)
    serves: Literal["text", "embeddings", "rerank"] = "text"
    pooling: Literal["mean", "cls", "last"] | None = None
    chat_template: str | None = Field(default=None, max_length=_LONGEST_TEMPLATE)

    @model_validator(mode="after")
    def _pools_embeddings(self) -> LlamacppNeeds:
        if self.pooling is not None and self.serves != "embeddings":
            raise ValueError('has `pooling`, which goes with `serves = "embeddings"`')
        return self

    @model_validator(mode="after")
    def _has_memory(self) -> LlamacppNeeds:
        if not self.memory and self.weights.path is None:
            raise ValueError("must have `memory`, which is estimated for a local file alone")
        return self

    @property
    def runtimes(self) -> tuple[str, ...]:
        return ("docker", "process")

    @property
    def generates(self) -> bool:
        return self.serves == "text"

    def anchored(self, folder: Path) -> LlamacppNeeds:
        template = self.chat_template
        found: dict[str, Any] = {"chat_template": template and _template(folder, template)}
        if self.weights.path is not None:
            path = place("weights.path", folder, self.weights.path)
            if not path.is_file():
                raise Mistake("weights.path", f"there is no file {path}")
            found["weights"] = self.weights.model_copy(update={"path": path})
        return self.model_copy(update=found)

    def completed(self, context_length: int | None) -> tuple[LlamacppNeeds, int | None]:
        path = self.weights.path
        if path is None:
            return self, None
        try:
            found = shape.read(path)
        except shape.Unreadable as error:
            if context_length is None or not self.memory:
                needed = "so the entry needs `context_length`, and its section `memory`"
                raise Mistake("weights.path", f"{error}; {needed}") from None
            return self, None  # the start tells what is wrong with the file
        context = context_length or min(found.context_length, UNASKED_CONTEXT)
        memory = self.memory or found.memory(context, self.slots, text=self.generates)
        return self.model_copy(update={"memory": memory}), found.context_length


def _template(folder: Path, given: str) -> str:
    """Return the text of a chat template. Raises Mistake."""
    if given == "chatml" or _JINJA.search(given):
        return given
    if not given.endswith(".jinja"):
        known = "Jinja with {{ or {%, the name of a file that ends with .jinja, or chatml"
        raise Mistake("chat_template", f"must be {known}, not {given[:40]!r}")
    path = place("chat_template", folder, given)
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_LONGEST_TEMPLATE + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise Mistake("chat_template", f"{path} cannot be read: {error}") from None
    if not _JINJA.search(text) or len(text) > _LONGEST_TEMPLATE:
        raise Mistake(
            "chat_template", f"{path} is no Jinja of up to {_LONGEST_TEMPLATE} characters"
        )
    return text
