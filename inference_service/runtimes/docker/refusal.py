"""What it means when a daemon refuses to create or start a container."""

from __future__ import annotations

from docker.errors import APIError, ImageNotFound

from inference_service.errors import LaunchError, Unlaunchable
from inference_service.runtimes.command import Command
from inference_service.runtimes.docker.calls import explanation

# What Docker says of an image without the program, of options that this machine does not have, and
# of files that are not there.
_LASTING = (
    "executable file not found",
    "no such file or directory",
    "permission denied",
    "could not select device driver",
    "invalid mount config",
    "source path does not exist",
)


def is_of_port(error: APIError) -> bool:
    """Return whether another program has the port that was to be published."""
    cause = explanation(error)
    return "port is already allocated" in cause or "address already in use" in cause


def error(refused: APIError, command: Command, name: str) -> LaunchError:
    """Make the error for a container of this name that was not created or started."""
    cause = explanation(refused)
    if "name" in cause and "already in use" in cause:  # 409, and 500 of podman
        return Unlaunchable(
            f"a container named {name} exists that is not this service's; remove it with "
            f"`docker rm -f {name}`, or rename it"
        )
    if "cannot assign requested address" in cause:
        return Unlaunchable(
            f"{cause}; the daemon's machine does not have the address by which DOCKER_HOST names "
            "it; name another one, or use ssh://..."
        )
    if "catatonit" in cause:
        return Unlaunchable(f"{cause}; install catatonit, the init of podman's containers")
    if isinstance(refused, ImageNotFound):
        return Unlaunchable(f"there is no image {command.image}")
    return Unlaunchable(cause) if any(sign in cause for sign in _LASTING) else LaunchError(cause)
