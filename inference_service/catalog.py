"""The catalog: the models and what each needs, read from TOML and checked.

The `catalog.toml` of the package holds the documented models, and is the example of the format. A
file of the user adds entries to it. An entry with the same id replaces the whole other entry.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from inference_service.errors import CatalogInvalid, ModelNotFound

Gpus = Literal["auto", "all", "none"]

BUILT_IN = Path(__file__).with_name("catalog.toml")

ID_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,62}$"

_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_size(value: object) -> int:
    """Return the bytes of a size such as `4GB` or `512MiB`."""
    match = re.fullmatch(r"(\d{1,12}(?:\.\d+)?)\s*([KMG]i?B)", str(value), re.I | re.A)
    if match is None or (size := int(float(match[1]) * _UNITS[match[2].upper()])) < 6 * 2**20:
        raise ValueError('must be a size of at least 6MiB, such as "4GB" or "512MiB"')
    return size


Size = Annotated[int, BeforeValidator(parse_size)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    title: ClassVar[str]


class HubWeights(_Section):
    """Weights in a repository at Hugging Face."""

    title = "weights"

    repo: str = Field(pattern=r"^[\w.-]+(/[\w.-]+)?$")
    revision: str = Field(default="main", pattern=r"^[\w./-]+$")


class GgufWeights(_Section):
    """One GGUF file: in a repository, or at `path`, relative to the catalog."""

    title = "weights"

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


class EngineNeeds(_Section):
    """The keys that every engine's section has.

    `memory` limits the container. `image` replaces the image of the settings. `env` is passed to
    the engine, and replaces variables that the service sets.
    """

    memory: Size
    image: str | None = None
    env: dict[str, str] = {}


class TgiNeeds(EngineNeeds):
    """The needs of a model that Hugging Face TGI runs.

    `gpus`: `auto` uses GPUs where Docker has them. `gpu_memory` is the GPU memory that the model
    may take for weights, cache and all else; without it the model has all GPUs to itself.
    """

    title = "tgi"

    weights: HubWeights
    gpus: Gpus = "auto"
    gpu_memory: Size | None = None

    @model_validator(mode="after")
    def _has_gpu(self) -> TgiNeeds:
        if self.gpus == "none" and self.gpu_memory is not None:
            raise ValueError('has `gpu_memory`, but also `gpus = "none"`')
        return self


class LlamacppNeeds(EngineNeeds):
    """The needs of a model that llama.cpp runs, in a process or in a container.

    `slots` is the number of requests that it works on at once, each with the whole context.
    """

    title = "llamacpp"

    weights: GgufWeights
    slots: int = Field(default=4, ge=1, le=64)
    threads: int | None = Field(default=None, ge=1, le=256)


class ModelSpec(_Section):
    """One model, as the catalog has it.

    `idle_timeout` is in seconds and may be `inf`. Only StopModel stops a `pinned` model. A
    `preload` model starts with the service.
    """

    title = "models"

    id: str = Field(pattern=ID_PATTERN)
    hf_name: str = Field(min_length=1, max_length=200)
    context_length: int = Field(ge=64, le=10_000_000)
    engine: Literal["tgi", "llamacpp"] | None = None
    idle_timeout: float | None = Field(default=None, ge=0)
    pinned: bool = False
    preload: bool = False
    tgi: TgiNeeds | None = None
    llamacpp: LlamacppNeeds | None = None

    @model_validator(mode="after")
    def _has_engine(self) -> ModelSpec:
        if not self.engines:
            raise ValueError("must have a section `tgi` or `llamacpp`")
        if self.engine is not None and self.engine not in self.engines:
            raise ValueError(f"names the engine {self.engine}, but has no section `{self.engine}`")
        return self

    @property
    def engines(self) -> tuple[str, ...]:
        """The names of the engines that can run the model."""
        return tuple(name for name in ("tgi", "llamacpp") if getattr(self, name) is not None)


class _File(_Section):
    title = "file"

    models: list[ModelSpec] = Field(min_length=1)


class Catalog:
    """The models, in order."""

    def __init__(self, models: Sequence[ModelSpec]) -> None:
        self._models = {spec.id: spec for spec in models}

    @classmethod
    def load(cls, *paths: Path) -> Catalog:
        """Read the built-in catalog and then each of `paths`. Raises CatalogInvalid."""
        models: dict[str, ModelSpec] = {}
        for path in (BUILT_IN, *paths):
            models |= {spec.id: spec for spec in _read(path)}
        return cls(tuple(models.values()))

    def __iter__(self) -> Iterator[ModelSpec]:
        return iter(self._models.values())

    def __len__(self) -> int:
        return len(self._models)

    def __contains__(self, model_id: object) -> bool:
        return model_id in self._models

    def find(self, model_id: str) -> ModelSpec:
        """Return the model of this id. Raises ModelNotFound, which names the nearest id."""
        if (spec := self._models.get(model_id)) is not None:
            return spec
        shown = model_id if len(model_id) <= 80 else f"{model_id[:80]}..."
        near = difflib.get_close_matches(model_id[:80].lower(), self._models, n=1, cutoff=0.5)
        raise ModelNotFound(shown, next(iter(near), None), self._models)


def _read(path: Path) -> list[ModelSpec]:
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        models = _File.model_validate(data).models
    except OSError as error:
        raise CatalogInvalid(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CatalogInvalid(f"{path}: is not TOML: {error}") from None
    except ValidationError as error:
        raise CatalogInvalid(*(_explain(path, data, e) for e in error.errors())) from None
    ids = [spec.id for spec in models]
    if repeated := {id for id in ids if ids.count(id) > 1}:
        raise CatalogInvalid(f"{path}: has more than one entry for {', '.join(sorted(repeated))}")
    return [_anchored(spec, path) for spec in models]


def _anchored(spec: ModelSpec, catalog: Path) -> ModelSpec:
    """Return the model with an absolute path of its weights."""
    if spec.llamacpp is None or spec.llamacpp.weights.path is None:
        return spec
    path = (catalog.parent / spec.llamacpp.weights.path.expanduser()).resolve()
    if not path.is_file():
        raise CatalogInvalid(
            f"{catalog}: entry {spec.id!r}, key llamacpp.weights.path: there is no file {path}"
        )
    weights = spec.llamacpp.weights.model_copy(update={"path": path})
    return spec.model_copy(
        update={"llamacpp": spec.llamacpp.model_copy(update={"weights": weights})}
    )


def _explain(path: Path, data: dict[str, Any], error: Any) -> str:
    """Describe a mistake in one line: file, entry, key, and the allowed values."""
    match error["loc"]:
        case ("models", int(index), *rest):
            entry = data["models"][index]
            name = entry.get("id", "without id") if isinstance(entry, dict) else "not a table"
            where = f"entry {index + 1} ({name!r}), "
            where += f"key {'.'.join(map(str, rest))}: " if rest else ""
        case rest:
            where = f"key {'.'.join(map(str, rest))}: " if rest else ""
    section = _section(error["loc"])
    match error["type"]:
        case "extra_forbidden":
            what = f"is not known; known are {', '.join(section.model_fields)}"
        case "missing":
            what = "is missing"
        case "string_pattern_mismatch":
            what = f"{error['input']!r} does not match {error['ctx']['pattern']}"
        case "value_error":
            what = str(error["ctx"]["error"])
        case _:
            what = f"{error['msg']}, not {error['input']!r}"
    return f"{path}: {where}{what}"


def _section(location: tuple[int | str, ...]) -> type[_Section]:
    """Return the section that has the last key of an error's location."""
    sections: dict[str, type[_Section]] = {"tgi": TgiNeeds, "llamacpp": LlamacppNeeds}
    match location[:-1]:
        case ():
            return _File
        case (*_, "tgi", "weights"):
            return HubWeights
        case (*_, "weights"):
            return GgufWeights
        case (*_, str(name)) if name in sections:
            return sections[name]
        case _:
            return ModelSpec
