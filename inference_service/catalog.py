"""The catalog: the models and what each needs, read from TOML and checked.

The `catalog.toml` of the package holds the documented models, and is the example of the format. A
file of the user adds entries to it. An entry with the same id replaces the whole other entry.
"""

from __future__ import annotations

import difflib
import heapq
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
    field_validator,
    model_validator,
)

from inference_service import tables
from inference_service.capabilities import Capability
from inference_service.errors import CatalogInvalid, ModelNotFound
from inference_service.mistakes import Mistake, explain

Gpus = Literal["auto", "all", "none"]
GpuCounts = Annotated[tuple[Annotated[int, Field(ge=1, le=64)], ...], Field(strict=False)]

Kind = TypeVar("Kind", bound="EngineNeeds")

BUILT_IN = Path(__file__).with_name("catalog.toml")

# Of an entry that has none, at most: the longest contexts take hundreds of GB of cache.
UNASKED_CONTEXT = 8192

ID_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,62}$"
ALIAS_PATTERN = r"^[!-~]{1,200}$"  # such as `gpt-4o-mini` and `org/name:tag`

_VARIABLE = re.compile(r"[^=\0]+")

_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_size(value: object) -> int:
    """Return the bytes of a size such as `4GB` or `512MiB`."""
    match = re.fullmatch(r"(\d{1,12}(?:\.\d+)?)\s*([KMG]i?B)", str(value), re.I | re.A)
    if match is None or (size := int(float(match[1]) * _UNITS[match[2].upper()])) < 6 * 2**20:
        raise ValueError('must be a size of at least 6MiB, such as "4GB" or "512MiB"')
    return size


Size = Annotated[int, BeforeValidator(parse_size)]
ControlToken = Annotated[str, Field(min_length=2, max_length=200)]


