"""The paths of files inside and outside the container of this service."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from docker.models.containers import Container
from docker.types import Mount

from inference_service.errors import Unlaunchable
from inference_service.runtimes.docker import mounts


def own(*shown: tuple[str, str]) -> Container:
    """Make a container with the mounts that the daemon shows: outside and inside."""
    attrs = {"Mounts": [{"Source": outside, "Destination": to} for outside, to in shown]}
    return cast(Container, SimpleNamespace(name="service", attrs=attrs))


def given(path: str, container: Container | None) -> dict[str, Any]:
    (mount,) = mounts.outside([Mount("/model/x", path, type="bind", read_only=True)], container)
    return mount


def test_outside_a_container_a_file_is_where_it_is() -> None:
    mount = given("/models/x.gguf", None)

    assert mount == Mount("/model/x", "/models/x.gguf", type="bind", read_only=True)


def test_the_deepest_mount_has_the_file() -> None:
    container = own(("/srv", "/models"), ("/data/new", "/models/new"), ("", "/models/new/tmp"))

    assert given("/models/a/x.gguf", container)["Source"] == "/srv/a/x.gguf"
    assert given("/models/new/x.gguf", container)["Source"] == "/data/new/x.gguf"
    assert given("/models/newer/x.gguf", container)["Source"] == "/srv/newer/x.gguf"
    assert given("/models/x.gguf", container)["ReadOnly"] is True


def test_a_mount_of_the_file_itself() -> None:
    assert given("/x.gguf", own(("/srv/y.gguf", "/x.gguf")))["Source"] == "/srv/y.gguf"


def test_links_are_followed_where_they_are(tmp_path: Path) -> None:
    (tmp_path / "blob").touch()
    (tmp_path / "x.gguf").symlink_to("blob")

    mount = given(f"{tmp_path}/x.gguf", own(("/srv", str(tmp_path))))
    assert mount["Source"] == "/srv/blob"


def test_a_file_that_nobody_else_sees() -> None:
    with pytest.raises(Unlaunchable, match=r"/opt/x\.gguf is a file of .* container service alone"):
        given("/opt/x.gguf", own(("/srv", "/models")))
