"""Causes that no retry mends, in the words that TGI, vLLM, SGLang and transformers end with."""

from __future__ import annotations

import pytest

from inference_service.engines.lasting import is_lasting
from inference_service.engines.openai.engine import Openai
from inference_service.engines.tgi.engine import Tgi


@pytest.mark.parametrize(
    "cause",
    [
        "GatedRepoError: 401 Client Error.; Cannot access gated repo for url X. Please log in.",
        "OSError: You are trying to access a gated repo.",
        "huggingface_hub.errors.RepositoryNotFoundError: 404 Client Error. (Request ID: x)",
        "HfHubHTTPError: 404 Client Error: Not Found for url: https://hub/x",
        "RemoteEntryNotFoundError: 404 Client Error. Entry Not Found for url: x.",
        "OSError: Repo id must be in the form 'repo_name': '/models/nope'.",
        "OSError: nope is not a local folder and is not a valid model identifier listed on x",
        "OSError: a/b does not appear to have a file named config.json.",
        "FileNotFoundError: No local weights found in /data/x with extension .bin",
        "ValueError: Unsupported model type x",
        "ValueError: Unrecognized model in a/b. Should have a `model_type` key in its config.json",
        "ValueError: Model architectures ['X'] are not supported for now.",
        "pydantic_core.ValidationError: 1 validation error: Value error, max_model_len is 9",
        'Error: ArgumentValidation("`validation_workers` must be > 0")',
        "api_server.py: error: unrecognized arguments: --nope",
        "error: invalid value 'x' for '--port <PORT>': invalid digit found in string",
        "safetensors_rust.SafetensorError: Error while deserializing header: HeaderTooLarge",
    ],
)
def test_a_cause_that_somebody_has_to_mend(cause: str) -> None:
    assert is_lasting(cause)


@pytest.mark.parametrize(
    "cause",
    [
        "",
        "OSError: no route",
        "LocalEntryNotFoundError: An error happened while trying to locate the file on the Hub",
        "HfHubHTTPError: 500 Server Error for url: https://hub/x",
        "HfHubHTTPError: 429 Client Error: Too Many Requests for url: https://hub/x",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 172.00 MiB.",
        "ValueError: No available memory for the cache blocks.",
        "RuntimeError: CUDA error: device-side assert triggered",
        "OSError: [Errno 28] No space left on device",
    ],
)
def test_a_cause_that_may_pass(cause: str) -> None:
    assert not is_lasting(cause)


def test_engines_look_at_the_cause_and_not_at_all_lines() -> None:
    """vLLM warns of a gated repository that it then finds in its cache."""
    passing = ["OSError: You are trying to access a gated repo.", "INFO: ready", "Killed"]
    lasting = ["INFO: downloading", "ValueError: Unsupported model type x"]

    assert Openai().is_lasting(lasting)
    assert Tgi("").is_lasting(lasting)
    assert not Tgi("").is_lasting(passing)
