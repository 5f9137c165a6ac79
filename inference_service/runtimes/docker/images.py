"""References of images, and why one cannot be pulled."""

from __future__ import annotations

from docker.errors import APIError
from docker.utils import parse_repository_tag

from inference_service.runtimes.docker.calls import explanation


def reference(image: str) -> tuple[str, str]:
    """Name and tag; without a tag `latest`, as Docker's own client does."""
    name, _, digest = image.partition("@")
    if digest:
        return name, digest
    repository, tag = parse_repository_tag(image)
    return repository, tag or "latest"


def pull_failure(image: str, error: APIError) -> str:
    hint = "; `make image` builds it" if "inference-service/llamacpp" in image else ""
    return f"the image {image} could not be pulled: {explanation(error)}{hint}"
