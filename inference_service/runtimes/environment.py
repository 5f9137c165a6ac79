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
        if _INHERITED.fullmatch(name) and not _SECRET.search(name) and name not in _NOT_INHERITED
    }


def _hub() -> dict[str, str]:
    own = {TOKEN: _token(), ENDPOINT: os.environ.get(ENDPOINT, "")}
    return {name: text for name, text in own.items() if text}


def _token() -> str:
    """Return the token of the hub, which a file can change while the service runs."""
    name = os.environ.get(TOKEN_FILE)
    if not name:
        return os.environ.get(TOKEN) or os.environ.get(_OLD_TOKEN, "")
    try:
        data = stored.read(expanded(name), _LARGEST_TOKEN)
        token = (data or b"").decode("ascii").strip()
    except ValueError as error:  # Damaged and UnicodeDecodeError are ValueErrors
        log.warning("%s cannot be read, so the hub gets no token: %s", name, error)
        return ""
    if not token or not token.isprintable() or " " in token:
        log.warning("%s has no token of one line, so the hub gets none", name)
        return ""
    return token
