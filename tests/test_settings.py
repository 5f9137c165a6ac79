"""The settings of an operator, by flag and by environment."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
from pydantic import ValidationError
from pydantic_settings import CliApp

from inference_service import __version__
from inference_service.settings import Settings


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the settings of this machine's own environment."""
    for name in list(os.environ):
        if name.upper().startswith("INFERENCE_"):
            monkeypatch.delenv(name)


def flags(*arguments: str) -> Settings:
    return CliApp.run(Settings, cli_args=list(arguments))


def test_the_defaults_are_the_documented_ones() -> None:
    settings = flags()

    assert (settings.host, settings.grpc_port, settings.rest_port) == ("127.0.0.1", 50051, 8000)
    assert (settings.rest, settings.runtime, settings.engine) == (True, "auto", "auto")
    assert (settings.catalog, settings.port_range) == (None, (8080, 8179))
    assert settings.generation_timeout == 60
    assert (settings.start_stall_timeout, settings.drain_timeout) == (600, 30)
    assert (settings.ping_interval, settings.client_ping_interval) == (30, 10)
    assert (settings.hang_timeout, settings.idle_connection_timeout) == (120, 75)
    assert (settings.idle_timeout, settings.max_idle_timeout) == (900, 3600)
    assert (settings.memory, settings.min_residency) == (None, 10)
    assert settings.images["llamacpp"].endswith(f":{__version__}")


VALUES = [
    ("host", "0.0.0.0", "0.0.0.0"),
    ("grpc_port", "0", 0),
    ("rest_port", "65535", 65535),
    ("allowed_host", "LLM.example.org., *.lan", ["llm.example.org", "*.lan"]),
    ("cors_origin", "https://a.example:443,tauri://b", ["https://a.example", "tauri://b"]),
    ("trusted_proxy", "10.0.0.0/8, ::1", ["10.0.0.0/8", "::1/128"]),
    ("idle_connection_timeout", "90", 90.0),
    ("ping_interval", "60", 60.0),
    ("client_ping_interval", "5", 5.0),
    ("runtime", "process", "process"),
    ("engine", "llamacpp", "llamacpp"),
    ("catalog", "a/b.toml", Path("a/b.toml")),
    ("ports", "1-65535", "1-65535"),
    ("tgi_image", "x:1", "x:1"),
    ("llamacpp_image", "y:2", "y:2"),
    ("pull_policy", "never", "never"),
    ("volume", "v", "v"),
    ("docker_network", "lan", "lan"),
    ("service_name", "a.b_c-1", "a.b_c-1"),
    ("generation_timeout", "0.5", 0.5),
    ("answer_timeout", "0.5", 0.5),
    ("max_body", "64MiB", 64 << 20),
    ("start_stall_timeout", "1", 1.0),
    ("hang_timeout", "inf", math.inf),
    ("drain_timeout", "0", 0.0),
    ("idle_timeout", "inf", math.inf),
    ("max_idle_timeout", "0", 0.0),
    ("memory", "16GB", 16 * 10**9),
    ("gpu_memory", "20GB, 40GB", "20GB, 40GB"),
    ("min_residency", "0.5", 0.5),
    ("queue_size", "0", 0),
    ("queue_timeout", "inf", math.inf),
    ("write_timeout", "5", 5.0),
    ("state_dir", "a/b", Path("a/b")),
    ("log_level", "debug", "debug"),
]


def test_these_are_all_settings() -> None:
    assert {name for name, *_ in VALUES} | {"rest", "leave_containers", "access_log"} == set(
        Settings.model_fields
    )


def test_the_folder_for_data_that_outlives_the_service(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    assert flags().state_path == Path("/home/somebody/.local/state/inference-service")
    monkeypatch.setenv("XDG_STATE_HOME", "not/absolute")  # which its specification forbids
    assert flags().state_path == Path("/home/somebody/.local/state/inference-service")
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert flags().state_path == Path("/state/inference-service")
    assert flags("--state-dir", "/mine").state_path == Path("/mine")
    assert flags("--state-dir=~/mine").state_path == Path("/home/somebody/mine")
    assert flags("--catalog=~/a.toml").catalog == Path("/home/somebody/a.toml")
    assert flags("--catalog=~no-such-user/a").catalog == Path("~no-such-user/a")


@pytest.mark.parametrize(("name", "text", "value"), VALUES)
def test_a_setting_is_a_flag_and_a_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, value: object
) -> None:
    flag = "--" + name.replace("_", "-")
    assert getattr(flags(flag, text), name) == value
    assert getattr(flags(f"{flag}={text}"), name) == value

    monkeypatch.setenv(f"INFERENCE_{name.upper()}", text)

    assert getattr(flags(), name) == value


def test_a_flag_of_a_list_is_repeated_or_has_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    assert flags("--allowed-host", "a", "--allowed-host=b,c").allowed_host == ["a", "b", "c"]

    monkeypatch.setenv("INFERENCE_ALLOWED_HOST", "")

    assert flags().allowed_host == []


def test_a_flag_wins_over_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFERENCE_GRPC_PORT", "1")

    assert flags("--grpc-port", "2").grpc_port == 2


