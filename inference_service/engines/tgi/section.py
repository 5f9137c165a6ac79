"""The catalog's section `tgi`: the weights, the image and the GPUs of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field, model_validator

from inference_service.catalog import EngineNeeds, GpuCounts, Gpus, Section, Size


class HubWeights(Section):
    """Weights in a repository at Hugging Face."""

    repo: str = Field(pattern=r"^[\w.-]+(/[\w.-]+)?$")
    revision: str = Field(default="main", pattern=r"^[\w./-]+$")


class TgiNeeds(EngineNeeds):
    """The needs of a model that Hugging Face TGI runs.

    `image` replaces that of the settings. `gpus`: `auto` uses GPUs where Docker has them, and `all`
    is for a model that TGI cannot run without.
    `gpu_memory` is the GPU memory that the model may take for weights, cache and all else; without
    it the model has all GPUs to itself. `gpu_counts` are the numbers of GPUs among which its heads
    can be divided.
    """

    # TGI takes the key of each run in API_KEY: with another one, it would answer nobody.
    own_variables: ClassVar[Mapping[str, str]] = {
        "API_KEY": "the service gives each run a key of its own",
        "HOSTNAME": "the service chooses the address",
        "PORT": "the service chooses the port",
    }

    weights: HubWeights
    image: str | None = None
    gpus: Gpus = "auto"
    gpu_memory: Size | None = None
    gpu_counts: GpuCounts = ()

    @property
    def needs_gpu(self) -> bool:
        return self.gpus == "all"

    @model_validator(mode="after")
    def _has_gpu(self) -> TgiNeeds:
        for key in ("gpu_memory", "gpu_counts"):
            if self.gpus == "none" and getattr(self, key):
                raise ValueError(f'has `{key}`, but also `gpus = "none"`')
        if self.gpu_counts and "NUM_SHARD" in self.env:
            raise ValueError("has both `gpu_counts` and NUM_SHARD in `env`; one is enough")
        return self
