"""The images of a daemon, and their pull."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Any, Literal

from docker import DockerClient
from docker.errors import APIError, DockerException, ImageNotFound
from docker.utils import parse_repository_tag

from inference_service.errors import LaunchError, Unlaunchable
from inference_service.lifecycle import Phase, Progress
from inference_service.runtimes.docker import credentials
from inference_service.runtimes.docker.calls import Calls, explanation
from inference_service.runtimes.docker.pull_progress import PullProgress

log = logging.getLogger(__name__)

PullPolicy = Literal["missing", "always", "never"]

# The images that are built here, such as that of llama.cpp. Of a shorter name, Docker would take
# the image that somebody publishes under it at Docker Hub.
_BUILT_HERE = "localhost/"


class Images:
    """The images of a daemon, pulled as the policy says."""

    def __init__(self, client: DockerClient, calls: Calls, policy: PullPolicy) -> None:
        self._client = client
        self._calls = calls
        self._policy = policy

    async def pull(self, image: str) -> AsyncGenerator[Progress]:
        """Pull an image if the policy asks for it, and yield the progress. Raises LaunchError."""
        built = image.startswith(_BUILT_HERE)
        if (built or self._policy != "always") and await self._has(image):
            return
        yield Progress(Phase.PULLING_IMAGE, unit="bytes")  # a refusal has no event
        if built:
            why = f"there is no image {image} here, and images of {_BUILT_HERE} are never pulled"
            raise Unlaunchable(f"{why}{_hint(image)}")
        if self._policy == "never":
            why = f"there is no image {image}, and `pull_policy` is never"
            raise Unlaunchable(f"{why}{_hint(image)}")
        progress = PullProgress(image)
        events = self._calls.stream(self._pull, image)
        try:
            async with aclosing(events):
                async for event in events:
                    yield progress.feed(event)
        except APIError as error:
            raise _pull_failed(image, error) from None

    def _pull(self, image: str) -> Any:
        """Begin a pull; without credentials where their program fails, for most need none."""
        name, tag = _reference(image)
        begin = partial(self._client.api.pull, name, tag, stream=True, decode=True)
        try:
            return begin()
        except DockerException as error:
            if (fault := credentials.fault(error)) is None:
                raise
        log.warning("%s is pulled without credentials: %s", image, fault)
        try:
            return begin(auth_config={})
        except APIError as error:
            error.explanation = f"{explanation(error)}; {fault}"
            raise

    async def _has(self, image: str) -> bool:
        try:
            await self._calls.call(self._client.images.get, image)
        except ImageNotFound:
            return False
        except APIError as error:
            raise _pull_failed(image, error) from None
        return True


def _reference(image: str) -> tuple[str, str]:
    """Split an image into its name and its tag or digest, by default `latest`."""
    name, _, digest = image.partition("@")
    if digest:
        return name, digest
    repository, tag = parse_repository_tag(image)
    return repository, tag or "latest"


def _hint(image: str) -> str:
    return "; `make image` builds it" if "inference-service/llamacpp" in image else ""


def _pull_failed(image: str, error: APIError) -> LaunchError:
    # Of a name that is none, and of a registry that has no such image or keeps it from this daemon.
    kind = Unlaunchable if error.status_code in (400, 401, 403, 404) else LaunchError
    return kind(f"the image {image} could not be pulled: {explanation(error)}{_hint(image)}")
