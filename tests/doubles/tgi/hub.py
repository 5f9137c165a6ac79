"""The download: a cache of the hub on disk, which is filled file by file and kept."""

from __future__ import annotations

import hashlib
import json
import textwrap
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from pathlib import Path
from time import monotonic

from .faults import Behaviour
from .settings import Settings, own_context

_STEPS = 20
_URL = "https://huggingface.co"
_WIDTH = 80  # of a terminal that is none
_WEIGHTS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
Pause = Callable[[float], Awaitable[None]]
WriteLine = Callable[[str], None]


class DownloadFailed(Exception):
    """The failure of the download child; the message is its standard error."""


def _cache_folder(settings: Settings, environ: Mapping[str, str]) -> Path:
    """Return HUGGINGFACE_HUB_CACHE, or `hub` under HF_HOME."""
    if settings.huggingface_hub_cache:
        return Path(settings.huggingface_hub_cache)
    home = environ.get("HF_HOME") or str(Path.home() / ".cache" / "huggingface")
    return Path(home) / "hub"


class Hub:
    """One repository, on the hub and in the cache on disk."""

    def __init__(
        self, settings: Settings, behaviour: Behaviour, environ: Mapping[str, str]
    ) -> None:
        self._model = settings.model_id
        self._behaviour = behaviour
        self._environ = environ
        self._revision = settings.revision or "main"
        folder = "models--" + settings.model_id.replace("/", "--")
        self._folder = _cache_folder(settings, environ) / folder
        self.sha = hashlib.sha1(f"{self._model}@{self._revision}".encode()).hexdigest()
        if len(self._revision) == 40:
            self.sha = self._revision

    @property
    def _snapshot(self) -> Path:
        return self._folder / "snapshots" / self.sha

    async def download(self, log: WriteLine, pause: Pause) -> None:
        """Download the files that are missing. Raises DownloadFailed; only `pause` waits."""
        self._ask()
        if all((self._snapshot / name).is_file() for name in _WEIGHTS):
            log("Files are already present on the host. Skipping download.")
            return
        self._open()
        start, total = monotonic(), len(_WEIGHTS)
        for number, name in enumerate(_WEIGHTS, 1):
            await self._fetch(name, log, pause)
            elapsed = timedelta(seconds=int(monotonic() - start))
            left = elapsed / number * (total - number) if number < total else 0
            log(f"Download: [{number}/{total}] -- ETA: {left}")

    def _ask(self) -> None:
        """Raise the answer of the hub, if it refuses."""
        url = f"{_URL}/{self._model}/resolve/{self._revision}/config.json"
        if self._behaviour.fault == "gated" and not self._has_token():
            raise DownloadFailed(
                _raised(
                    "GatedRepoError: 401 Client Error. (Request ID: Root=1-67aa5bab-239995ed29ec)",
                    "",
                    f"Cannot access gated repo for url {url}.",
                    f"Access to model {self._model} is restricted. You must have access to it and "
                    "be authenticated to access it. Please log in.",
                )
            )
        if self._behaviour.fault == "not_found":
            raise DownloadFailed(
                _raised(
                    f"HfHubHTTPError: 404 Client Error: Not Found for url: {url}",
                    "",
                    "404: Not Found",
                )
            )

    def _has_token(self) -> bool:
        return self._environ.get("HF_TOKEN", "").startswith("hf_")

    def _open(self) -> None:
        for name in ("blobs", "refs", f"snapshots/{self.sha}"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        (self._folder / "refs" / self._revision.replace("/", "_")).write_text(self.sha)
        config = {"model_type": "double", "max_position_embeddings": own_context(self._model)}
        small = {"config.json": config, "tokenizer.json": {"version": "1.0"}}
        for name, content in small.items():
            self._keep(name, json.dumps(content).encode())

    def _keep(self, name: str, content: bytes) -> None:
        blob = self._blob(content)
        blob.write_bytes(content)
        self._link(name, blob)

    def _blob(self, content: bytes) -> Path:
        return self._folder / "blobs" / hashlib.sha256(content).hexdigest()

    def _link(self, name: str, blob: Path) -> None:
        link = self._snapshot / name
        link.unlink(missing_ok=True)
        link.symlink_to(Path("../../blobs") / blob.name)

    async def _fetch(self, name: str, log: WriteLine, pause: Pause) -> None:
        """Download one file: `blobs/<etag>.incomplete` grows from its old size, and is renamed."""
        if (self._snapshot / name).is_file():
            log(f"File {name} already present in cache.")
            return
        log(f"Download file: {name}")
        size = self._behaviour.weight_bytes // len(_WEIGHTS)
        content = bytes([_WEIGHTS.index(name)]) * size
        blob, start = self._blob(content), monotonic()
        partial = blob.with_name(blob.name + ".incomplete")
        step = max(size // _STEPS, 1)
        wait = self._behaviour.download_seconds / len(_WEIGHTS) / _STEPS
        with partial.open("ab") as file:
            while (have := file.tell()) < size:
                if self._behaviour.fault == "hang_downloading" and have >= size // 2:
                    await pause(float("inf"))
                file.write(content[have : have + step])
                file.flush()
                await pause(wait)
        partial.rename(blob)
        self._link(name, blob)
        elapsed = timedelta(seconds=int(monotonic() - start))
        log(f"Downloaded {self._snapshot / name} in {elapsed}.")


def _raised(*message: str) -> str:
    """Return an exception as typer prints it: the traceback in a box, all lines of one width."""
    title = " Traceback (most recent call last) "
    inside = [
        "/usr/src/server/text_generation_server/cli.py:209 in download_weights",
        "",
        "  208             config = hf_hub_download(",
        '❱ 209                 model_id, revision=revision, filename="config.json"',
    ]
    box = [f"╭{title:─^{_WIDTH - 2}}╮", *(f"│ {line:<{_WIDTH - 4}} │" for line in inside)]
    box.append(f"╰{'─' * (_WIDTH - 2)}╯")
    text = [part for line in message for part in _wrapped(line) or [""]]
    warning = "/opt/venv/sgmv.py:18: UserWarning: Could not import SGMV kernel from Punica."
    return "\n".join(["", warning, *box, *text])


def _wrapped(line: str) -> list[str]:
    return textwrap.wrap(line, _WIDTH, break_on_hyphens=False)
