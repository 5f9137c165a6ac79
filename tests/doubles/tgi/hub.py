"""The download: a hub cache on disk that fills file by file, and stays for the next start."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from pathlib import Path
from time import monotonic

from .faults import Behaviour
from .settings import Settings

_STEPS = 20
Pause = Callable[[float], Awaitable[None]]
Say = Callable[[str], None]


class DownloadFailed(Exception):
    """The download child ended badly; the message is what it wrote on its standard error."""


def cache_folder(settings: Settings, environ: Mapping[str, str]) -> Path:
    """Where the hub cache is: HUGGINGFACE_HUB_CACHE, or `hub` under HF_HOME."""
    if settings.huggingface_hub_cache:
        return Path(settings.huggingface_hub_cache)
    home = environ.get("HF_HOME") or str(Path.home() / ".cache" / "huggingface")
    return Path(home) / "hub"


def _traceback(error: str) -> DownloadFailed:
    return DownloadFailed(
        "\nTraceback (most recent call last):\n"
        '  File "/usr/src/.venv/bin/text-generation-server", line 10, in <module>\n'
        f"    sys.exit(app())\n{error}"
    )


class Hub:
    """One repository: what the hub says of it, and what of it is on disk."""

    def __init__(
        self, settings: Settings, behaviour: Behaviour, environ: Mapping[str, str]
    ) -> None:
        self._model = settings.model_id
        self._behaviour = behaviour
        self._environ = environ
        self._revision = settings.revision or "main"
        folder = "models--" + settings.model_id.replace("/", "--")
        self._folder = cache_folder(settings, environ) / folder
        self.sha = hashlib.sha1(f"{self._model}@{self._revision}".encode()).hexdigest()
        if len(self._revision) == 40:
            self.sha = self._revision
        count = behaviour.weight_files
        numbered = [f"model-{n:05}-of-{count:05}.safetensors" for n in range(1, count + 1)]
        self._weights = numbered if count > 1 else ["model.safetensors"]

    @property
    def offline(self) -> bool:
        return self._environ.get("HF_HUB_OFFLINE") == "1"

    @property
    def local(self) -> bool:
        """Whether the model is a folder and not a repository."""
        return Path(self._model).is_dir()

    @property
    def _snapshot(self) -> Path:
        return self._folder / "snapshots" / self.sha

    async def download(self, say: Say, pause: Pause) -> None:
        """Fetch what is missing. Raises DownloadFailed; only `pause` waits."""
        self._ask()
        if self._complete():
            say("Files are already present on the host. Skipping download.")
            return
        self._open()
        start, total = monotonic(), len(self._weights)
        for number, name in enumerate(self._weights, 1):
            await self._fetch(name, say, pause)
            elapsed = timedelta(seconds=int(monotonic() - start))
            left = elapsed / number * (total - number) if number < total else 0
            say(f"Download: [{number}/{total}] -- ETA: {left}")

    def _complete(self) -> bool:
        return self.local or all((self._snapshot / name).is_file() for name in self._weights)

    def _ask(self) -> None:
        """What the hub would answer, were it asked; a folder is looked into instead."""
        if self.local:
            if not list(Path(self._model).glob("*.safetensors")):
                missing = f"No local weights found in {self._model} with extension .bin"
                raise _traceback(f"FileNotFoundError: {missing}")
            return
        fault = self._behaviour.fault.name if self._behaviour.fault else ""
        url = f"https://huggingface.co/{self._model}/resolve/{self._revision}/config.json"
        if self.offline and not self._snapshot.is_dir():
            raise _traceback(
                "huggingface_hub.errors.LocalEntryNotFoundError: Cannot find the requested files "
                "in the disk cache and outgoing traffic has been disabled."
            )
        if fault == "no_network" and not self.offline:
            raise _traceback(
                'requests.exceptions.ConnectionError: (MaxRetryError("HTTPSConnectionPool('
                "host='huggingface.co', port=443): Max retries exceeded (Caused by "
                'NameResolutionError("Temporary failure in name resolution"))"))'
            )
        if fault == "gated" and not self._environ.get("HF_TOKEN", "").startswith("hf_"):
            raise _traceback(
                "huggingface_hub.errors.GatedRepoError: 401 Client Error.\n\n"
                f"Cannot access gated repo for url {url}.\n"
                f"Access to model {self._model} is restricted. You must have access to it and "
                "be authenticated to access it. Please log in."
            )
        if fault == "unknown_repo":
            raise _traceback(
                "huggingface_hub.errors.RepositoryNotFoundError: 401 Client Error.\n\n"
                f"Repository Not Found for url: {url}.\n"
                "Please make sure you specified the correct `repo_id` and `repo_type`."
            )

    def _open(self) -> None:
        for name in ("blobs", "refs", f"snapshots/{self.sha}"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        (self._folder / "refs" / self._revision.replace("/", "_")).write_text(self.sha)
        small = {"config.json": {"model_type": "double"}, "tokenizer.json": {"version": "1.0"}}
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

    async def _fetch(self, name: str, say: Say, pause: Pause) -> None:
        """One file: `blobs/<etag>.incomplete` grows, from where it was left, and is renamed."""
        if (self._snapshot / name).is_file():
            say(f"File {name} already present in cache.")
            return
        say(f"Download file: {name}")
        size = self._behaviour.weight_bytes // len(self._weights)
        content = bytes([self._weights.index(name)]) * size
        blob, start = self._blob(content), monotonic()
        partial = blob.with_name(blob.name + ".incomplete")
        step = max(size // _STEPS, 1)
        wait = self._behaviour.download_seconds / len(self._weights) / _STEPS
        hangs = self._behaviour.fault and self._behaviour.fault.name == "hang_downloading"
        with partial.open("ab") as file:
            while (have := file.tell()) < size:
                if hangs and have >= size // 2:
                    await pause(float("inf"))
                file.write(content[have : have + step])
                file.flush()
                await pause(wait)
        partial.rename(blob)
        self._link(name, blob)
        elapsed = timedelta(seconds=int(monotonic() - start))
        say(f"Downloaded {self._snapshot / name} in {elapsed}.")
