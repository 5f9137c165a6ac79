"""The removal of containers, with retries in the background."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Awaitable, Callable, Mapping

from docker import DockerClient
from docker.errors import APIError, NotFound
from docker.models.containers import Container

from inference_service.errors import LaunchError, RuntimeUnavailable
from inference_service.key import Key
from inference_service.runtimes.docker.container import find

log = logging.getLogger(__name__)


def remove(container: Container, grace: float | None) -> None:
    """Remove a container, after a stop where there is a grace. A missing container is no error."""
    try:
        if grace is not None:
            container.stop(timeout=math.ceil(grace))
        container.remove(force=True, v=True)
    except NotFound:
        return
    except APIError as error:
        if error.status_code != 409:  # 409: a removal is under way already
            raise
        with contextlib.suppress(NotFound):
            container.wait(condition="removed")


def remove_all(
    client: DockerClient,
    labels: Mapping[str, str],
    grace: float | None,
    given_up: Callable[[], bool] = lambda: False,
) -> None:
    """Remove the containers with these labels: one call, which a cancellation cannot split.

    When it was `given_up`, because the daemon hung, it does nothing more: another run may use what
    it finds.
    """
    for container in find(client, labels):
        if not given_up():
            remove(container, grace)


class PendingRemovals:
    """Removals that have failed and are retried until they succeed, one for each run."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._retries: dict[Key, asyncio.Task[None]] = {}
        self._names: dict[Key, str] = {}
        self._gone: set[Key] = set()  # of which nothing was left at the last look

    def __contains__(self, key: Key) -> bool:
        return key in self._retries and key not in self._gone

    def add(
        self,
        key: Key,
        container: str,
        attempt: Callable[[], Awaitable[None]],
        *,
        gone: bool = False,
        sure: bool = True,
    ) -> None:
        """Retry `attempt` until it raises neither RuntimeUnavailable nor LaunchError.

        `gone` says that this was so already. Unless it is `sure`, there is one more attempt after
        that.
        """
        if gone:
            self._gone.add(key)
        retry = self._retry(key, container, attempt, sure)
        task = asyncio.create_task(retry, name=f"removal of {container}")
        self._retries[key], self._names[key] = task, container

    async def cancel(self, key: Key) -> None:
        """Give up the pending removal of this run, if there is one."""
        if (retry := self._retries.pop(key, None)) is not None:
            retry.cancel()
            await asyncio.wait([retry])
        self._gone.discard(key)

    async def cancel_all(self) -> None:
        """Give up every pending removal, and leave it to the next service."""
        for key in list(self._retries):
            if key in self:
                name = self._names[key]
                log.warning("%s is left: the next service of this name adopts or removes it", name)
            await self.cancel(key)

    async def _retry(
        self, key: Key, container: str, attempt: Callable[[], Awaitable[None]], sure: bool
    ) -> None:
        while True:
            await asyncio.sleep(self._interval)
            try:
                await attempt()
            except (RuntimeUnavailable, LaunchError):
                continue
            except Exception:  # a fault of this service must not make the claim on memory eternal
                log.exception("fault in the removal of %s", container)
                continue
            if key in self._gone:
                break
            log.warning("the container %s has been removed at last", container)
            if sure:
                break
            self._gone.add(key)
        del self._retries[key]
        self._gone.discard(key)
