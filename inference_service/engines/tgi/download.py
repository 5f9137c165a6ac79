"""How many bytes of a model's weights TGI has, of which its log says nothing.

They are counted where they grow: in the cache of huggingface_hub, which holds each file as
`blobs/<etag>`, and as `blobs/<etag>.incomplete` until it is complete
(https://huggingface.co/docs/huggingface_hub/guides/manage-cache). Which files TGI takes is decided
in its `server/text_generation_server/utils/hub.py`, and how large they are the hub tells. All of it
is for show: where something cannot be had, less is seen of the start, which goes on.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import PurePosixPath
from types import TracebackType
from typing import Self
from urllib.parse import quote

import msgspec

from inference_service.lifecycle import Phase, Progress
from inference_service.runtimes.base import Instance, Launch

_PAUSE = 2.0  # seconds between two looks, each of which costs a process in the container
_PATIENCE = 5.0  # seconds, with the hub
_HUB = "https://huggingface.co"

_STARTS = "Download file: "
_NOT_WEIGHTS = ("arguments", "args", "training")


class _Lfs(msgspec.Struct):
    sha256: str


class _File(msgspec.Struct):
    rfilename: str
    size: int
    blob_id: str = msgspec.field(name="blobId")
    lfs: _Lfs | None = None


class _Repository(msgspec.Struct):
    siblings: list[_File]


_decode = msgspec.json.Decoder(_Repository).decode


class Download:
    """The download of one start; `moved` is told of bytes as they come."""

    def __init__(
        self,
        launch: Launch,
        instance: Instance,
        moved: Callable[[Progress], None],
    ) -> None:
        self._env = launch.env
        self._instance = instance
        self._moved = moved
        self._said = self._counted = Progress(Phase.DOWNLOADING_WEIGHTS)
        self._bytes = 0
        self._total: int | None = None  # None until the hub was asked, 0 where it did not say
        self._watch: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait([self._watch])

    def heard(self, said: Progress) -> Progress:
        """What there is to tell after the log has said this."""
        if said.phase is not Phase.DOWNLOADING_WEIGHTS or said.message.startswith("Convert"):
            if self._watch is not None:
                self._watch.cancel()
            return said
        if self._watch is None and said.message.startswith(_STARTS):
            suffix = PurePosixPath(said.message.removeprefix(_STARTS).strip()).suffix
            self._watch = asyncio.create_task(self._look_on(suffix))
        self._said = said
        if said.unit:
            self._counted = said
            if said.completed == said.total:
                self._bytes = self._total or self._bytes
        return self._told()

    def _told(self) -> Progress:
        counted = self._counted
        if not self._bytes:  # a fraction of the files might be more than that of the bytes
            asking = self._watch is not None and self._total is None
            return replace(self._said, fraction=None) if asking else self._said
        fraction = self._bytes / self._total if self._total else counted.fraction
        message = self._said.message
        if counted.total and not self._said.unit:
            message += f" ({counted.completed} of {counted.total} files)"
        phase, total = Phase.DOWNLOADING_WEIGHTS, self._total or 0
        return Progress(phase, self._bytes, total, "bytes", fraction, message)

    async def _look_on(self, suffix: str) -> None:
        """Tell of the bytes until nobody wants to know."""
        home = self._env.get("HF_HOME", "")
        cache = self._env.get("HUGGINGFACE_HUB_CACHE") or f"{home}/hub"
        folder = f"{cache}/models--{self._env['MODEL_ID'].replace('/', '--')}/blobs"
        sizes = await self._sizes(suffix)
        self._total = sum(sizes.values())
        blobs = [f"{folder}/{etag}{end}" for etag in sizes for end in ("", ".incomplete")]
        while True:
            if found := await self._instance.disk_usage(blobs or [folder]):
                self._bytes = min(found, self._total or found)
                self._moved(self._told())
            await asyncio.sleep(_PAUSE)

    async def _sizes(self, suffix: str) -> dict[str, int]:
        """The bytes of each file of weights, by its etag; nothing where the hub does not say."""
        # Imported here: it has 9 MB, and most starts find their weights on the disk.
        import aiohttp

        endpoint, token = (
            self._env.get(n) or os.environ.get(n) for n in ("HF_ENDPOINT", "HF_TOKEN")
        )
        repo, revision = quote(self._env["MODEL_ID"]), quote(self._env["REVISION"], safe="")
        url = f"{endpoint or _HUB}/api/models/{repo}/revision/{revision}?blobs=true"
        headers = {"authorization": f"Bearer {token}"} if token else {}
        try:
            async with (
                asyncio.timeout(_PATIENCE),
                aiohttp.ClientSession(raise_for_status=True) as hub,
                hub.get(url, headers=headers) as response,
            ):
                files = _decode(await response.read()).siblings
        except (aiohttp.ClientError, OSError, ValueError):  # the last: it is not the hub's JSON
            return {}
        return {
            file.lfs.sha256 if file.lfs else file.blob_id: file.size
            for file in files
            if _is_weights(file.rfilename, suffix)
        }


def _is_weights(name: str, suffix: str) -> bool:
    in_root = "/" not in name and name.endswith(suffix)
    return in_root and not any(word in name for word in _NOT_WEIGHTS)
