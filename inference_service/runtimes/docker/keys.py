"""The keys of engines in containers, kept for a service that adopts them.

Each is in a file that nobody else may read. A container whose key is lost is of no use: it would
answer the next service as it answers strangers.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

from inference_service import stored
from inference_service.key import Key
from inference_service.runtimes.command import new_key

log = logging.getLogger(__name__)

_KEY = re.compile(rb"[0-9a-f]{32}")


class Keys:
    """The keys of the runs of one service, in files of a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def known(self, run: Key) -> str | None:
        """Return the key of a run; None where there is none, or where it was set aside."""
        path = self._path(run)
        try:
            data = stored.read(path, 100)
            if data is None:
                return None
            if _KEY.fullmatch(data) is None:
                raise stored.Damaged("it is no key")
        except stored.Damaged as error:
            stored.set_aside(path, error)
            return None
        return data.decode()

    def new(self, run: Key) -> str:
        """Make the key of a run, and keep it."""
        key = new_key()
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            stored.write(self._path(run), key, mode=0o600)
        except OSError as error:
            log.warning("the next service cannot adopt %s: its key is not kept: %s", run, error)
        return key

    def forget(self, run: Key) -> None:
        """Forget the key of a run of which nothing is left."""
        try:
            self._path(run).unlink(missing_ok=True)
        except OSError as error:
            log.warning("the key of %s, which is gone, is still kept: %s", run, error)

    def _path(self, run: Key) -> Path:
        return self._folder / str(run)
