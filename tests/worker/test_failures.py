"""All failures before serving: exit code, reason and message."""

import os
import socket
import struct
from pathlib import Path

import pytest

from inference_service.worker import machine
from inference_service.worker.failure import WorkerError

from .conftest import STORY, Start
from .gguf import LLAMA, UNKNOWN_ARCHITECTURE, array, header, strings

ZEROS = "0" * 64


@pytest.mark.parametrize(
    ("environment", "part"),
    [
        ({"LLAMACPP_FILE": ""}, "LLAMACPP_FILE"),
        ({"LLAMACPP_REPO": "no-owner"}, "owner/name"),
        ({"LLAMACPP_REPO": "a/b", "LLAMACPP_FILE": "../m.gguf"}, "inside a/b"),
        ({"LLAMACPP_SHA256": "abc"}, "64 hexadecimal"),
        ({"LLAMACPP_PORT": "65536"}, "LLAMACPP_PORT must be an integer from 0 to 65535"),
        ({"LLAMACPP_PORT": "http"}, "not 'http'"),
        ({"LLAMACPP_CONTEXT": "-1"}, "LLAMACPP_CONTEXT"),
        ({"LLAMACPP_SLOTS": "0"}, "LLAMACPP_SLOTS"),
        ({"LLAMACPP_THREADS": "1.5"}, "LLAMACPP_THREADS"),
    ],
)
async def test_configuration(start: Start, environment: dict[str, str], part: str) -> None:
    worker = await start(**environment)
    code, reason, message = await worker.failure()
    assert (code, reason) == (2, "CONFIGURATION")
    assert part in message
    assert len(worker.events) == 1
    assert "phase" not in worker.events[0]
    assert await worker.errors() == ""


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "damaged"),
        (b"<html>Sign in</html>", "not a GGUF file"),
        (b"GGUF" + b"\xff" * 100, "damaged"),
        (header(LLAMA, ("llama.block_count", 0)), "llama.block_count (0)"),
        (header(LLAMA, ("llama.block_count", 1), ("llama.context_length", 0)), "context_length"),
        (header(), "names no architecture"),
        (array("x", 9, 1, struct.pack("<IQ", 9, 1) * 5000), "an array of arrays"),
        (array("x", 9, 2**64 - 1), "an array of arrays"),
        (array("x", 8, 2**64 - 1), "strings"),
        (array("x", 8, 1, struct.pack("<Q", 2**64 - 1)), "damaged"),
        (array("x", 8, 3, strings("a", "b")), "damaged"),
        (array("x", 10, 2**64 - 1), "ends early"),
        (array("x", 13, 1), "the unknown kind 13"),
        (header(LLAMA)[:16] + b"\xff" * 8, "has 18446744073709551615 keys"),
        (header((LLAMA[0], "a" * (1 << 17))), "has a name of 131072 bytes"),
        (header(LLAMA, ("llama.block_count", 1), ("llama.block_count", 0)), "block_count (0)"),
    ],
)
async def test_a_file_that_is_no_model(
    start: Start, tmp_path: Path, content: bytes, part: str
) -> None:
    file = tmp_path / "bad.gguf"
    file.write_bytes(content)
    code, reason, message = await (await start(LLAMACPP_FILE=str(file))).failure()
    assert (code, reason) == (4, "MODEL_UNUSABLE")
    assert part in message
    assert str(file) in message


@pytest.mark.parametrize(
    ("content", "error"),
    [
        pytest.param(
            STORY.read_bytes()[: STORY.stat().st_size // 2],
            "corrupted or incomplete",
            id="a file that was cut off",
        ),
        pytest.param(
            UNKNOWN_ARCHITECTURE,
            "unknown model architecture: 'martian'",
            id="an unknown architecture",
        ),
    ],
)
async def test_a_model_that_llamacpp_cannot_load(
    start: Start, tmp_path: Path, content: bytes, error: str
) -> None:
    """The event has the exception's text; llama.cpp's reason is on standard error alone."""
    file = tmp_path / "bad.gguf"
    file.write_bytes(content)
    worker = await start(LLAMACPP_FILE=str(file))
    code, reason, message = await worker.failure()
    assert (code, reason) == (4, "MODEL_UNUSABLE")
    assert message.startswith(f"llama.cpp could not load {file}: Failed to init server")
    first, *_ = (await worker.errors()).splitlines()
    assert error in first


@pytest.mark.parametrize("file", ["/nowhere/m.gguf", "/"])
async def test_no_file(start: Start, file: str) -> None:
    code, reason, message = await (await start(LLAMACPP_FILE=file)).failure()
    assert (code, reason) == (4, "MODEL_UNUSABLE")
    assert f"{file} cannot be read" in message


async def test_a_local_file_with_another_checksum(start: Start) -> None:
    code, reason, message = await (await start(LLAMACPP_SHA256=ZEROS)).failure()
    assert (code, reason) == (4, "WRONG_FILE")
    assert f"instead of {ZEROS}" in message


async def test_the_port_is_in_use(start: Start) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, reason, message = await (await start(LLAMACPP_PORT=str(port))).failure()
    assert (code, reason) == (5, "PORT_UNUSABLE")
    assert message == f"Cannot listen on 127.0.0.1:{port}: Address already in use."


async def test_the_host_is_another_machine(start: Start) -> None:
    code, _, message = await (await start(LLAMACPP_HOST="192.0.2.1")).failure()
    assert code == 5
    assert "192.0.2.1" in message


def test_a_processor_without_avx2(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu sse4_2 avx\n")
    with pytest.raises(WorkerError, match="AVX2") as caught:
        machine.check_processor(cpuinfo)
    assert (caught.value.code, caught.value.reason) == (6, "NO_AVX2")
    cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu avx avx2\n")
    machine.check_processor(cpuinfo)
    cpuinfo.write_text("processor\t: 0\nFeatures\t: fp asimd\n")  # aarch64
    machine.check_processor(cpuinfo)


def test_usable_cores_are_those_of_the_affinity() -> None:
    assert 1 <= machine.usable_cores() <= len(os.sched_getaffinity(0))
