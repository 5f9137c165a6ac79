"""The files that engines see, as the daemon's machine names them.

A service in a container has paths of its own. The daemon mounts files of its machine alone, so a
path is translated by the mounts of the service's container.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from docker.models.containers import Container

from inference_service.errors import Unlaunchable


def outside(mounts: Sequence[Mapping[str, Any]], own: Container | None) -> list[dict[str, Any]]:
    """Return mounts of files of this service as the daemon has to be told them.

    `own` is the service's container, if it runs in one. Raises Unlaunchable for a file that is only
    in there.
    """
    if own is None:
        return [dict(mount) for mount in mounts]
    return [{**mount, "Source": _outside(Path(mount["Source"]).resolve(), own)} for mount in mounts]


def _outside(path: Path, own: Container) -> str:
    shown = [mount for mount in own.attrs["Mounts"] if mount.get("Source")]
    for mount in sorted(shown, key=lambda mount: len(mount["Destination"]), reverse=True):
        if path.is_relative_to(mount["Destination"]):
            return str(PurePath(mount["Source"], path.relative_to(mount["Destination"])))
    raise Unlaunchable(
        f"{path} is a file of this service's container {own.name} alone, which the daemon cannot "
        "give to an engine; mount its folder into that container from outside"
    )
