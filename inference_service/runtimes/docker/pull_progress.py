"""The progress of the pull of an image, from the events of Docker's `POST /images/create`.

Docker downloads three layers at once, and the size of a layer is unknown until its own download
begins, so the known total grows during the pull. Therefore the fraction is the mean of the layers'
own fractions.

The events differ by the store of images. The older one announces all layers, and counts the bytes
of both steps. That of containerd, the default since Docker 29, announces few, repeats what it last
said ten times a second, and counts an extraction in seconds. Podman announces the configuration as
a layer too, and extracts without a word. So a layer is what says something of a layer, and a pull
moves when a layer says something new.
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
_HERE = ("Already exists", "Exists")  # the second by containerd's store until Docker 24
_NAMED = frozenset(("Pulling fs layer", "Pull complete", *_HERE))
_WORKS = frozenset(("Downloading", "Verifying Checksum", "Download complete", "Extracting"))

Event = dict[str, Any]


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
        self._said: dict[str, tuple[object, ...]] = {}  # by id, at last
        self._last: Progress | None = None
        self._all_named = False

    def feed(self, event: Event) -> Progress:
        """Return the progress after this event, which is the last one where nothing has moved.

        Raises LaunchError for the event of a failure: the SDK does not, so that without this check
        a full disk would be a success.
        """
        if "error" in event or "errorDetail" in event:
            cause = str(event.get("error") or (event["errorDetail"] or {}).get("message"))
            kind = Unlaunchable if _LASTING.search(cause) else LaunchError
            raise kind(f"the image {self._image} could not be pulled: {cause}")
        status, id = str(event.get("status", "")), str(event.get("id") or "")
        detail = event.get("progressDetail") or {}
        current, total = _count(detail, "current"), _count(detail, "total")
        said = (status, current, total)
        if self._last is None or self._said.get(id) != said:
            self._said[id] = said
            if status in _NAMED or (status in _WORKS and id):
                layer = self._layers.setdefault(id, _Layer())
                _move(layer, status, current, total, detail)
            if status not in _NAMED and self._layers:
                self._all_named = True  # before, the layers that are here would count as all
            self._last = self._progress(_words(status, id, current, total, detail))
        return self._last

    def _progress(self, words: str) -> Progress:
        layers = self._layers.values()
        counted = all(layer.completed <= layer.total for layer in layers)
        return Progress(
            Phase.PULLING_IMAGE,
            completed=sum(layer.completed for layer in layers),
            total=sum(layer.total for layer in layers) if counted else 0,
            unit="bytes",
            fraction=sum(layer.share for layer in layers) / len(layers)
            if self._all_named
            else None,
            message=f"pulling {self._image}: {words}",
        )


def _move(layer: _Layer, status: str, current: int, total: int, detail: Event) -> None:
    """Note what a layer says; its share never falls, although a download can begin anew."""
    share = 0.0
    match status:
        case "Downloading":
            layer.completed, layer.total = current, total
            share = _DOWNLOAD_SHARE * min(1.0, current / total) if total else 0.0
        case "Extracting":
            share = _DOWNLOAD_SHARE
            if total:  # else it is counted in seconds, of which nobody knows how many there are
                share += (1 - _DOWNLOAD_SHARE) * min(1.0, current / total)
        case "Download complete" | "Exists":
            layer.completed = layer.total = max(layer.completed, layer.total)
            share = _DOWNLOAD_SHARE
        case "Already exists":
            # containerd says by `hidecounts` that it has the file, which it may still extract.
            share = _DOWNLOAD_SHARE if detail.get("hidecounts") else 1.0
        case "Pull complete":
            layer.completed = layer.total = max(layer.completed, layer.total)
            share = 1.0
    layer.share = max(layer.share, share)


def _count(detail: Event, name: str) -> int:
    """Return a count of an event; 0 where there is none, as for a size that nobody knows (-1)."""
    count = detail.get(name)
    return max(0, count) if isinstance(count, int) else 0


def _words(status: str, id: str, current: int, total: int, detail: Event) -> str:
    """Return what an event says, for people, with all that moves."""
    if not current:
        return status
    if detail.get("units"):
        return f"{status} {id}, {current} {detail['units']}"
    whole = f" of {total / 1e6:,.1f}" if total else ""
    return f"{status} {id}, {current / 1e6:,.1f}{whole} MB"
