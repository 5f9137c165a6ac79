"""The catalog's section `openai`: how such an engine is started or reached, and what it can do."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, PrivateAttr, field_validator, model_validator

from inference_service.catalog import EngineNeeds, GpuCounts, Gpus, Section, Size
from inference_service.mistakes import Mistake, place

# The options of a request, under their names in OpenAI's own API. A section adds to these.
_STANDARD = {
    "max_new_tokens": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "seed": "seed",
    "stop": "stop",
}
_OPTIONS = (*_STANDARD, "top_k", "repetition_penalty")
_NEEDED = ("max_new_tokens", "temperature")
_OURS = ("model", "prompt", "stream")  # fields of each request that the service itself fills
_NEVER_DROPPED = {*_OURS, "messages", "input"}

PLACEHOLDERS = (
    *("host", "port", "served_name", "context_length"),
    *("weights", "gpus", "gpu_fraction"),
)
_KEY = re.compile(r"[!-~]+")
_PLACEHOLDER = re.compile(r"\{([A-Za-z_]+)\}")  # and not the braces of JSON

# Keys that only some of the three forms have.
_FORMS = {
    "image": {
        "args",
        "port",
        "gpus",
        "gpu_memory",
        "gpu_counts",
        "container",
        "env",
        "key_env",
        "memory",
        "weights",
    },
    "command": {"env", "key_env", "memory", "weights"},
    "url": {"key_file"},
}


class LocalWeights(Section):
    """Weights on this machine: a file or a folder at `path`, relative to the catalog."""

    path: Path = Field(strict=False)


class OpenaiNeeds(EngineNeeds):
    """The needs of a model whose engine speaks OpenAI's JSON.

    Exactly one of `image`, `command` and `url` says what the engine is: a container, a process, or
    an engine that somebody else runs.

    - `args` and `command` are words, and `env` has values, in which `{host}`, `{port}` and the
      other `PLACEHOLDERS` stand for what the service chooses. `port` is for an image that always
      listens on the same one.
    - `key_env` is the variable of the engine that takes a key, such as `VLLM_API_KEY`. Each run has
      a key of its own, unless `env` has one. `key_file` has the key of an engine at a `url`.
    - `served_name` is the engine's own name for the model; without it, the id.
    - `options` has the engine's own name for an option of a request, or false where the engine has
      none. `body` is added to the JSON of each request.
    - `drops` are the fields of a request that the engine drops, or takes for others.
    - `slots` is the number of requests that the engine works on at once.
    - `fetches_media` lets the engine fetch images, sounds and films from the addresses in a
      request, which callers choose.
    """

    memory: Size = 0
    image: str | None = None
    args: list[str] = Field(default=[])
    port: int | None = Field(default=None, ge=1, le=65535)
    command: list[str] | None = Field(default=None, min_length=1)
    url: str | None = None
    key_file: Path | None = Field(default=None, strict=False)
    key_env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    health: str = Field(default="/v1/models", pattern=r"^/[!-~]*$")
    served_name: str | None = Field(default=None, min_length=1)
    slots: int = Field(default=4, ge=1, le=1024)
    gpus: Gpus = "auto"
    gpu_memory: Size | None = None
    gpu_counts: GpuCounts = ()
    weights: LocalWeights | None = None
    options: dict[str, str | Literal[False]] = Field(default={})
    body: dict[str, Any] = Field(default={})
    drops: list[str] = Field(default=[], max_length=100)
    fetches_media: bool = False

    _key: str = PrivateAttr(default="")

    @property
    def runtimes(self) -> tuple[str, ...]:
        if self.url is not None:
            return ("url",)
        return ("process",) if self.command else ("docker",)

    def anchored(self, folder: Path) -> OpenaiNeeds:
        """Return the section with absolute paths, and with the key of its file."""
        if self.weights is not None:
            path = place("weights.path", folder, self.weights.path)
            if not path.exists():
                raise Mistake("weights.path", f"there is no file or folder {path}")
            weights = self.weights.model_copy(update={"path": path})
            return self.model_copy(update={"weights": weights})
        if self.key_file is not None:
            path = place("key_file", folder, self.key_file)
            copy = self.model_copy(update={"key_file": path})
            copy._key = _key_in(path)
            return copy
        return self

    @property
    def headers(self) -> dict[str, str]:
        """The headers of each request: the key, if there is one."""
        return {"authorization": f"Bearer {self._key}"} if self._key else {}

    @field_validator("args", "command", "env")
    @classmethod
    def _known_placeholders(cls, value: Any) -> Any:
        words = value.values() if isinstance(value, Mapping) else value or ()
        for name in _placeholders(words):
            if name not in PLACEHOLDERS:
                known = ", ".join(f"{{{each}}}" for each in PLACEHOLDERS)
                raise ValueError(f"has the placeholder {{{name}}}; known are {known}")
        return value

    @field_validator("url")
    @classmethod
    def _base(cls, url: str | None) -> str | None:
        """Return the URL without the `/v1` and the slash that many write at its end."""
        if url is None:
            return None
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must begin with http:// or https:// and a host")
        if parts.query or parts.fragment or parts.username:
            raise ValueError("must have no user, no `?` and no `#`; a key goes into `key_file`")
        return url.rstrip("/").removesuffix("/v1").rstrip("/")

    @field_validator("options")
    @classmethod
    def _known_options(cls, options: dict[str, str | Literal[False]]) -> Any:
        for name, value in options.items():
            if name not in _OPTIONS:
                raise ValueError(f"has {name!r}; known are {', '.join(_OPTIONS)}")
            if not value and (value == "" or name in _NEEDED):
                raise ValueError(f"must have a name for {name}")
        return options

    @field_validator("drops")
    @classmethod
    def _can_be_left_out(cls, drops: list[str]) -> list[str]:
        if needed := sorted(_NEVER_DROPPED & set(drops)):
            raise ValueError(f"has {needed[0]!r}, without which there is no request")
        return drops

    @model_validator(mode="after")
    def _one_form(self) -> OpenaiNeeds:
        forms = [form for form in _FORMS if getattr(self, form) is not None]
        if len(forms) != 1:
            raise ValueError("must have exactly one of `image`, `command` and `url`")
        (form,) = forms
        for key in sorted(self.model_fields_set):
            owners = [each for each, keys in _FORMS.items() if key in keys]
            if owners and form not in owners:
                raise ValueError(f"has `{key}`, which goes with `{'` or `'.join(owners)}`")
        if form != "url":
            self._can_start(form)
        return self

    def _can_start(self, form: str) -> None:
        if not self.memory:
            raise ValueError('must have `memory`, such as "4GB"')
        words = self.args if form == "image" else self.command or []
        used = set(_placeholders([*words, *self.env.values()]))
        if "port" not in used and self.port is None:
            key = "args" if form == "image" else "command"
            either = ", or `port` where the image has one" if form == "image" else ""
            raise ValueError(f"must pass {{port}} on, in `{key}` or `env`{either}")
        if "weights" in used and self.weights is None:
            raise ValueError("has {weights}, but no `weights.path`")
        for key in ("gpu_memory", "gpu_counts"):
            if self.gpus == "none" and getattr(self, key):
                raise ValueError(f'has `{key}`, but also `gpus = "none"`')

    @property
    def is_told_gpus(self) -> bool:
        """Whether the engine is told among how many GPUs it is divided."""
        return "gpus" in _placeholders([*self.args, *self.env.values()])

    @model_validator(mode="after")
    def _own_fields(self) -> OpenaiNeeds:
        taken = {*_OURS, *self.names.values()}
        if clash := sorted(taken & self.body.keys()):
            raise ValueError(f"has `{clash[0]}` in `body`, which each request has of its own")
        return self

    @property
    def names(self) -> dict[str, str]:
        """The engine's name of each option of a request that the engine has."""
        return {name: own for name, own in (_STANDARD | self.options).items() if own}


def _key_in(path: Path) -> str:
    """Return the key in a file. Raises Mistake."""
    try:
        key = path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise Mistake("key_file", f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        key = ""
    if not _KEY.fullmatch(key):
        raise Mistake("key_file", f"{path} must hold one line of ASCII without spaces")
    return key


def fill(word: str, values: Mapping[str, str]) -> str:
    """Return a word with its placeholders replaced."""
    return _PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), word)


def _placeholders(words: Iterable[str]) -> list[str]:
    return [name for word in words for name in _PLACEHOLDER.findall(word)]