class Section(BaseModel):
    """A table of the catalog, which has no other keys than its fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ContainerOptions(Section):
    """The options of a container that an entry may set; others are for the service.

    `shm_size` is shared memory, for engines of several processes. `devices` are paths such as
    `/dev/kfd`, and `groups` what a container needs to open them. `ipc` is `host` for engines that
    share GPU memory between processes. `ulimits` are by name, -1 is no limit. A container has no
    capabilities but those of `cap_add`, and at most `pids_limit` processes and threads.
    """

    shm_size: Size = 2**30
    devices: tuple[Annotated[str, Field(pattern=r"^/dev(/[\w-][\w.-]*)+$")], ...] = Field(
        default=(), strict=False
    )
    groups: tuple[Annotated[str, Field(pattern=r"^[\w-]+$")], ...] = Field(default=(), strict=False)
    ipc: Literal["private", "host"] = "private"
    ulimits: dict[Literal["memlock", "stack", "nofile"], Annotated[int, Field(ge=-1)]] = {}
    seccomp: Literal["default", "unconfined"] = "default"
    cap_add: tuple[Capability, ...] = Field(default=(), strict=False)
    pids_limit: int = Field(default=8192, ge=64, le=1 << 22)


class EngineNeeds(Section):
    """The keys that the section of every kind of engine has.

    `memory` limits the container, and with some room a process. `env` is passed to the engine, and
    replaces variables that the service sets, but for those of `own_variables`, each with a reason.
    `container` are further options of the container.
    """

    own_variables: ClassVar[Mapping[str, str]] = {}

    memory: Size
    env: dict[str, str] = {}
    container: ContainerOptions = ContainerOptions()

    @field_validator("env")
    @classmethod
    def _has_variables(cls, env: dict[str, str]) -> dict[str, str]:
        for name, text in env.items():
            if name in cls.own_variables:
                raise ValueError(f"must not have {name}: {cls.own_variables[name]}")
            if not _VARIABLE.fullmatch(name) or "\0" in text:
                raise ValueError(f"has {name!r}, which no process can have as a variable")
        return env

    @property
    def runtimes(self) -> tuple[str, ...]:
        """The names of the runtimes in which the engine can run, the best one first."""
        return ("docker",)

    @property
    def needs_gpu(self) -> bool:
        """Whether the engine cannot run the model without a GPU."""
        return False

    @property
    def generates(self) -> bool:
        """Whether the model makes text, and not only vectors or scores of texts."""
        return True

    def anchored(self, folder: Path) -> Self:
        """Return the section with paths that do not depend on the folder of the catalog.

        Raises Mistake.
        """
        return self

    def completed(self, context_length: int | None) -> tuple[Self, int | None]:
        """Return the section with what its weights say, and the context length of the model.

        That is None where the weights are not here, or cannot be read. Raises Mistake where an
        entry without that `context_length`, or without other keys, needs them.
        """
        return self, None


class _Entry(Section):
    """The keys of an entry, without its sections."""

    id: str = Field(pattern=ID_PATTERN)
    hf_name: str = Field(min_length=1, max_length=200)
    aliases: list[Annotated[str, Field(pattern=ALIAS_PATTERN)]] = Field(default=[], max_length=100)
    context_length: int = Field(ge=64, le=10_000_000)
    engine: str | None = None
    idle_timeout: float | None = Field(default=None, ge=0)
    pinned: bool = False
    preload: bool = False
    allow_control_tokens: bool = False
    control_tokens: list[ControlToken] = Field(default=[], max_length=1000)


class _Given(_Entry):
    """An entry of a file, to which `_file` adds a field for each section."""

    hf_name: str | None = Field(min_length=1, max_length=200)  # type: ignore[assignment]
    context_length: int | None = Field(ge=64, le=10_000_000)  # type: ignore[assignment]

    @model_validator(mode="before")
    @classmethod
    def _may_be_short(cls, data: Any) -> Any:
        """Add None for keys that can be missing, since the weights are a file of this machine."""
        if isinstance(data, dict) and any(_has_path(data.get(kind)) for kind in cls.kinds()):
            return {"hf_name": None, "context_length": None} | data
        return data

    @classmethod
    def kinds(cls) -> list[str]:
        """Return the names of the sections that an entry can have."""
        return [name for name in cls.model_fields if name not in _Entry.model_fields]

    @property
    def sections(self) -> dict[str, EngineNeeds]:
        """The sections that the entry has."""
        given = {name: getattr(self, name) for name in self.kinds()}
        return {name: needs for name, needs in given.items() if needs is not None}

    @model_validator(mode="after")
    def _has_engine(self) -> Self:
        if not self.sections:
            names = [f"`{name}`" for name in self.kinds()]
            raise ValueError(f"must have a section {', '.join(names[:-1])} or {names[-1]}")
        if self.engine is not None and self.engine not in self.sections:
            raise ValueError(f"names the engine {self.engine}, but has no section `{self.engine}`")
        return self


def _has_path(section: object) -> bool:
    weights = section.get("weights") if isinstance(section, dict) else None
    return isinstance(weights, dict) and "path" in weights


class ModelSpec(_Entry):
    """One model, as the catalog has it.

    Calls name it by its id, by one of its `aliases`, or by its `hf_name`.
    `idle_timeout` is in seconds and may be `inf`. Only StopModel stops a `pinned` model. A
    `preload` model starts with the service. `control_tokens` are those of the model, for engines
    that do not name theirs; `allow_control_tokens` lets callers write them. `sections` has what
    each kind of engine needs to run the model, by the name of the kind.
    """

    sections: Mapping[str, EngineNeeds] = {}

    @property
    def engines(self) -> tuple[str, ...]:
        """The names of the engines that can run the model."""
        return tuple(self.sections)

    def needs(self, kind: type[Kind]) -> Kind:
        """Return the section of this type. It is there for each engine that is chosen."""
        for needs in self.sections.values():
            if isinstance(needs, kind):
                return needs
        raise LookupError(f"{self.id} has no section of {kind.__name__}")


Sections = Mapping[str, type[EngineNeeds]]  # by kind of engine


class Catalog:
    """The models, in order."""

    def __init__(self, models: Sequence[ModelSpec]) -> None:
        self._models = {spec.id: spec for spec in models}
        # Of entries with the same `hf_name`, the last one is meant: a file of the user comes last.
        self._others = {spec.hf_name: spec for spec in models}
        self._others |= {alias: spec for spec in models for alias in spec.aliases}

    @classmethod
    def load(cls, paths: Iterable[Path], sections: Sections) -> Catalog:
        """Read the built-in catalog and then each of `paths`. Raises CatalogInvalid.

        `sections` are those that an entry can have, in the order in which engines are preferred.
        """
        models: dict[str, ModelSpec] = {}
        for path in (BUILT_IN, *paths):
            models |= {spec.id: spec for spec in _read(path, sections)}
            if clashes := [*_clashes(models.values())]:
                raise CatalogInvalid(*(f"{path}: {clash}" for clash in clashes))
        return cls(tuple(models.values()))

    def __iter__(self) -> Iterator[ModelSpec]:
        return iter(self._models.values())

    def __len__(self) -> int:
        return len(self._models)

    def __contains__(self, model_id: object) -> bool:
        return model_id in self._models

    def find(self, model_id: str) -> ModelSpec:
        """Return the model of this name. Raises ModelNotFound, which names the nearest id.

        Clients of Ollama add `:latest` to a name.
        """
        if spec := self._named(model_id) or self._named(model_id.removesuffix(":latest")):
            return spec
        shown = model_id if len(model_id) <= 80 else f"{model_id[:80]}..."
        raise ModelNotFound(shown, self._nearest(model_id[:80].lower()), self._models)

    def _named(self, name: str) -> ModelSpec | None:
        return self._models.get(name) or self._others.get(name)

    def _nearest(self, model_id: str) -> str | None:
        """Return the most similar id, if there is one."""
        # difflib takes 0.1 ms for each id that is similar: of many, it gets those with the most
        # pairs of letters in common.
        wanted = _pairs(model_id)
        likely = heapq.nlargest(20, self._models, lambda known: len(wanted & _pairs(known)))
        return next(iter(difflib.get_close_matches(model_id, likely, n=1, cutoff=0.5)), None)


def _pairs(text: str) -> set[str]:
    """Return each pair of letters that follow one another."""
    return {text[i : i + 2] for i in range(len(text) - 1)}


def _clashes(models: Iterable[ModelSpec]) -> Iterator[str]:
    """Yield a sentence for each alias that names another model, too."""
    owners = {spec.id: spec.id for spec in models}
    for spec in models:
        for alias in spec.aliases:
            if (owner := owners.setdefault(alias, spec.id)) != spec.id:
                yield f"entry {spec.id!r}, key aliases: {alias!r} names the model {owner!r} already"


def _read(path: Path, sections: Sections) -> list[ModelSpec]:
    file = _file(sections)
    try:
        data = tables.read(path)
        entries: list[_Given] = getattr(file.model_validate(data), "models")  # noqa: B009
    except tables.Unusable as error:
        raise CatalogInvalid(f"{path}: {error}") from None
    except ValidationError as error:
        raise CatalogInvalid(*(explain(path, data, file, e) for e in error.errors())) from None
    counts = Counter(entry.id for entry in entries)
    if repeated := sorted(id for id, count in counts.items() if count > 1):
        raise CatalogInvalid(f"{path}: has more than one entry for {', '.join(repeated)}")
    return [_spec(path, entry) for entry in entries]


def _file(sections: Sections) -> type[Section]:
    """Return the model of a file whose entries can have these sections."""
    optional: dict[str, Any] = {name: (kind | None, None) for name, kind in sections.items()}
    engine: Any = (Literal[*sections] | None, None)
    entry = create_model("Entry", __base__=_Given, engine=engine, **optional)
    models: Any = (list[entry], Field(min_length=1))  # type: ignore[valid-type]
    return create_model("File", __base__=Section, models=models)


def _spec(path: Path, entry: _Given) -> ModelSpec:
    """Return the model of an entry."""
    sections: dict[str, EngineNeeds] = {}
    context, own = entry.context_length, None
    for name, needs in entry.sections.items():
        try:
            sections[name], found = needs.anchored(path.parent).completed(context)
        except Mistake as mistake:
            key, what = mistake.args
            where = f"{path}: entry {entry.id!r}, key {name}.{key}: "
            raise CatalogInvalid(f"{where}{what}") from None
        own = own or found
    fields = {name: getattr(entry, name) for name in _Entry.model_fields}
    fields["context_length"] = _context_length(f"{path}: entry {entry.id!r}", context, own)
    fields["hf_name"] = entry.hf_name or entry.id
    return ModelSpec.model_construct(**fields, sections=sections)


def _context_length(entry: str, given: int | None, own: int | None) -> int:
    """Return the context length of a model that has this one of its own. Raises CatalogInvalid."""
    if given is None and own is None:
        raise CatalogInvalid(f"{entry}, key context_length: is missing")
    if given is not None and own is not None and given > own:
        what = f"must be at most {own}, the context length of the model in its file, not {given}"
        raise CatalogInvalid(f"{entry}, key context_length: {what}")
    return given or min(own or UNASKED_CONTEXT, UNASKED_CONTEXT)
