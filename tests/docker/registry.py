"""A registry on the loopback, for tests that pull."""

import socket
import subprocess
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

from docker import DockerClient

from .waiting import until


class Registry:
    """An empty registry on a free port of 127.0.0.1, where daemons ask for no TLS.

    After `stop` and `start` the address and the images are the same. Leaving the `with` block
    removes the registry.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="registry-")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self._settings = Path(self._folder.name, "settings.yml")
        self._settings.write_text(
            "version: 0.1\n"
            f"storage: {{filesystem: {{rootdirectory: {self._folder.name}/images}}}}\n"
            f"http: {{addr: {self.address}}}\n"
        )
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        self._folder.cleanup()

    def start(self) -> None:
        """Start the registry unless it runs; return when it answers."""
        if self._process:
            return
        with Path(self._folder.name, "log").open("ab") as log:
            self._process = subprocess.Popen(
                ["docker-registry", "serve", self._settings],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until(self._ready, 10, "the start of docker-registry")

    def stop(self) -> None:
        """Kill the registry, in a transfer too: connections break, new ones are refused."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def push(self, client: DockerClient, image: str, name: str) -> str:
        """Push an image as `name`, such as `tgi:3`; return the reference to pull.

        The daemon keeps the image only under its old name. While it has the image, a pull finds all
        layers there: for a pull with a download, remove the image first or use another daemon.
        """
        reference = f"{self.address}/{name}"
        client.images.get(image).tag(reference)
        for event in client.api.push(reference, stream=True, decode=True):
            if "error" in event:
                raise RuntimeError(f"{reference} was not pushed: {event['error']}")
        client.images.remove(reference)
        return reference

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.address}/v2/", timeout=5):
                return True
        except (urllib.error.URLError, ConnectionError):
            return False
