"""The catalog's section `tgi`: the weights, the image and the GPUs of a model."""

from __future__ import annotations

from pydantic import Field, model_validator

from inference_service.catalog import EngineNeeds, Gpus, Section, Size


class HubWeights(Section):
    """Weights in a repository at Hugging Face."""

    repo: str = Field(pattern=r"^[\w.-]+(/[\w.-]+)?$")
    revision: str = Field(default="main", pattern=r"^[\w./-]+$")


class TgiNeeds(EngineNeeds):
    """The needs of a model that Hugging Face TGI runs.

    `image` replaces that of the settings. `gpus`: `auto` uses GPUs where Docker has them, and `all`
    is for a model that TGI cannot run without.
    `gpu_memory` is the GPU memory that the model may take for weights, cache and all else; without
    it the model has all GPUs to itself.
    """

    weights: HubWeights
    image: str | None = None
    gpus: Gpus = "auto"
    gpu_memory: Size | None = None

    @property
    def needs_gpu(self) -> bool:
        return self.gpus == "all"

    @model_validator(mode="after")
    def _has_gpu(self) -> TgiNeeds:
        if self.gpus == "none" and self.gpu_memory is not None:
            raise ValueError('has `gpu_memory`, but also `gpus = "none"`')
        return self
