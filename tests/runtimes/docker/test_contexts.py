"""The choice of a daemon by the files of the `docker` command, without a daemon."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from inference_service.errors import ContextUnusable
from inference_service.runtimes.docker import endpoint
from inference_service.runtimes.docker.endpoint import Endpoint


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the command's files, with nothing in it; no variable names a daemon."""
    for name in ("HOST", "CONTEXT", "TLS", "TLS_VERIFY", "CERT_PATH"):
        monkeypatch.delenv(f"DOCKER_{name}", raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    return tmp_path


def digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def add(folder: Path, name: str, host: str = "unix:///far.sock", **docker: Any) -> Path:
    """Write a context as the command does, and return its file."""
    file = folder / "contexts" / "meta" / digest(name) / "meta.json"
    file.parent.mkdir(parents=True)
    docker = {"Host": host, "SkipTLSVerify": False} | docker
    file.write_text(json.dumps({"Name": name, "Metadata": {}, "Endpoints": {"docker": docker}}))
    return file


def add_certificates(folder: Path, name: str, *files: str) -> Path:
    place = folder / "contexts" / "tls" / digest(name) / "docker"
    place.mkdir(parents=True)
    for file in files:
        (place / f"{file}.pem").write_text(file)
    return place


def use(folder: Path, name: str) -> None:
    (folder / "config.json").write_text(json.dumps({"auths": {}, "currentContext": name}))


def test_the_default_socket() -> None:
    assert endpoint.find() == Endpoint("unix:///var/run/docker.sock")


def test_the_context_in_use(folder: Path) -> None:
    add(folder, "colima")
    use(folder, "colima")

    assert endpoint.find() == Endpoint("unix:///far.sock", "colima")
    assert str(endpoint.find()) == "unix:///far.sock (context colima)"


def test_a_variable_wins_over_the_file_and_the_address_over_both(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(folder, "colima")
    add(folder, "other", "tcp://other:1")
    use(folder, "colima")
    monkeypatch.setenv("DOCKER_CONTEXT", "other")
    assert endpoint.find() == Endpoint("tcp://other:1", "other")

    monkeypatch.setenv("DOCKER_HOST", " unix:///mine.sock ")
    assert endpoint.find() == Endpoint("unix:///mine.sock")


def test_the_context_default_is_the_default_socket(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(folder, "colima")
    use(folder, "colima")
    monkeypatch.setenv("DOCKER_CONTEXT", "default")

    assert endpoint.find() == Endpoint("unix:///var/run/docker.sock")


def test_a_variable_without_a_file_of_the_command(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SDK looks in the current folder then."""
    add(folder, "colima")
    monkeypatch.setenv("DOCKER_CONTEXT", "colima")

    assert endpoint.find().address == "unix:///far.sock"


def test_a_context_that_does_not_exist_is_named_with_who_chose_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(folder, "gone")
    with pytest.raises(ContextUnusable, match=rf"context gone, chosen by .*{folder}/config.json"):
        endpoint.look()

    monkeypatch.setenv("DOCKER_CONTEXT", "lost")
    with pytest.raises(ContextUnusable, match="context lost, chosen by DOCKER_CONTEXT, does not"):
        endpoint.find()


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"Endpoints": {"docker": {"Host": 1}}}'])
def test_a_context_that_cannot_be_read(folder: Path, content: str) -> None:
    file = add(folder, "colima")
    use(folder, "colima")
    file.write_text(content)

    with pytest.raises(ContextUnusable, match=f"colima.* (cannot be read from|in) {file}"):
        endpoint.find()


@pytest.mark.parametrize("content", ["{", "[]", '{"currentContext": 3}', '{"currentContext": ""}'])
def test_a_file_that_names_no_context(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)

    assert endpoint.find() == Endpoint("unix:///var/run/docker.sock")


def test_a_context_with_certificates(folder: Path) -> None:
    add(folder, "far", "tcp://far:2376")
    place = add_certificates(folder, "far", "ca", "cert", "key")
    use(folder, "far")
    tls = endpoint.find().tls

    assert tls is not None
    assert (tls.ca, tls.cert, tls.key) == tuple(place / f"{f}.pem" for f in ("ca", "cert", "key"))
    assert tls.verify


def test_a_context_with_a_certificate_that_is_not_checked(folder: Path) -> None:
    add(folder, "far", "tcp://far", SkipTLSVerify=True)
    add_certificates(folder, "far", "ca")
    use(folder, "far")
    found = endpoint.find()

    assert found.address == "tcp://far:2376"
    assert found.tls is not None
    assert (found.tls.cert, found.tls.verify) == (None, False)


@pytest.mark.parametrize(
    ("host", "variables", "address", "verify"),
    [
        ("far", {}, "tcp://far:2375", None),
        ("tcp://far", {"DOCKER_TLS_VERIFY": "1"}, "tcp://far:2376", True),
        ("tcp://far:99", {"DOCKER_TLS_VERIFY": "", "DOCKER_TLS": "1"}, "tcp://far:99", False),
        ("tcp://far:99", {"DOCKER_CERT_PATH": "."}, "tcp://far:99", False),
        ("", {"DOCKER_TLS_VERIFY": "1"}, "tcp://localhost:2376", True),
        ("", {"DOCKER_TLS_VERIFY": ""}, "unix:///var/run/docker.sock", None),
        ("ssh://u@far", {}, "ssh://u@far", None),
    ],
)
def test_the_variables(
    monkeypatch: pytest.MonkeyPatch,
    host: str,
    variables: dict[str, str],
    address: str,
    verify: bool | None,
) -> None:
    for name, value in {"DOCKER_HOST": host, **variables}.items():
        monkeypatch.setenv(name, value)
    found = endpoint.find()

    assert found.address == address
    assert (found.tls and found.tls.verify) == verify


def test_the_host_of_an_address() -> None:
    assert Endpoint("tcp://far:1").host == "far"
    assert Endpoint("tcp://[::1]:1").host == "::1"
    assert Endpoint("ssh://u@far").host == "far"
    assert Endpoint("unix:///x").host == ""


@pytest.mark.skipif(shutil.which("docker") is None, reason="the program docker is not installed")
def test_a_context_that_the_command_has_made(folder: Path) -> None:
    """Its files are where this service looks for them."""
    make = ["docker", "context", "create", "colima", "--docker", "host=tcp://127.0.0.1:1"]
    subprocess.run(make, check=True, capture_output=True)
    subprocess.run(["docker", "context", "use", "colima"], check=True, capture_output=True)

    assert endpoint.find() == Endpoint("tcp://127.0.0.1:1", "colima")
