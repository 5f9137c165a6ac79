"""The start of a model that nobody calls, after a failure."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from inference_service.errors import (
    InsufficientMemory,
    ModelRemoved,
    ModelUnusable,
    ServiceError,
    ShuttingDown,
    StartBackingOff,
)

log = logging.getLogger(__name__)


class Revived(Protocol):
    """A model, as far as its revival goes."""

    @property
    def id(self) -> str:
        """The id in the catalog."""

    def begin(self) -> None:
        """Start the model unless it runs. Raises ServiceError where it must not start."""


class Revival:
    """The next start of a model that has to run, with or without callers: one timer.

    `longest` is in seconds: the wait after a failure that time alone does not mend.
    """

    def __init__(self, model: Revived, longest: float) -> None:
        self._model = model
        self._longest = longest
        self._timer: asyncio.TimerHandle | None = None
        self._logged = ""  # the last failure, which can come again and again

    @property
    def due(self) -> bool:
        """Whether a start is to come."""
        return self._timer is not None

    def after(self, failure: ServiceError, wait: float) -> None:
        """Start the model in `wait` seconds, or later where only people can mend the failure.

        They may have done so by then: a file, a token, an image.
        """
        self._logged = failure.message
        lasting = isinstance(failure, (ModelUnusable, InsufficientMemory))
        self.soon(max(wait, self._longest) if lasting else wait)

    def soon(self, wait: float) -> None:
        """Start the model in `wait` seconds."""
        self.cancel()
        self._timer = asyncio.get_running_loop().call_later(max(wait, 0.0), self._begin)

    def cancel(self) -> None:
        """Give the start up."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _begin(self) -> None:
        self._timer = None
        try:
            self._model.begin()
        except (ShuttingDown, ModelRemoved):
            return
        except ServiceError as error:
            if error.message != self._logged and not isinstance(error, StartBackingOff):
                log.error("%s is not started: %s", self._model.id, error.message)
            self.after(error, error.retry_after or 0.0)
