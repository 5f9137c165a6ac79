"""What to do about causes that the service has brought about."""

from __future__ import annotations

import pytest

from inference_service.engines.advice import advised


@pytest.mark.parametrize(
    "cause",
    [
        "PermissionError: [Errno 13] Permission denied: '/data/models--gpt2'",
        "The cache /data/hub cannot be used: [Errno 13] Permission denied: '/data/hub'.",
        'Error: Permission denied (os error 13) at "/data/tokenizer.json"',
        "error loading model: failed to open /model/mine.gguf: Permission denied",
    ],
)
def test_a_right_that_a_container_lacks(cause: str) -> None:
    said = advised(cause)
    assert said.startswith(cause.rstrip("."))
    assert "; a container has no right to files of other users" in said
    assert '`container = {cap_add = ["DAC_OVERRIDE"]}`' in said
    assert "`chmod a+r`" in said


@pytest.mark.parametrize(
    "cause",
    [
        "",
        "CUDA out of memory",
        "PermissionError: [Errno 13] Permission denied: '/home/user/.cache'",
        "PermissionError: [Errno 13] Permission denied: '/srv/data/x'",
        "FileNotFoundError: [Errno 2] No such file or directory: '/data/x'",
    ],
)
def test_any_other_cause_stays(cause: str) -> None:
    assert advised(cause) == cause
