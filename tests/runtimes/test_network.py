"""What a container gets of the service's environment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from inference_service.runtimes.network import network

INSIDE = "localhost,127.0.0.1,::1,0.0.0.0"
FOLDER = "run/inference-service"


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "http_proxy", "ALL_PROXY", "https_proxy"])
def test_what_a_container_asks_on_its_own_address_needs_no_proxy(name: str) -> None:
    found = network({name: "http://proxy:3128", "HOME": "/root"})
    assert found == ({name: "http://proxy:3128", "no_proxy": INSIDE, "NO_PROXY": INSIDE}, {})


@pytest.mark.parametrize("name", ["no_proxy", "NO_PROXY"])
def test_hosts_without_a_proxy_stay(name: str) -> None:
    given = {"HTTPS_PROXY": "http://proxy", name: ".example, localhost ,10.0.0.0/8"}
    expected = ".example,localhost,10.0.0.0/8,127.0.0.1,::1,0.0.0.0"
    found = network(given).variables
    assert (found["no_proxy"], found["NO_PROXY"]) == (expected, expected)


def test_without_a_proxy_there_are_no_exceptions_to_it() -> None:
    assert network({"no_proxy": "a", "NO_PROXY": "b", "HTTPS_PROXY": ""}) == ({}, {})


@pytest.mark.parametrize(
    "proxy",
    [
        "http://127.0.0.1:3128",
        "127.0.0.1:3128",
        "localhost:3128",
        "socks5h://localhost",
        "http://user:password@127.8.0.1",
        "http://[::1]:3128",
        "http://proxy.localhost:1",
    ],
)
def test_a_proxy_on_the_loopback_cannot_be_reached(
    proxy: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert network({"HTTPS_PROXY": proxy}) == ({}, {})
    (record,) = caplog.records
    assert "HTTPS_PROXY names a proxy on the loopback" in record.getMessage()
    assert "password" not in record.getMessage()

    assert "no_proxy" in network({"HTTPS_PROXY": proxy, "HTTP_PROXY": "http://other"}).variables


@pytest.mark.parametrize("proxy", ["http://10.0.0.1:1", "proxy", "http://[fd00::1]:1", "http://[x"])
def test_any_other_proxy_is_passed_on(proxy: str) -> None:
    assert network({"HTTPS_PROXY": proxy}).variables["HTTPS_PROXY"] == proxy


def test_being_offline_is_passed_on_and_no_folder_of_this_machine() -> None:
    passed = {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HUB_DOWNLOAD_TIMEOUT": "60",
        "HF_HUB_DISABLE_XET": "1",
    }
    kept = ("HF_HOME", "HF_HUB_CACHE", "TRANSFORMERS_CACHE", "HF_TOKEN", "HF_TOKEN_PATH", "PATH")
    assert network(passed | dict.fromkeys(kept, "/x")) == (passed, {})


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_a_file_of_certificates(name: str, tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("CA")
    found = network({name: str(tmp_path / "ca.crt")})
    assert found == ({name: f"/{FOLDER}/{name}.pem"}, {f"{FOLDER}/{name}.pem": b"CA"})


@pytest.mark.parametrize("name", ["SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"])
def test_a_folder_of_certificates(name: str, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("CA")
    (tmp_path / "5ed36f99.0").symlink_to("ca.pem")  # by which OpenSSL finds it
    (tmp_path / "broken").symlink_to("nothing")
    (tmp_path / "below").mkdir()
    found = network({name: str(tmp_path)})
    files = {f"{FOLDER}/{name}/{file}": b"CA" for file in ("5ed36f99.0", "ca.pem")}
    assert found == ({name: f"/{FOLDER}/{name}"}, files)


def test_several_folders_become_one(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.pem").write_text(name)
    found = network({"SSL_CERT_DIR": f"{tmp_path / 'a'}{os.pathsep}{tmp_path / 'b'}"})
    assert [*found.files.values()] == [b"a", b"b"]


def test_certificates_that_are_not_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert network({"SSL_CERT_FILE": str(tmp_path / "gone.pem")}) == ({}, {})
    (record,) = caplog.records
    assert f"because of {tmp_path}/gone.pem" in record.getMessage()
