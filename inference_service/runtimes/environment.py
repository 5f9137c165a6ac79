"""The variables of an engine: its own, those of the hub, and what a process inherits."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from inference_service import stored
from inference_service.home import expanded

log = logging.getLogger(__name__)

TOKEN, ENDPOINT, TOKEN_FILE = "HF_TOKEN", "HF_ENDPOINT", "HF_TOKEN_FILE"

_warned = ""  # the last warning, until there is a token

_OLD_TOKEN = "HUGGING_FACE_HUB_TOKEN"  # which huggingface_hub still reads, and TGI

_SECRET = re.compile("(TOKEN|SECRET|PASSWORD|KEY)$", re.I)
_LARGEST_TOKEN = 1 << 12  # bytes

# What a process inherits of the service's own environment; its secrets are those of nobody else.
# Programs on GPUs fail, or run on the CPU, without most of the second group (odysseus#831,
# pytorch#197163). No name that ends as a secret's is among them: see `inherited`.
_INHERITED = re.compile(
    "PATH|HOME|USER|LOGNAME|SHELL|LANG|LANGUAGE|LC_.*|TZ|TERM|TMPDIR|TMP|TEMP|XDG_.*|SYSTEMROOT"
    "|LD_.*|DYLD_.*|NIX_LD.*|LIBRARY_PATH|CPATH|C_INCLUDE_PATH|CPLUS_INCLUDE_PATH|CC|CXX|PYTHON.*|VIRTUAL_ENV|CONDA_PREFIX|GLIBC_TUNABLES|MALLOC_.*|MIMALLOC_.*"
    "|(CUDA|CUDNN|CUBLAS|NVIDIA|NCCL|NVSHMEM|UCX|OMP|GOMP|KMP|MKL|OPENBLAS|BLIS|TBB)_.*"
    "|(HIP|HSA|ROCR|ROCM|ROCBLAS|HIPBLASLT|RCCL|MIOPEN|AMD|GPU|ONEAPI|SYCL|ZE|CCL|HABANA|NEURON|ASCEND)_.*"
    "|(GGML|LLAMA|VLLM|FLASHINFER|SGLANG|TORCH|TORCHINDUCTOR|PYTORCH|TRITON|JAX|XLA|TPU)_.*"
    "|(TOKENIZERS|SAFETENSORS)_.*"
    "|(HF|HUGGINGFACE|HUGGING_FACE|TRANSFORMERS|DATASETS)_.*"
    "|SSL_CERT_(FILE|DIR)|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE"
    "|(?i:https?|all|no|ftp)_(?i:proxy)"
)
_NOT_INHERITED = (TOKEN_FILE,)

# Kubernetes sets VLLM_PORT=tcp://10.96.0.12:8000 in each container, for a service `vllm`; vLLM and
# others then fail.
_OF_KUBERNETES = re.compile(r"(tcp|udp|sctp)://")
# The libraries of the hub fail with some that are empty; of others, such as CUDA_VISIBLE_DEVICES,
# an empty one says something.
_NOT_EMPTY = re.compile("(HF|HUGGINGFACE|HUGGING_FACE|TRANSFORMERS|DATASETS)_.*")


class Variables(NamedTuple):
    """The variables of an engine: plain ones, secrets, and those of the hub."""

    plain: dict[str, str]
    secret: dict[str, str]
    hub: dict[str, str]


def variables(given: Mapping[str, str], key_name: str | None = None) -> Variables:
    """Divide the variables that an engine is given, and add those of the hub.

    A variable is a secret by its name, or as the one with the key. Those of the hub are this
    service's own, as they are now. They are in no digest: an engine with its weights on the disk
    does not need them.
    """
    secret = {n: text for n, text in given.items() if n == key_name or _SECRET.search(n)}
    plain = {name: text for name, text in given.items() if name not in secret}
    hub = {name: text for name, text in _hub().items() if name not in given}
    return Variables(plain, secret, hub)


def inherited(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a process inherits of this environment."""
    return {
        name: text
        for name, text in environment.items()
        if _INHERITED.fullmatch(name)
        and not _SECRET.search(name)
        and name not in _NOT_INHERITED
        and not _OF_KUBERNETES.match(text)
        and (text.strip() or not _NOT_EMPTY.fullmatch(name))
    }


def _hub() -> dict[str, str]:
    own = {TOKEN: _token(), ENDPOINT: os.environ.get(ENDPOINT, "").strip()}
    return {name: text for name, text in own.items() if text}


def _token() -> str:
    """Return the token of the hub, which a file can change while the service runs."""
    if not (name := os.environ.get(TOKEN_FILE)):
        name = TOKEN if os.environ.get(TOKEN, "").strip() else _OLD_TOKEN
        text = os.environ.get(name, "")
        return _checked(name, text) if text.strip() else ""
    try:
        data = stored.read(expanded(name), _LARGEST_TOKEN)
        if data is None:
            raise ValueError("there is no such file")
        text = data.decode("ascii")
    except ValueError as error:  # Damaged and UnicodeDecodeError are ValueErrors
        _warn(f"{name} cannot be read, so the hub gets no token: {error}")
        return ""
    return _checked(name, text)


def _checked(name: str, text: str) -> str:
    token = text.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        _warn(f"{name} has no token of one line, so the hub gets none")
        return ""
    _warn("")
    return token


def _warn(line: str) -> None:
    """Log a warning, unless it is the last one again: a start asks for the token several times."""
    global _warned
    if line and line != _warned:
        log.warning("%s", line)
    _warned = line
