"""The kinds of engines: the one table that catalog, settings, placement and server read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from inference_service import __version__
from inference_service.catalog import Catalog, EngineNeeds
from inference_service.engines.base import Engine
from inference_service.engines.llamacpp.engine import Llamacpp
from inference_service.engines.llamacpp.section import LlamacppNeeds
from inference_service.engines.openai.engine import Openai
from inference_service.engines.openai.section import OpenaiNeeds
from inference_service.engines.tgi.engine import Tgi
from inference_service.engines.tgi.section import TgiNeeds


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of engine. `make` gets the image of the settings, by default `image`.

    `about` describes that setting; a kind without a default image has no such setting. `is_image`
    says that its engines run in Docker alone.
    """

    section: type[EngineNeeds]
    make: Callable[[str], Engine]
    image: str = ""
    about: str = ""
    is_image: bool = False


# In the order in which they are preferred, where an entry has a section for several.
KINDS: dict[str, Kind] = {
    "tgi": Kind(
        TgiNeeds,
        Tgi,
        "ghcr.io/huggingface/text-generation-inference:3.3.7",
        "image of the engine tgi",
        is_image=True,
    ),
    "llamacpp": Kind(
        LlamacppNeeds,
        Llamacpp,
        f"localhost/inference-service/llamacpp:{__version__}",
        "image of the engine llamacpp; `make image` builds the default, which is never pulled",
    ),
    "openai": Kind(OpenaiNeeds, lambda image: Openai()),
}


def catalog(*paths: Path) -> Catalog:
    """Read the built-in catalog and these files. Raises CatalogInvalid."""
    return Catalog.load(paths, {name: kind.section for name, kind in KINDS.items()})


def engines(images: Mapping[str, str]) -> dict[str, Engine]:
    """Return an engine of each kind, by its name; `images` are those of the settings."""
    return {name: kind.make(images.get(name, "")) for name, kind in KINDS.items()}
