"""The progress of TGI's start, with the bytes that its log does not report.

The bytes are counted in the cache of huggingface_hub, which holds each file as `blobs/<etag>`, and
as `blobs/<etag>.incomplete` until it is complete
(https://huggingface.co/docs/huggingface_hub/guides/manage-cache). TGI chooses its files in
`server/text_generation_server/utils/hub.py`, and the hub reports their sizes. All of it is only
shown: where something cannot be read, the start goes on and shows less.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Annotated, Generic, TypeVar
from urllib.parse import quote

import msgspec

from inference_service.engines.tgi import log as tgi_log
from inference_service.lifecycle import Phase, Progress
from inference_service.runtimes.base import Running
from inference_service.runtimes.command import Command

log = logging.getLogger(__name__)

T = TypeVar("T")

_PATIENCE = 5.0  # seconds for the answer of the hub
_HUB = "https://huggingface.co"
_LARGEST_ANSWER = 16 << 20  # bytes: of 10,000 files, a repository's list has 2 MB

_STARTS = "Download file: "
_NOT_WEIGHTS = ("arguments", "args", "training")


# The digests become names of files.
_Digest = Annotated[str, msgspec.Meta(pattern=r"^(?:[0-9a-f]{40}|[0-9a-f]{64})\Z")]


class _Lfs(msgspec.Struct):
    sha256: _Digest


class _File(msgspec.Struct):
    rfilename: str
    size: Annotated[int, msgspec.Meta(ge=0, le=1 << 50)]
    blob_id: _Digest = msgspec.field(name="blobId")
    lfs: _Lfs | None = None


class _Repository(msgspec.Struct):
    siblings: list[_File]


_decode = msgspec.json.Decoder(_Repository).decode


class _Pending(Generic[T]):
    """A generator with a task for its next item, so that two can be awaited."""

    def __init__(self, items: AsyncGenerator[T]) -> None:
        self._items = items
        self.task = asyncio.create_task(self._next())
        self.ended = False

    def take(self) -> T | None:
        """Return the item that has come and await the next, or None at the end."""
        self.ended = True
        if (item := self.task.result()) is not None:
            self.ended = False
            self.task = asyncio.create_task(self._next())
        return item

    def cancel(self) -> None:
        """End the generator without waiting for its clean-up."""
        self.ended = True
        self.task.cancel()

    async def aclose(self) -> None:
        """End the generator."""
        self.cancel()
        await asyncio.wait([self.task])
        await self._items.aclose()

    async def _next(self) -> T | None:
        return await anext(self._items, None)


class Download:
    """The progress of one start, from its log and from the bytes on the disk."""

    def __init__(self, command: Command, running: Running, look_every: float) -> None:
        self._model_id = command.model
        self._env = {**command.hub, **command.secrets, **command.env}
        self._running = running
        self._look_every = look_every
        self._line = self._files = Progress(Phase.DOWNLOADING_WEIGHTS)  # the last, the last count
        self._bytes = 0
        self._total: int | None = None  # None until the hub was asked, 0 without an answer
        self._looks: _Pending[Progress] | None = None  # None until the first file is downloaded

    async def progress(self) -> AsyncGenerator[Progress]:
        """Yield the progress until the log ends. Closing it ends the looks at the disk too."""
        async with aclosing(_Pending(self._lines())) as lines:
            try:
                while True:
                    tasks = [s.task for s in (lines, self._looks) if s and not s.ended]
                    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                    if (looked := self._looked()) is not None:
                        yield looked
                    if lines.task.done():
                        if (line := lines.take()) is None:
                            return
                        yield self._after(line)
            finally:
                if self._looks is not None:
                    await self._looks.aclose()

    async def _lines(self) -> AsyncGenerator[Progress]:
        async with aclosing(self._running.logs()) as lines:
            async for line in lines:
                if (progress := tgi_log.progress(line)) is not None:
                    yield progress

    def _after(self, line: Progress) -> Progress:
        """Note the progress of a line, and return it with the bytes on the disk."""
        if line.phase is not Phase.DOWNLOADING_WEIGHTS or line.message.startswith("Convert"):
            if self._looks is not None:
                self._looks.cancel()  # and awaited at the end, as a call to Docker can take long
            return line
        if self._looks is None and line.message.startswith(_STARTS):
            suffix = PurePosixPath(line.message.removeprefix(_STARTS).strip()).suffix
            self._looks = _Pending(self._look(suffix))
        self._line = line
        if line.unit:
            self._files = line
            if line.completed == line.total:
                self._bytes = self._total or self._bytes
        return self._merged()

    def _merged(self) -> Progress:
        line, files = self._line, self._files
        if not self._bytes:  # the fraction of the files can be above that of the bytes to come
            asking = self._looks and not self._looks.ended and self._total is None
            return replace(line, fraction=None) if asking else line
        fraction = self._bytes / self._total if self._total else files.fraction
        message = line.message
        if files.total and not line.unit:
            message += f" ({files.completed} of {files.total} files)"
        phase, total = Phase.DOWNLOADING_WEIGHTS, self._total or 0
        return Progress(phase, self._bytes, total, "bytes", fraction, message)

    def _looked(self) -> Progress | None:
        """Return the progress of a look, if one is over. After an error there are no more looks."""
        if self._looks is None or self._looks.ended or not self._looks.task.done():
            return None
        try:
            return self._looks.take()
        except Exception:
            log.exception("%s: its download is shown without bytes", self._model_id)
            return None

    async def _look(self, suffix: str) -> AsyncGenerator[Progress]:
        """Yield the progress with the bytes on the disk, once there are some."""
        home = self._env.get("HF_HOME", "")
        cache = self._env.get("HUGGINGFACE_HUB_CACHE") or f"{home}/hub"
        folder = f"{cache}/models--{self._env['MODEL_ID'].replace('/', '--')}/blobs"
        sizes = await self._sizes(suffix)
        self._total = sum(sizes.values())
        blobs = [f"{folder}/{etag}{end}" for etag in sizes for end in ("", ".incomplete")]
        while True:
            if found := await self._running.disk_usage(blobs or [folder]):
                self._bytes = min(found, self._total or found)
                yield self._merged()
            await asyncio.sleep(self._look_every)

    async def _sizes(self, suffix: str) -> dict[str, int]:
        """Return the bytes of each file of weights, by etag; nothing without the hub's answer."""
        # Imported here: aiohttp takes 9 MB, and most starts find their weights on the disk.
        import aiohttp

        endpoint, token = (self._env.get(n) for n in ("HF_ENDPOINT", "HF_TOKEN"))
        repo, revision = quote(self._env["MODEL_ID"]), quote(self._env["REVISION"], safe="")
        url = f"{endpoint or _HUB}/api/models/{repo}/revision/{revision}?blobs=true"
        headers = {"authorization": f"Bearer {token}"} if token else {}
        try:
            async with (
                asyncio.timeout(_PATIENCE),
                aiohttp.ClientSession(raise_for_status=True) as hub,
                hub.get(url, headers=headers) as response,
            ):
                body = await response.content.read(_LARGEST_ANSWER)
                while more := await response.content.read(_LARGEST_ANSWER - len(body)):
                    body += more
                files = _decode(body).siblings
        except (aiohttp.ClientError, OSError, ValueError):  # a ValueError: not the hub's JSON
            return {}
        return {
            file.lfs.sha256 if file.lfs else file.blob_id: file.size
            for file in files
            if _is_weights(file.rfilename, suffix)
        }


def _is_weights(name: str, suffix: str) -> bool:
    in_root = "/" not in name and name.endswith(suffix)
    return in_root and not any(word in name for word in _NOT_WEIGHTS)
