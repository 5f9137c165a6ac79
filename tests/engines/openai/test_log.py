"""Progress and causes in the logs of vLLM 0.32, transformers 5.24, llama.cpp and others."""

from __future__ import annotations

import pytest

from inference_service.engines.openai.log import cause, progress
from inference_service.lifecycle import Phase

DOWNLOADING, LOADING = Phase.DOWNLOADING_WEIGHTS, Phase.LOADING_WEIGHTS


@pytest.mark.parametrize(
    ("line", "phase", "fraction", "message"),
    [
        (
            "(Worker pid=24875) INFO 11-27 23:45:31 [runner.py:68] Starting to load model /x...",
            LOADING,
            None,
            "Starting to load model /x...",
        ),
        (
            "Loading safetensors checkpoint shards:  50% Completed | 1/2 [00:00<00:00, 36.4it/s]",
            LOADING,
            0.5,
            "Loading safetensors checkpoint shards",
        ),
        (
            "Loading weights:   0%|          | 0/56\rLoading weights: 100%|███| 56/56 [00:00]",
            LOADING,
            1.0,
            "Loading weights",
        ),
        (
            "model.safetensors:  45%|████▌     | 450M/1.00G [00:10<00:12, 45.0MB/s]",
            DOWNLOADING,
            0.45,
            "model.safetensors",
        ),
        (
            "Fetching 7 files:  14%|█▍        | 1/7 [00:01<00:08]",
            DOWNLOADING,
            0.14,
            "Fetching 7 files",
        ),
        (
            "Capturing CUDA graphs (decode, FULL):  12%|█▏ | 4/35",
            None,
            None,
            "",
        ),
        (
            "(Worker pid=7) INFO 11-27 23:45:31 [x.py:68] Capturing the model for CUDA graphs.",
            Phase.WARMING_UP,
            None,
            "Capturing the model for CUDA graphs.",
        ),
        (
            "0.00.012.809 I load_model: loading model '/models/story.gguf'",
            LOADING,
            None,
            "load_model: loading model '/models/story.gguf'",
        ),
        ("INFO:     Waiting for application startup.", None, None, ""),
        ("still waiting", None, None, ""),
        ("", None, None, ""),
        ("\x1b[32mINFO\x1b[0m: nothing", None, None, ""),
    ],
)
def test_progress_is_what_a_line_surely_says(
    line: str, phase: Phase | None, fraction: float | None, message: str
) -> None:
    found = progress(line)

    if phase is None:
        assert found is None
    else:
        assert found is not None
        assert (found.phase, found.fraction, found.message) == (phase, fraction, message)


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        (["vllm: error: unrecognized arguments: --no-such-flag"],) * 2,
        (
            [
                "Traceback (most recent call last):",
                '  File "/usr/lib/python3/hub.py", line 595, in cached_files',
                '    raise OSError(f"{e}") from e',
                "OSError: Repo id must be in the form 'repo_name': '/models/nope'.",
            ],
            "OSError: Repo id must be in the form 'repo_name': '/models/nope'.",
        ),
        (
            [
                "pydantic_core.ValidationError: 1 validation error",
                "  Value error, max_model_len is 9",
                "    For further information visit https://errors.pydantic.dev",
            ],
            "pydantic_core.ValidationError: 1 validation error: Value error, max_model_len is 9",
        ),
        (
            [
                "usage: vllm serve [model_tag] [options]",
                "vllm serve: error: argument --config: 1 mistake",
                "  Value error, it needs xgrammar",
                "    For further information visit https://errors.pydantic.dev",
            ],
            "vllm serve: error: argument --config: 1 mistake: Value error, it needs xgrammar",
        ),
        (
            ["Value error, max_model_len is 9", "  For further information visit https://x"],
            "Value error, max_model_len is 9",
        ),
        (
            [
                "(EngineCore pid=7) ValueError: No available memory for the cache blocks.",
                "(APIServer pid=1) Traceback (most recent call last):",
                '(APIServer pid=1)   File "/usr/lib/python3/runpy.py", line 7',
                "(APIServer pid=1) RuntimeError: Engine core initialization failed. See above.",
                "/usr/tracker.py: resource_tracker: There appear to be 1 leaked",
            ],
            "ValueError: No available memory for the cache blocks.",
        ),
        (
            ["0.00.012.809 E srv  load_model: failed to load model, '/a.gguf'", "", "  "],
            "srv  load_model: failed to load model, '/a.gguf'",
        ),
        (
            ["ERROR:    [Errno 98] error while attempting to bind", "INFO:     Shutting down"],
            "[Errno 98] error while attempting to bind",
        ),
        # Killed from outside, by SIGKILL: the last report is no cause.
        (["(APIServer pid=1) INFO:     Application is ready.", "INFO 127.0.0.1 - 200 OK"], ""),
        (["2026-11-28 10:00:00,123 - server - INFO - POST /v1/completions"], ""),
        (["[2026-11-28 10:00:00] \x1b[33mWARNING\x1b[0m: slow"], ""),
        (['time=2026-11-28T10:00:00.000Z level=INFO msg="ready"', '{"level":"info"}'], ""),
        (["0.00.012.809 I srv  update_slots: all slots are idle"], ""),
        (["Loading safetensors checkpoint shards:  50% Completed | 1/2"], ""),
        (["out of memory", "INFO:     127.0.0.1 - 200 OK"], "out of memory"),
        ([], ""),
        (["", "INFO:     Finished server process [7]"], ""),
    ],
)
def test_a_cause_is_the_line_that_says_most(log: list[str], expected: str | list[str]) -> None:
    assert cause(log) == (expected if isinstance(expected, str) else expected[0])