def test_the_variables_of_kubernetes_are_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """It sets them in each container, for a service with the name `inference-grpc`."""
    monkeypatch.setenv("INFERENCE_GRPC_PORT", "tcp://10.96.0.12:50051")
    monkeypatch.setenv("INFERENCE_REST_PORT", "tcp://10.96.0.12:8000")

    assert (flags().grpc_port, flags().rest_port) == (50051, 8000)


def test_the_variables_of_links_of_docker_are_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """`docker run --link x:inference_service` sets them."""
    monkeypatch.setenv("INFERENCE_SERVICE_NAME", "/web/inference_service")

    assert flags().service_name == Settings.model_fields["service_name"].default


@pytest.mark.parametrize("name", [*Settings.model_fields])
def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(f"INFERENCE_{name.upper()}", "")

    assert flags() == Settings.model_construct()


def test_the_memory_of_gpus_is_one_size_or_one_for_each() -> None:
    assert flags().gpu_limits == ()
    assert flags("--gpu-memory", "24GiB").gpu_limits == (24 * 2**30,)
    assert flags("--gpu-memory", "20GB, 40GB").gpu_limits == (20 * 10**9, 40 * 10**9)


@pytest.mark.parametrize("runtime", ["auto", "docker"])
def test_an_engine_of_docker_goes_with_a_runtime_that_can_be_docker(runtime: str) -> None:
    assert flags("--engine", "tgi", "--runtime", runtime).engine == "tgi"


def test_an_engine_of_docker_does_not_go_with_processes() -> None:
    with pytest.raises(ValidationError, match="tgi runs in Docker alone, and not with --runtime"):
        flags("--engine", "tgi", "--runtime", "process")
    for engine in ("auto", "llamacpp", "openai"):
        assert flags("--engine", engine, "--runtime", "process").engine == engine


def test_rest_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    assert flags("--rest").rest is True
    assert flags("--no-rest").rest is False

    monkeypatch.setenv("INFERENCE_REST", "false")

    assert flags().rest is False
    assert flags("--rest").rest is True


def test_calls_are_logged_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert flags().access_log is False
    assert flags("--access-log").access_log is True
    monkeypatch.setenv("INFERENCE_ACCESS_LOG", "1")
    assert flags().access_log is True


def test_containers_are_left_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert flags().leave_containers is False
    assert flags("--leave-containers").leave_containers is True

    monkeypatch.setenv("INFERENCE_LEAVE_CONTAINERS", "1")

    assert flags().leave_containers is True
    assert flags("--no-leave-containers").leave_containers is False


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *[("grpc_port", text) for text in ("-1", "65536", "many", "1.5")],
        ("rest_port", "65536"),
        *[("allowed_host", text) for text in ("http://a", "a:8000", "a/b", "a..b", "*.*.a", "a b")],
        *[("cors_origin", text) for text in ("a.example", "https://a/", "https://*.a", "null")],
        *[("cors_origin", text) for text in ("https://a/b", "https://me@a", "://a", "https://a?b")],
        *[("trusted_proxy", text) for text in ("*", "proxy", "10.0.0.1:80", "10.0.0.1/8", "1.2.3")],
        ("rest", "perhaps"),
        ("runtime", "podman"),
        ("engine", "vllm"),
        ("pull_policy", "sometimes"),
        ("log_level", "DEBUG"),
        *[("service_name", text) for text in ("-x", "a b", "x" * 64)],
        *[("generation_timeout", text) for text in ("0", "-1", "soon", "nan")],
        *[("start_stall_timeout", text) for text in ("0", "-1")],
        *[("hang_timeout", text) for text in ("0", "-1", "nan")],
        *[(f"{name}_timeout", "-0.1") for name in ("drain", "idle", "max_idle")],
        ("idle_timeout", "nan"),
        ("min_residency", "-1"),
        *[(f"{name}ping_interval", text) for name in ("", "client_") for text in ("inf", "1e9")],
        *[("memory", text) for text in ("16", "lots", "5MiB", "-1GB")],
        *[("gpu_memory", text) for text in ("16", "20GB,", "20GB;40GB", "all")],
        *[
            ("ports", text)
            for text in ("8080", "8080-", "-8080", "8081-8080", "0-9", "1-65536", "1-2-3")
        ],
        *[("ports", text) for text in ("a-b", "8080 - 8081", "+1-2", "²-³")],
    ],
)
def test_a_wrong_value_is_refused_with_the_name_of_its_setting(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    monkeypatch.setenv(f"INFERENCE_{name.upper()}", text)

    with pytest.raises(ValidationError) as refused:
        flags()

    [problem] = refused.value.errors()
    assert problem["loc"] == (name,)
    assert problem["input"] == text


def test_the_largest_body_is_one_that_grpc_can_carry() -> None:
    assert flags("--max-body=2GB").max_body == 2 * 10**9
    with pytest.raises(ValidationError, match="max_body"):
        flags("--max-body=2GiB")


@pytest.mark.parametrize("name", ["host", "volume", "tgi_image", "llamacpp_image", "ports"])
def test_an_empty_flag_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        flags(f"--{name.replace('_', '-')}=")


@pytest.mark.parametrize(
    ("text", "ports"), [("8080-8080", (8080, 8080)), ("08080-8179", (8080, 8179))]
)
def test_ports_are_a_range(text: str, ports: tuple[int, int]) -> None:
    assert flags("--ports", text).port_range == ports
