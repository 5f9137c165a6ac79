"""The progress of the pull of an image, from the events of Docker's `POST /images/create`.

Docker downloads three layers at once, and the size of a layer is unknown until its own download
begins, so the known total grows during the pull. Therefore the fraction is the mean of the layers'
own fractions.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from inference_service.errors import LaunchError, Unlaunchable
from inference_service.lifecycle import Phase, Progress

# Measured on a pull of five layers: of ten parts of the time, unpacking takes about three.
_DOWNLOAD_SHARE = 0.7

_LASTING = re.compile(
    r"manifest (?:unknown|for .* not found)|no matching manifest|pull access denied|not found$"
    r"|repository does not exist|unauthorized|denied:"
)
_DONE = ("Pull complete", "Already exists")


@dataclass(slots=True)
class _Layer:
    completed: int = 0
    total: int = 0
    share: float = 0.0


class PullProgress:
    """The progress of one pull, fed with its events in order."""

    def __init__(self, image: str) -> None:
        self._image = image
        self._layers: dict[str, _Layer] = {}
        self._all_named = False

    def feed(self, event: dict[str, Any]) -> Progress:
        """Return the progress after this event. Raises LaunchError for the event of a failure.

        The SDK does not raise for such an event: without this check a full disk would be a success.
        """
        if "error" in event:
            kind = Unlaunchable if _LASTING.search(str(event["error"])) else LaunchError
            raise kind(f"the image {self._image} could not be pulled: {event['error']}")
        status, layer_id = str(event.get("status", "")), event.get("id")
        if status == "Pulling fs layer" or status in _DONE:
            self._layers.setdefault(str(layer_id), _Layer())
        elif self._layers:
            self._all_named = True  # before, the layers that are here already would count as all
        if layer := self._layers.get(str(layer_id)):
            self._move(layer, status, event.get("progressDetail") or {})
        layers = self._layers.values()
        return Progress(
            Phase.PULLING_IMAGE,
            completed=sum(layer.completed for layer in layers),
            total=sum(layer.total for layer in layers),
            unit="bytes",
            fraction=sum(layer.share for layer in layers) / len(layers)
            if self._all_named
            else None,
            message=f"pulling {self._image}: {status}",
        )

    @staticmethod
    def _move(layer: _Layer, status: str, detail: dict[str, int]) -> None:
        current, total = detail.get("current", 0), detail.get("total", 0)
        match status:
            case "Downloading" if total:
                layer.completed, layer.total = current, total
                layer.share = _DOWNLOAD_SHARE * current / total
            case "Download complete":
                layer.completed, layer.share = layer.total, _DOWNLOAD_SHARE
            case "Extracting" if total:
                layer.share = _DOWNLOAD_SHARE + (1 - _DOWNLOAD_SHARE) * current / total
            case _ if status in _DONE:
                layer.completed, layer.share = layer.total, 1.0
