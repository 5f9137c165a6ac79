"""Progress and causes in TGI's log, in the shapes of version 3.3.7."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from inference_service.engines.tgi import log as tgi_log
from inference_service.lifecycle import Phase, Progress

TIME = "2026-01-08T16:03:07.829288Z"

Shape = Callable[[str, str], str]


def launcher_json(message: str, level: str = "INFO") -> str:
    """Make a line of the launcher, which passes on those of the Python shards."""
    record = {"timestamp": TIME, "level": level, "fields": {"message": message}}
    span = {"rank": 0, "name": "shard-manager"}
    target = {"target": "text_generation_launcher", "span": span, "spans": [span]}
    return json.dumps(record | target)


def router_json(message: str, level: str = "INFO") -> str:
    """Make a line of the router, which is flattened."""
    record = {"timestamp": TIME, "level": level, "message": message}
    place = {"filename": "router/src/server.rs", "line_number": 1741}
    return json.dumps(record | {"target": "text_generation_router::server"} | place)


def request_json(message: str, target: str = "backend", span: str = "send_error") -> str:
    """Make the line of the router for the failure of a request."""
    record = {"timestamp": TIME, "level": "ERROR", "message": message}
    record |= {"target": f"text_generation_router_v3::{target}"}
    return json.dumps(record | {"span": {"name": span}, "spans": [{"name": "infer"}]})


def failed_request(error: str) -> list[str]:
    """Make the lines of a batch of one that fails."""
    return [
        request_json(f"Server error: {error}", "client", "decode"),
        request_json(f"Request failed during generation: Server error: {error}"),
    ]


def launcher_text(message: str, level: str = "INFO") -> str:
    return f"{_head(level)} \x1b[2mtext_generation_launcher\x1b[0m\x1b[2m:\x1b[0m {message}"


def span_text(message: str, level: str = "INFO") -> str:
    """Make a line of the launcher within a span, whose fields follow the message."""
    return (
        f"{_head(level)} \x1b[1mshard-manager\x1b[0m: \x1b[2mtext_generation_launcher\x1b[0m"
        f"\x1b[2m:\x1b[0m {message} \x1b[2m\x1b[3mrank\x1b[0m\x1b[2m=\x1b[0m0\x1b[0m"
    )


def router_text(message: str, level: str = "INFO") -> str:
    """Make a line of the router, with its source and line number before the message."""
    return (
        f"{_head(level)} \x1b[2mtext_generation_router_v3\x1b[0m\x1b[2m:\x1b[0m "
        f"\x1b[2mbackends/v3/src/lib.rs\x1b[0m\x1b[2m:\x1b[0m\x1b[2m125:\x1b[0m {message}"
    )


def plain_text(message: str, level: str = "INFO") -> str:
    """Make a line of the launcher with NO_COLOR."""
    return f"{TIME} {level.rjust(5)} download: text_generation_launcher: {message}"


def _head(level: str) -> str:
    return f"\x1b[2m{TIME}\x1b[0m \x1b[32m{level.rjust(5)}\x1b[0m"


SHAPES = [launcher_json, router_json, launcher_text, span_text, router_text, plain_text]

DOWNLOADING, LOADING, WARMING = (
    Phase.DOWNLOADING_WEIGHTS,
    Phase.LOADING_WEIGHTS,
    Phase.WARMING_UP,
)


# The lines of a start, in their order.
LINES: dict[str, Phase | None] = {
    'Args {\n    model_id: "gpt2",\n}': None,
    "Using attention flashinfer - Prefix caching true": None,
    "Sharding model on 2 processes": None,
    "Default `max_batch_prefill_tokens` to 4096": None,
    "Using default cuda graphs [1, 2, 4, 8, 16, 32]": None,
    "Starting check and download process for gpt2": DOWNLOADING,
    "Files are already present on the host. Skipping download.": DOWNLOADING,
    "Download file: model-00001-of-00002.safetensors": DOWNLOADING,
    "Downloaded /data/hub/model.safetensors in 0:00:12.": DOWNLOADING,
    "Download: [1/2] -- ETA: 0:00:12": DOWNLOADING,
    "Retrying in 5 seconds": DOWNLOADING,
    "Retry 1/4": DOWNLOADING,
    "No safetensors weights found for model gpt2 at revision None.": DOWNLOADING,
    "Converting PyTorch weights to safetensors": DOWNLOADING,
    "Successfully downloaded weights for gpt2": DOWNLOADING,
    "Starting shard": LOADING,
    "Using prefix caching = True": None,
    "Server started at unix:///tmp/text-generation-server-0": None,
    "Waiting for shard to be ready...": None,
    "Shard ready in 14.01763103s": LOADING,
    "Starting Webserver": WARMING,
    "Warming up model": WARMING,
    "KV-cache blocks: 11218, size: 1": None,
    "Setting max batch total tokens to 11218": None,
    "Using the Hugging Face API": None,
    "Serving revision 607a30d of model openai-community/gpt2": None,
    "Connected": WARMING,
    "Success": None,
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_line_names_its_phase_in_every_shape(shape: Shape) -> None:
    lines = {line: tgi_log.progress(shape(line, "INFO")) for line in LINES}

    assert {line: step.phase if step else None for line, step in lines.items()} == LINES
    assert all(step is None or step.message.startswith(line) for line, step in lines.items())


def test_the_phases_of_a_start_never_go_back() -> None:
    phases = [phase for phase in LINES.values() if phase]

    assert phases == sorted(phases)


@pytest.mark.parametrize("shape", [launcher_json, router_json, launcher_text])
@pytest.mark.parametrize(
    ("message", "completed", "total", "fraction"),
    [
        ("Download: [1/4] -- ETA: 0:01:02", 1, 4, 0.25),
        ("Download: [4/4] -- ETA: 0", 4, 4, 1.0),
        ("Convert: [3/4] -- Took: 0:00:07", 3, 4, 0.75),
        ("Download: [0/0] -- ETA: 0", 0, 0, None),
    ],
)
def test_a_line_counts_the_files(
    shape: Shape, message: str, completed: int, total: int, fraction: float | None
) -> None:
    expected = Progress(DOWNLOADING, completed, total, "files", fraction, message)

    assert tgi_log.progress(shape(message, "INFO")) == expected


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{",
        "{}",
        '{"level": "INFO"}',
        '{"level": "INFO", "fields": {}}',
        '{"level": "INFO", "fields": "Starting shard"}',
        '{"fields": {"message": "Starting shard"}',
        "Error: ShardCannotStart",
        launcher_json("Download encountered an error: \nTraceback\nOSError: no route", "ERROR"),
        span_text("Download process was signaled to shutdown with signal 9: ", "ERROR"),
        "  Starting shard",
        f"{TIME}  INFO",
    ],
)
def test_a_line_of_another_shape_is_no_progress(line: str) -> None:
    assert tgi_log.progress(line) is None


TRACE = (
    'Traceback (most recent call last):\n  File "server.py", line 268, in serve_inner\n'
    "    model = get_model_with_lora_adapters(\n"
)
# As typer prints it, 80 characters wide.
BOX = "\n".join(
    [
        f"╭{' Traceback (most recent call last) ':─^78}╮",
        f"│ {'❱ 209     config = hf_hub_download(':<76} │",
        f"╰{'─' * 78}╯",
    ]
)
SHUTDOWN = launcher_json("Shutting down shards")


def crash(*lines: str, error: str) -> list[str]:
    """Make the end of the log of a launcher that gives up."""
    return [launcher_json("Using prefix caching = True"), *lines, SHUTDOWN, f"Error: {error}"]


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        pytest.param(
            crash(
                launcher_json(
                    f"Download encountered an error: \n{TRACE}GatedRepoError: 401 Client Error."
                    "\n\nCannot access gated repo for url X.\nPlease log in.",
                    "ERROR",
                ),
                error="DownloadError",
            ),
            "GatedRepoError: 401 Client Error.; Cannot access gated repo for url X. Please log in.",
            id="a gated repository",
        ),
        pytest.param(
            crash(
                launcher_json(
                    f"Error when initializing model\n{TRACE}ValueError: Unsupported model type x",
                    "ERROR",
                ),
                launcher_json(
                    "Shard complete standard error output:\n\nSome warning\nof Python", "ERROR"
                ),
                launcher_json("Shard 0 failed to start", "ERROR"),
                error="ShardCannotStart",
            ),
            "ValueError: Unsupported model type x",
            id="an unknown architecture",
        ),
        pytest.param(
            crash(
                launcher_json(
                    f"Error when initializing model\n{TRACE}"
                    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 172.00 MiB.\n",
                    "ERROR",
                ),
                launcher_json("Shard 0 failed to start", "ERROR"),
                error="ShardCannotStart",
            ),
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 172.00 MiB.",
            id="no GPU memory for the weights",
        ),
        pytest.param(
            crash(
                launcher_json("Shard complete standard error output:\n\n", "ERROR"),
                launcher_json("Shard process was signaled to shutdown with signal 9", "ERROR"),
                launcher_json("Shard 0 failed to start", "ERROR"),
                error="ShardCannotStart",
            ),
            "Shard process was signaled to shutdown with signal 9",
            id="killed by the host",
        ),
        pytest.param(
            crash(
                launcher_json(
                    f"Method Warmup encountered an error.\n{TRACE}RuntimeError: Not enough memory "
                    "to handle 4096 prefill tokens.",
                    "ERROR",
                ),
                launcher_json("Webserver Crashed", "ERROR"),
                error="WebserverFailed",
            ),
            "RuntimeError: Not enough memory to handle 4096 prefill tokens.",
            id="no memory to warm up",
        ),
        pytest.param(
            crash(
                router_json("Failed to bind to 0.0.0.0:80", "ERROR"),
                launcher_json("Webserver Crashed", "ERROR"),
                error="WebserverFailed",
            ),
            "Failed to bind to 0.0.0.0:80",
            id="the port is taken",
        ),
        pytest.param(
            crash(
                launcher_json(
                    f"Download encountered an error: \n{BOX}\n"
                    "HfHubHTTPError: 404 Client Error: Not Found for url: \n"
                    "https://huggingface.co/api/models/org/model (Request ID: \nRoot=1-67aa;0)\n"
                    "\n404: Not Found",
                    "ERROR",
                ),
                error="DownloadError",
            ),
            "HfHubHTTPError: 404 Client Error: Not Found for url: "
            "https://huggingface.co/api/models/org/model (Request ID: Root=1-67aa;0); "
            "404: Not Found",
            id="sentences that were broken at the width of a terminal",
        ),
        pytest.param(
            crash(
                launcher_json(
                    f"Download encountered an error: \n{BOX}\n"
                    f"HfHubHTTPError: 500 Server Error for url: \n{'https://hub/' + 68 * 'x'}\n"
                    "yyy of today\n",
                    "ERROR",
                ),
                error="DownloadError",
            ),
            f"HfHubHTTPError: 500 Server Error for url: https://hub/{68 * 'x'}yyy of today",
            id="an address that was broken",
        ),
        pytest.param(
            [
                launcher_json("('Connection broken: IncompleteRead(1 bytes read)')", "ERROR"),
                launcher_json("Retrying in 5 seconds"),
                launcher_json("Successfully downloaded weights for gpt2"),
                *crash(
                    launcher_json("Shard process was signaled to shutdown with signal 4", "ERROR"),
                    launcher_json("Shard 0 failed to start", "ERROR"),
                    error="ShardCannotStart",
                ),
            ],
            "Shard process was signaled to shutdown with signal 4",
            id="a download that was tried again is no cause",
        ),
        pytest.param(
            crash(
                request_json(
                    "Server error: Not enough memory to handle 9 tokens", "client", "warmup"
                ),
                "Error: Backend(NotEnoughMemory(2048))",
                launcher_json("Webserver Crashed", "ERROR"),
                error="WebserverFailed",
            ),
            "Server error: Not enough memory to handle 9 tokens",
            id="the warm-up is no request",
        ),
        pytest.param(
            crash(
                "Error: Backend(NotEnoughMemory(2048))",
                launcher_json("Webserver Crashed", "ERROR"),
                error="WebserverFailed",
            ),
            "Error: Backend(NotEnoughMemory(2048))",
            id="no GPU memory for the context",
        ),
        pytest.param(
            crash(
                *failed_request("transport error"),
                "thread 'tokio-runtime-worker' panicked at backends/v3/src/backend.rs:381:65:",
                'called `Result::unwrap()` on an `Err` value: Generation("transport error")',
                "note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace",
                launcher_json("Webserver Crashed", "ERROR"),
                error="WebserverFailed",
            ),
            'called `Result::unwrap()` on an `Err` value: Generation("transport error")',
            id="the router panics",
        ),
        pytest.param(
            crash(
                launcher_json(
                    f"Shard complete standard error output:\n\n{BOX}\nImportError: no libcuda.so",
                    "ERROR",
                ),
                launcher_json("Shard 0 failed to start", "ERROR"),
                error="ShardCannotStart",
            ),
            "ImportError: no libcuda.so",
            id="a shard that cannot even log",
        ),
        pytest.param(
            crash(
                launcher_json(
                    f"Method Decode encountered an error.\n{TRACE}RuntimeError: CUDA error", "ERROR"
                ),
                *failed_request("CUDA error"),
                launcher_json("Shard complete standard error output:\n\n", "ERROR"),
                launcher_json("Shard 0 crashed", "ERROR"),
                error="ShardFailed",
            ),
            "RuntimeError: CUDA error",
            id="a shard ends by the error of a batch",
        ),
        pytest.param(
            crash(
                launcher_json(
                    f"Method Decode encountered an error.\n{TRACE}ValueError: two at once", "ERROR"
                ),
                *failed_request("two at once"),
                router_json("Success"),
                *failed_request("transport error"),
                launcher_json("Shard complete standard error output:\n\n", "ERROR"),
                launcher_json("Shard process was signaled to shutdown with signal 9", "ERROR"),
                launcher_json("Shard 0 crashed", "ERROR"),
                error="ShardFailed",
            ),
            "Shard process was signaled to shutdown with signal 9",
            id="a shard is killed long after a request failed",
        ),
        pytest.param(
            crash(
                *failed_request("transport error"),
                launcher_json("Shard complete standard error output:\n\n", "ERROR"),
                launcher_json("Shard process was signaled to shutdown with signal 9", "ERROR"),
                launcher_json("Shard 0 crashed", "ERROR"),
                *failed_request("error trying to connect: No such file or directory"),
                launcher_json("Terminating webserver"),
                launcher_json("webserver terminated"),
                error="ShardFailed",
            ),
            "Shard process was signaled to shutdown with signal 9",
            id="requests fail after the death too",
        ),
        pytest.param(
            crash(
                *failed_request("two at once"),
                launcher_json(
                    f"Method Decode encountered an error.\n{TRACE}ValueError: two at once", "ERROR"
                ),
                launcher_json("Webserver Crashed", "ERROR"),
                error="WebserverFailed",
            ),
            "Webserver Crashed",
            id="the router is killed after a request failed",
        ),
        pytest.param(
            [
                f"{TIME} ERROR batch:decode: text_generation_router_v3::client: Server error: lost",
                span_text("Shard 0 crashed", "ERROR"),
            ],
            "Shard 0 crashed rank=0",
            id="a request as text with colours",
        ),
        pytest.param(
            crash(
                router_json("`temperature` must be strictly positive", "ERROR"),
                router_json("Input validation error: `inputs` cannot be empty", "ERROR"),
                launcher_json("Shard process was signaled to shutdown with signal 9", "ERROR"),
                launcher_json("Shard 0 crashed", "ERROR"),
                error="ShardFailed",
            ),
            "Shard process was signaled to shutdown with signal 9",
            id="refused requests are no cause of a later death",
        ),
        pytest.param(
            ['Error: ArgumentValidation("`validation_workers` must be > 0")'],
            'Error: ArgumentValidation("`validation_workers` must be > 0")',
            id="a wrong argument",
        ),
        pytest.param(
            [span_text("Shard process was signaled to shutdown with signal 9", "ERROR")],
            "Shard process was signaled to shutdown with signal 9 rank=0",
            id="as text with colours",
        ),
        pytest.param(
            ["exec format error", "  "], "exec format error", id="not TGI at all: the last line"
        ),
        pytest.param(
            [
                router_json("Warming up model"),
                router_json("`--revision` is not set", "WARN"),
                router_json("Connected"),
                router_text("Success"),
            ],
            "",
            id="killed from outside: reports and warnings are no cause",
        ),
        pytest.param(["Error: DownloadError", SHUTDOWN], "", id="nothing but the epilogue"),
        pytest.param([], "", id="no line"),
    ],
)
def test_the_cause_of_a_crash_is_in_its_log(log: list[str], cause: str) -> None:
    assert tgi_log.cause(log) == cause
