"""The record of the claim on a name: a container that is never started.

Of the objects of a daemon, containers alone have names that only one can have, by an act of the
daemon: a volume is made twice without an error. The labels of the container name its owner. A file
in it changes at each renewal.
"""

from __future__ import annotations

import contextlib
import io
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from docker import DockerClient
from docker.errors import APIError, ImageNotFound, NotFound

from inference_service.runtimes import identity
from inference_service.runtimes.docker import archive
from inference_service.runtimes.docker.calls import explanation
from inference_service.runtimes.docker.owner import Owner

# The prefix keeps every daemon from taking it for an image of Docker Hub.
_IMAGE = "localhost/inference-service-claim"
_FILE = "renewal"
_TRIES = 3  # to import the image, which another service removes at its end, or to touch files
_PAUSE = 0.2  # seconds between two calls that touch files

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Found:
    """The record that a daemon has: the id of its container, its owner, and its last renewal."""

    id: str
    owner: Owner
    renewal: bytes


class NotOurs(Exception):
    """A container that has the name of the record, and is none."""


class Record:
    """The record of the claim on the name `service`. Each method blocks, and may raise APIError."""

    def __init__(self, client: DockerClient, service: str) -> None:
        self.client = client
        self.name = identity.record_name(service)

    def make(self, owner: Owner) -> str | None:
        """Make the record, and return its id; None where there is one, of whomever.

        Only one of several who make it at once succeeds.
        """
        try:
            return self._create(owner)
        except APIError as error:
            # Docker answers 409, and podman 500. A container whose name is taken need not be there
            # yet, or any more.
            if error.status_code == 409 or "already in use" in explanation(error):
                return None
            raise

    def find(self) -> Found | None:
        """Return the record; None where there is none. Raises NotOurs."""
        try:
            facts = self.client.api.inspect_container(self.name)
        except NotFound:
            return None
        owner = Owner.read(facts["Config"]["Labels"] or {})
        if owner is None:
            raise NotOurs(f"a container that is no record of a claim is named {self.name}")
        try:
            return Found(facts["Id"], owner, _steady(lambda: self._renewal(facts["Id"])))
        except APIError:
            if self._is_there(facts["Id"]):
                raise
            return None

    def renew(self, id: str, number: int) -> None:
        """Write the number of a renewal.

        Raises NotFound when the record is there no more, also by another name: then it is removed.
        """
        _steady(lambda: self.client.api.put_archive(id, "/", _archive(str(number).encode())))
        if self.client.api.inspect_container(id)["Name"].lstrip("/") != self.name:
            self.remove(id)
            raise NotFound(f"the record {self.name} has been renamed")

    def remove(self, id: str) -> None:
        """Remove the record of this id, and never that of another owner."""
        try:
            self.client.api.remove_container(id, force=True)
        except APIError as error:
            if error.status_code not in (404, 409):  # 409: a removal is under way already
                raise

    def wait_for_removal(self, id: str) -> None:
        """Return when the record of this id is removed, by whomever."""
        self.client.api.wait(id, condition="removed")

    def remove_image(self) -> None:
        """Remove the image of records, unless there is a record of another service."""
        with contextlib.suppress(APIError):
            self.client.images.remove(_IMAGE)

    def _create(self, owner: Owner) -> str:
        create = partial(
            self.client.containers.create,
            _IMAGE,
            command="none",  # without a command no container can be made
            name=self.name,
            labels=owner.labels(),
            network_mode="none",
        )
        for _ in range(_TRIES):
            with contextlib.suppress(ImageNotFound):
                return str(create().id)
            self.client.api.import_image_from_data(_archive(b""), repository=_IMAGE)
        return str(create().id)

    def _is_there(self, id: str) -> bool:
        """Return whether a container is there, and not on its way out."""
        try:
            return bool(self.client.api.inspect_container(id)["State"]["Status"] == "created")
        except NotFound:
            return False

    def _renewal(self, id: str) -> bytes:
        data, _ = self.client.api.get_archive(id, f"/{_FILE}")
        try:
            with tarfile.open(fileobj=io.BytesIO(b"".join(data))) as files:
                file = files.extractfile(_FILE)
                return file.read() if file else b""
        except (KeyError, tarfile.TarError) as error:
            raise APIError(f"the record {self.name} cannot be read: {error}") from None


def _steady(call: Callable[[], T]) -> T:
    """Make a call that touches the files of a record, and make it again where it fails.

    Podman answers wrongly now and then where two services do so at the same moment.
    """
    for _ in range(_TRIES - 1):
        try:
            return call()
        except APIError as error:
            if error.status_code == 409:  # a removal is under way
                raise
            time.sleep(_PAUSE)
    return call()


def _archive(content: bytes) -> bytes:
    return archive.of({_FILE: content}, 0o644)
