"""The removal of a container."""

from __future__ import annotations

import contextlib
import math

from docker.errors import APIError, NotFound
from docker.models.containers import Container


def end(container: Container, grace: float | None) -> None:
    """Stop and remove; one that is gone already is what was wanted."""
    try:
        if grace is not None:
            container.stop(timeout=math.ceil(grace))
        container.remove(force=True, v=True)
    except NotFound:
        return
    except APIError as error:
        if error.status_code != 409:  # it is being removed already
            raise
        with contextlib.suppress(NotFound):
            container.wait(condition="removed")
