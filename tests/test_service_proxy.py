"""A hub that only a proxy reaches, with certificates of a CA of its own."""

from __future__ import annotations

import os
import ssl
import subprocess
from collections.abc import AsyncGenerator, Iterator
from contextlib import closing, suppress
from pathlib import Path
from shutil import which

import docker
import pytest
from docker import DockerClient
from docker.errors import NotFound

from inference_service.catalog import BUILT_IN
from tests.docker import images
from tests.doubles.hub import HOSTS, Hub
from tests.doubles.proxy import Proxy, proxy
from tests.service import Serving, free_ports, serving

pytestmark = pytest.mark.docker

STORY = BUILT_IN.with_name("story_mini") / "story-mini.gguf"
NAME = f"inference-service-proxy-{os.getpid()}"
ENTRY = """
[[models]]
id = "fetched"
hf_name = "org/fetched"
context_length = 512
[models.llamacpp]
memory = "256MiB"
weights = { repo = "org/fetched", file = "m.gguf" }
"""


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """Make a CA, and a certificate for the hosts of the hub."""
    if which("openssl") is None:
        pytest.skip("makes certificates with openssl")
    new = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2")
    names = ",".join(f"DNS:{host}" for host in HOSTS)
    for arguments in (
        ("-subj", "/CN=tests", "-keyout", "ca.key", "-out", "ca.pem"),
        (
            *("-subj", "/CN=hub", "-keyout", "hub.key", "-out", "hub.pem"),
            *("-CA", "ca.pem", "-CAkey", "ca.key", "-addext", f"subjectAltName={names}"),
        ),
    ):
        subprocess.run([*new, *arguments], cwd=tmp_path, check=True, capture_output=True)
    return tmp_path


@pytest.fixture
def client(docker_client: DockerClient) -> Iterator[DockerClient]:
    with closing(docker.from_env()) as client:
        yield client
        with suppress(NotFound):
            client.volumes.get(NAME).remove()


@pytest.fixture
async def service(
    client: DockerClient,
    certificates: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncGenerator[tuple[Serving, Hub, Proxy]]:
    """A service whose containers reach the hub through the proxy alone."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "hub.pem", certificates / "hub.key")
    (tmp_path / "models.toml").write_text(ENTRY)
    gateway = client.networks.get("bridge").attrs["IPAM"]["Config"][0]["Gateway"]
    async with Hub(context) as hub, proxy(hub.ports) as via:
        hub.add("org/fetched", "m.gguf", STORY.read_bytes())
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HTTPS_PROXY", f"http://{gateway}:{via.port}")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "ca.pem"))
        async with serving(
            runtime="docker",
            catalog=tmp_path / "models.toml",
            llamacpp_image=images.llamacpp(client),
            service_name=NAME,
            volume=NAME,
            ports=free_ports(4),
        ) as service:
            yield service, hub, via


async def test_weights_come_through_a_proxy_into_a_container(
    service: tuple[Serving, Hub, Proxy],
) -> None:
    serving, hub, via = service
    body = {"model_id": "fetched", "prompt": "Once upon a time", "max_new_tokens": 5}
    answer = await serving.http.post("/generate", json=body)

    assert answer.status_code == 200, answer.text
    assert {*via.asked} == {*HOSTS}
    assert len(hub.sent()) > 0


async def test_a_volume_of_another_user_is_told(
    client: DockerClient, service: tuple[Serving, Hub, Proxy]
) -> None:
    client.containers.run(
        images.python_base(client),
        ["python", "-c", "import os; os.chown('/data', 1000, 1000); os.chmod('/data', 0o755)"],
        volumes={NAME: {"bind": "/data", "mode": "rw"}},
        remove=True,
    )
    answer = await service[0].http.post("/models/fetched/start")

    assert answer.status_code == 503
    detail = answer.json()["detail"]
    assert "Permission denied" in detail
    assert 'add `container = {cap_add = ["DAC_OVERRIDE"]}` to the section' in detail
