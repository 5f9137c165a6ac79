"""What an engine gets of the service's own environment."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from inference_service.engines.tgi.engine import Tgi
from inference_service.runtimes.environment import inherited, variables
from tests.engines.beds import SEAT, tgi_spec

# What people set for engines on the machines of their own, and what no engine needs.
PASSED = """\
PATH HOME USER LANG LC_ALL TZ TMPDIR XDG_CACHE_HOME LD_LIBRARY_PATH LD_PRELOAD PYTHONPATH
VIRTUAL_ENV CONDA_PREFIX CUDA_VISIBLE_DEVICES CUDA_HOME CUDA_DEVICE_ORDER
NVIDIA_VISIBLE_DEVICES NVIDIA_DRIVER_CAPABILITIES NCCL_P2P_DISABLE OMP_NUM_THREADS KMP_AFFINITY
MKL_NUM_THREADS HIP_VISIBLE_DEVICES HSA_OVERRIDE_GFX_VERSION ROCR_VISIBLE_DEVICES
GPU_DEVICE_ORDINAL ONEAPI_DEVICE_SELECTOR ZE_AFFINITY_MASK HABANA_VISIBLE_DEVICES
PYTORCH_CUDA_ALLOC_CONF TORCH_HOME TRITON_CACHE_DIR VLLM_ATTENTION_BACKEND
VLLM_CPU_KVCACHE_SPACE GGML_CUDA_ENABLE_UNIFIED_MEMORY LLAMA_ARG_THREADS CC CPATH LIBRARY_PATH
XLA_FLAGS HF_HOME HF_HUB_OFFLINE HF_TOKEN_PATH HF_HUB_CACHE HUGGINGFACE_HUB_CACHE
TRANSFORMERS_OFFLINE TRANSFORMERS_CACHE TOKENIZERS_PARALLELISM SSL_CERT_FILE SSL_CERT_DIR
REQUESTS_CA_BUNDLE CURL_CA_BUNDLE HTTPS_PROXY https_proxy no_proxy NO_PROXY ALL_PROXY""".split()
KEPT = """\
AWS_SECRET_ACCESS_KEY AWS_ACCESS_KEY_ID GITHUB_TOKEN DATABASE_URL PGPASSWORD INFERENCE_PORTS
OPENAI_API_KEY HF_TOKEN HUGGING_FACE_HUB_TOKEN HF_TOKEN_FILE VLLM_API_KEY LLAMA_API_KEY
LLAMACPP_API_KEY LLAMACPP_CHAT_TEMPLATE DOCKER_HOST SSH_AUTH_SOCK KUBECONFIG
CREDENTIALS_DIRECTORY MY_PATH PATHS HOMEPAGE vllm_api_key NOTIFY_SOCKET LISTEN_FDS""".split()


def test_engines_get_what_they_need_to_run() -> None:
    assert inherited(dict.fromkeys(PASSED, "x")).keys() == set(PASSED)


def test_engines_do_not_get_what_is_of_no_use_to_them() -> None:
    assert inherited(dict.fromkeys(KEPT, "x")) == {}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("VLLM_PORT", "tcp://10.96.0.12:8000"),  # of Kubernetes, for a service `vllm`
        ("LLAMA_PORT", "udp://10.96.0.12:8000"),
        ("HF_HUB_ETAG_TIMEOUT", ""),  # with which huggingface_hub ends
        ("TRANSFORMERS_OFFLINE", " "),
    ],
)
def test_engines_do_not_get_what_they_fail_with(name: str, text: str) -> None:
    assert inherited({name: text}) == {}


def test_what_says_something_by_being_empty_is_passed() -> None:
    assert inherited({"CUDA_VISIBLE_DEVICES": ""}) == {"CUDA_VISIBLE_DEVICES": ""}


@pytest.mark.parametrize("text", ["hf_\u00e4", "hf_a\nhf_b", "hf a", "hf_\x1b"])
def test_a_variable_without_a_token(
    text: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("HF_ENDPOINT", "HF_TOKEN_FILE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    assert variables({}).hub == {}  # there is none, which is no mistake
    monkeypatch.setenv("HF_TOKEN", " ")
    assert variables({}).hub == {}
    assert not caplog.messages

    monkeypatch.setenv("HF_TOKEN", text)
    for _ in range(3):
        assert variables({}).hub == {}
    assert caplog.messages == ["HF_TOKEN has no token of one line, so the hub gets none"]

    monkeypatch.setenv("HF_TOKEN", " hf_good\n")
    monkeypatch.setenv("HF_ENDPOINT", " http://hub ")
    assert variables({}).hub == {"HF_TOKEN": "hf_good", "HF_ENDPOINT": "http://hub"}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_variable")
    monkeypatch.setenv("HF_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    return tmp_path / "token"


def test_the_old_name_of_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "HF_ENDPOINT", "HF_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", "hf_old")
    assert variables({}).hub == {"HF_TOKEN": "hf_old"}


def test_a_token_in_a_file_is_read_anew_at_each_start(file: Path) -> None:
    file.write_text("hf_first\n")
    first = Tgi("").command(tgi_spec(), SEAT)
    file.write_text("hf_second\r\n")
    second = Tgi("").command(tgi_spec(), SEAT)

    assert (first.hub, second.hub) == ({"HF_TOKEN": "hf_first"}, {"HF_TOKEN": "hf_second"})
    assert "hf_second" in second.hidden
    assert first == second  # a new token restarts no engine
    assert "hf_" not in repr(second)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: None,
        Path.touch,
        Path.mkdir,
        os.mkfifo,
        lambda path: path.symlink_to(path.name),
        lambda path: path.write_bytes(b"\xff" * 40),
        lambda path: path.write_text("one\ntwo"),
        lambda path: path.write_text("x" * 5000),
        lambda path: path.symlink_to("/dev/zero"),
    ],
)
def test_a_file_without_a_token(
    file: Path, damage: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    damage(file)
    assert variables({}).hub == {}
    (record,) = caplog.records
    assert str(file) in record.getMessage()


def test_the_token_of_an_entry_goes_before_that_of_the_service(file: Path) -> None:
    file.write_text("hf_first")
    assert variables({"HF_TOKEN": "hf_own"}) == ({}, {"HF_TOKEN": "hf_own"}, {})
