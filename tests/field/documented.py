"""The proxies of docs/proxies.md, run with the configuration that stands there."""

from __future__ import annotations

import asyncio
import re
import ssl
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx

from tests.needs import give_up, require_program
from tests.rest_bridge.loopback import free_port
from tests.service import free
from tests.waiting import SLOWLY, until

ROOT = Path(__file__).parents[2]
ENVOY = ROOT / "build" / "envoy" / "envoy" / "_bin" / "envoy"  # of `make test-envoy`
DESCRIPTORS = ROOT / "inference_service" / "v1" / "descriptors.binpb"

# What a system has around the snippet. One process, which runs as whoever runs the tests.
NGINX = """
daemon off;
master_process off;
pid {folder}/pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {snippet}
}}
"""


@dataclass(frozen=True)
class Proxy:
    """A proxy that runs; both faces are at one port of 127.0.0.1."""

    port: int
    certificate: Path | None

    @property
    def origin(self) -> str:
        """The origin of this proxy's pages at the host of the documentation, without the port."""
        return f"{'https' if self.certificate else 'http'}://llm.example.org"

    def http(self, peer: str = "127.0.0.1") -> httpx.AsyncClient:
        """Return a client that calls from an address of the loopback."""
        scheme = "https" if self.certificate else "http"
        trust = ssl.create_default_context(cafile=self.certificate) if self.certificate else False
        transport = httpx.AsyncHTTPTransport(local_address=peer, verify=trust, trust_env=False)
        return httpx.AsyncClient(
            base_url=f"{scheme}://127.0.0.1:{self.port}", transport=transport, timeout=100
        )

    def channel(self) -> grpc.aio.Channel:
        target = f"127.0.0.1:{self.port}"
        if self.certificate is None:
            return grpc.aio.insecure_channel(target)
        trust = grpc.ssl_channel_credentials(self.certificate.read_bytes())
        return grpc.aio.secure_channel(target, trust)


@asynccontextmanager
async def nginx(rest: int, rpc: int, folder: Path) -> AsyncGenerator[Proxy]:
    """Run nginx before a service that listens at two ports of 127.0.0.1."""
    program, port = require_program("nginx"), free_port()
    certificate, key = _certificate(folder)
    snippet = _changed(
        "nginx",
        ("127.0.0.1:8000", f"127.0.0.1:{rest}"),
        ("127.0.0.1:50051", f"127.0.0.1:{rpc}"),
        ("443 ssl", f"127.0.0.1:{port} ssl"),
        ("/etc/ssl/llm.pem", str(certificate)),
        ("/etc/ssl/llm.key", str(key)),
    )
    file = folder / "nginx.conf"
    file.write_text(NGINX.format(folder=folder, snippet=snippet))
    async with _running(port, program, "-c", str(file), "-p", str(folder), "-e", "stderr"):
        yield Proxy(port, certificate)


@asynccontextmanager
async def envoy(
    rest: int, rpc: int, folder: Path, *changes: tuple[str, str]
) -> AsyncGenerator[Proxy]:
    """Run Envoy before a service that listens at two ports of 127.0.0.1."""
    if not ENVOY.exists():
        give_up("Envoy is not there: make test-envoy installs it")
    port = free_port()
    file = folder / "envoy.yaml"
    file.write_text(
        _changed(
            "yaml",
            ("address: 0.0.0.0, port_value: 8080", f"address: 127.0.0.1, port_value: {port}"),
            ("port_value: 8000", f"port_value: {rest}"),
            ("port_value: 50051", f"port_value: {rpc}"),
            *changes,
        )
    )
    flags = ("--disable-hot-restart", "--concurrency", "1", "--log-level", "error")
    async with _running(port, str(ENVOY), "-c", str(file), *flags):
        yield Proxy(port, None)


@asynccontextmanager
async def transcoder(rest: int, rpc: int, folder: Path) -> AsyncGenerator[Proxy]:
    """Run Envoy with the filter that answers the REST paths of the contract by itself."""
    router = "          - name: envoy.filters.http.router\n"
    added = _changed("yaml", ("/etc/envoy/descriptors.binpb", str(DESCRIPTORS)), which=1)
    async with envoy(rest, rpc, folder, (router, added + router)) as proxy:
        yield proxy


def _changed(language: str, *changes: tuple[str, str], which: int = 0) -> str:
    """Return a snippet of the documentation, with each text replaced that occurs once."""
    text = (ROOT / "docs" / "proxies.md").read_text()
    snippet = re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)[which]
    for old, new in changes:
        assert snippet.count(old) == 1, f"{old} is in docs/proxies.md {snippet.count(old)} times"
        snippet = snippet.replace(old, new)
    return str(snippet)


def _certificate(folder: Path) -> tuple[Path, Path]:
    certificate, key = folder / "llm.pem", folder / "llm.key"
    names = "subjectAltName=DNS:llm.example.org,IP:127.0.0.1"
    subprocess.run(
        [
            *(require_program("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes"),
            *("-days", "2", "-subj", "/CN=llm.example.org", "-addext", names),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key


@asynccontextmanager
async def _running(port: int, *command: str) -> AsyncGenerator[None]:
    """Run a program until it listens, and for the time of the block."""
    process = await asyncio.create_subprocess_exec(*command)

    try:
        await until(
            lambda: process.returncode is not None or not free(port),
            "the proxy did not listen",
            SLOWLY,
        )
        assert process.returncode is None, "the proxy has ended"
        yield
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
