"""The programs that keep credentials of registries, as the `docker` command's files name them."""

from __future__ import annotations

from docker.credentials.errors import StoreError
from docker.errors import DockerException

from inference_service.runtimes.docker import contexts


def fault(error: DockerException) -> str | None:
    """Return the sentence on a program for credentials that failed; None for any other error."""
    store = error.__cause__
    if not isinstance(store, StoreError):
        return None
    file = contexts.folder() / "config.json"
    return (
        f"the program for credentials of registries that {file} names as `credsStore` or in "
        f"`credHelpers` fails: {str(store).rstrip('.')}; install it, or take it out of that file"
    )
