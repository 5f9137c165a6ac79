"""The command `inference-service`, as a process: its output, its exit codes, its end."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from inference_service import __version__
from inference_service.settings import Settings
from inference_service.v1 import model_service_pb2 as pb
from inference_service.v1 import model_service_pb2_grpc as pb_grpc
from tests.service import failure, free, free_ports
from tests.waiting import SLOWLY, within

EMBEDDED = ("--runtime", "process", "--grpc-port", "0", "--rest-port", "0")


# A service whose loop is held for ever once it stops its models.
HANGING = """\
import time
from inference_service import cli
from inference_service.serving.models import Models
cli._LAST = 0.2
Models.close = lambda *_: time.sleep(3600)
cli.main()
"""


async def command(*arguments: str, **environment: str) -> asyncio.subprocess.Process:
    return await python("-m", "inference_service", *arguments, **environment)


async def python(*arguments: str, **environment: str) -> asyncio.subprocess.Process:
    kept = "INFERENCE_STATE_DIR"
    ours = {
        name: value
        for name, value in os.environ.items()
        if name == kept or not name.startswith("INFERENCE_")
    }
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        env=ours | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def ended(*arguments: str, **environment: str) -> tuple[int | None, str, str]:
    """Run a command that ends by itself; return its exit code and its output."""
    process = await command(*arguments, **environment)
    out, err = await end(process)
    return process.returncode, out.decode(), err.decode()


async def end(process: asyncio.subprocess.Process) -> tuple[bytes, bytes]:
    """Wait for the end of a process and return its output."""
    async with within(SLOWLY, "the process did not end"):
        return await process.communicate()


@asynccontextmanager
async def serving(
    *arguments: str, how: tuple[str, ...] = ("-m", "inference_service")
) -> AsyncGenerator[tuple[asyncio.subprocess.Process, str]]:
    """Run a service and yield it with its banner; kill it at the end."""
    process = await python(*how, *EMBEDDED, *arguments)
    assert process.stdout is not None
    try:
        banner = ""
        while "curl -s" not in banner:
            line = await process.stdout.readline()
            assert line, (banner, await process.communicate())
            banner += line.decode()
        yield process, banner
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def warned(err: bytes) -> list[str]:
    """Return the lines of standard error that do not report what the service does."""
    return [line for line in err.decode().splitlines() if " INFO inference_service." not in line]


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task")
    return [
        int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split()
    ]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def target(banner: str) -> str:
    found = re.search(r"^gRPC +(\S+)$", banner, re.MULTILINE)
    assert found is not None, banner
    return found[1]


async def test_the_version() -> None:
    assert await ended("--version") == (0, f"inference-service {__version__}\n", "")


async def test_the_help_has_every_setting_with_its_default() -> None:
    code, out, err = await ended("--help")
    words = " ".join(out.split())

    assert (code, err) == (0, "")
    for name, setting in Settings.model_fields.items():
        assert f"--{name.replace('_', '-')}" in words
        assert setting.description is not None
        assert " ".join(setting.description.split()) in words
    assert "(default: 50051)" in words


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--grpc-port", "many"], "--grpc-port: "),
        (["--grpc-port", "65536"], "--grpc-port: "),
        (["--ports", "8080"], "--ports: must be two ports, such as \"8080-8179\", not '8080'"),
        (["--runtime", "podman"], "--runtime: Input should be 'auto', 'docker' or 'process'"),
        (["--generation-timeout", "0"], "--generation-timeout: "),
    ],
)
async def test_a_bad_value_is_one_line_and_exit_code_2(arguments: list[str], message: str) -> None:
    code, out, err = await ended(*arguments)

    assert err.startswith(f"inference-service: {message}")
    assert err.count("\n") == 1
    assert (code, out) == (2, "")


async def test_a_bad_variable_is_reported_by_its_name() -> None:
    code, _, err = await ended(INFERENCE_REST_PORT="many")

    assert err.startswith("inference-service: INFERENCE_REST_PORT: ")
    assert code == 2

    code, _, err = await ended("--rest-port=more", INFERENCE_REST_PORT="many")

    assert err.startswith("inference-service: --rest-port: ")
    assert code == 2


@pytest.mark.parametrize("arguments", [["--speed", "9"], ["extra"], ["--grpc-port"]])
async def test_arguments_that_do_not_exist_are_exit_code_2(arguments: list[str]) -> None:
    code, out, err = await ended(*arguments)

    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith("inference-service: error: ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file or directory"),
        ("[[models", "is not TOML: "),
        ("[[models]]\nid = 'x'\nhf_name = 'x'", "entry 1 ('x'), key context_length: is missing"),
    ],
)
async def test_a_bad_catalog_is_one_line_and_exit_code_1(
    tmp_path: Path, content: str | None, message: str
) -> None:
    file = tmp_path / "models.toml"
    if content is not None:
        file.write_text(content)

    code, out, err = await ended(*EMBEDDED, "--catalog", str(file))

    assert err.startswith(f"inference-service: {file}: {message}")
    assert err.count("\n") == 1
    assert (code, out) == (1, "")


@pytest.mark.parametrize(("flag", "protocol"), [("--grpc-port", "gRPC"), ("--rest-port", "REST")])
async def test_a_port_in_use_is_one_line_and_exit_code_1(flag: str, protocol: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, out, err = await ended(*EMBEDDED, flag, str(port))

    line = err.splitlines()[-1]
    assert line.startswith(f"inference-service: {protocol} cannot listen on 127.0.0.1:{port}")
    assert line.endswith(f"; choose another {flag}")
    assert err == f"{line}\n"
    assert (code, out) == (1, "")


async def test_a_missing_daemon_with_runtime_docker_is_one_line_and_exit_code_1(
    tmp_path: Path,
) -> None:
    nowhere = f"unix://{tmp_path}/none.sock"

    code, out, err = await ended(*EMBEDDED, "--runtime", "docker", DOCKER_HOST=nowhere)

    assert err.startswith("inference-service: ")
    assert nowhere in err
    assert "--runtime process" in err
    assert err.count("\n") == 1
    assert (code, out) == (1, "")


async def test_the_banner_has_the_models_and_example_calls() -> None:
    async with serving() as (_, banner):
        assert banner.startswith(f"inference-service {__version__}\nruntime  process: ")
        assert "story-mini" in banner
        assert f"{target(banner)} inference_service.v1.ModelService/Generate" in banner
        rest = re.search(r"^REST +(http://127\.0\.0\.1:\d+) ", banner, re.MULTILINE)
        assert rest is not None
        assert f"curl -s {rest[1]}/generate" in banner


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_the_service_with_exit_code_0_and_its_engine(
    number: signal.Signals,
) -> None:
    async with serving("--ports", free_ports(4)) as (process, banner):
        async with grpc.aio.insecure_channel(target(banner)) as channel:
            stub = pb_grpc.ModelServiceStub(channel)
            started = await stub.StartModel(pb.StartModelRequest(model_id="story-mini"))
        [engine] = children(process.pid)
        assert not free(started.port)

        process.send_signal(number)
        out, err = await end(process)

    assert (process.returncode, warned(err)) == (0, [])
    assert b"stopping" in out
    assert not alive(engine)
    assert free(started.port)


async def test_each_stream_that_is_open_at_the_end_has_its_error_and_no_traceback() -> None:
    async with (
        serving("--drain-timeout", "0") as (process, banner),
        grpc.aio.insecure_channel(target(banner)) as channel,
    ):
        health: Any = health_pb2_grpc.HealthStub(channel)
        reflect: Any = channel.stream_stream(
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        )
        reflecting = reflect()
        await reflecting.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        streams = [
            health.Watch(health_pb2.HealthCheckRequest(service=name))
            for name in ("", "story-mini", "nobody")
        ]
        streams += [pb_grpc.ModelServiceStub(channel).WatchModels(pb.WatchModelsRequest())]
        for stream in (reflecting, *streams):
            await stream.read()

        process.send_signal(signal.SIGTERM)
        reasons = [await reason_of_end(stream) for stream in (reflecting, *streams)]
        _, err = await end(process)

    assert reasons == ["SHUTTING_DOWN"] * 5
    assert (process.returncode, warned(err)) == (0, [])


async def reason_of_end(stream: Any) -> str:
    """Read a stream to its end, which is an error, and return the reason."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        async with within(SLOWLY, "the stream did not end"):
            while await stream.read() is not grpc.aio.EOF:
                pass
    return failure(error.value).reason


async def test_a_second_signal_cuts_the_requests_that_the_first_lets_finish() -> None:
    async with (
        serving("--ports", free_ports(4), "--drain-timeout", "3600") as (process, banner),
        grpc.aio.insecure_channel(target(banner)) as channel,
    ):
        stub = pb_grpc.ModelServiceStub(channel)
        await stub.StartModel(pb.StartModelRequest(model_id="story-mini"))
        [engine] = children(process.pid)
        os.kill(engine, signal.SIGSTOP)
        call = stub.Generate(pb.GenerateRequest(model_id="story-mini", prompt="Once"))
        asking = pb.GetModelRequest(model_id="story-mini")
        async with within(SLOWLY, "the request did not reach the engine"):
            while not (await stub.GetModel(asking)).model.active_request_count:
                pass

        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None
        assert b"stopping" in await process.stdout.readline()
        assert not call.done()
        process.send_signal(signal.SIGTERM)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call
        os.kill(engine, signal.SIGKILL)
        _, err = await end(process)

    assert failure(error.value).reason == "SHUTTING_DOWN"
    assert (process.returncode, warned(err)) == (143, [])


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_a_signal_ends_a_stream_of_reflection_with_a_reason(version: str) -> None:
    async with (
        serving() as (process, banner),
        grpc.aio.insecure_channel(target(banner)) as channel,
    ):
        path = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
        stream: Any = channel.stream_stream(path)()
        await stream.write(
            reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()
        )
        assert b"inference_service.v1.ModelService" in await stream.read()

        process.send_signal(signal.SIGTERM)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await stream.read()
        _, err = await end(process)

    assert failure(error.value).reason == "SHUTTING_DOWN"
    assert (process.returncode, warned(err)) == (0, [])


@pytest.mark.parametrize("signals", [1, 2], ids=["once", "twice"])
async def test_a_service_that_hangs_is_ended(signals: int) -> None:
    drain = "3600" if signals == 2 else "0"
    async with serving("--drain-timeout", drain, how=("-c", HANGING)) as (process, _):
        assert process.stdout is not None
        for _ in range(signals):
            process.send_signal(signal.SIGTERM)
            await process.stdout.readline()
        _, err = await end(process)

    assert process.returncode == 1
    assert b"<lambda>" in err  # where it hung


async def test_a_killed_service_leaves_no_engine() -> None:
    async with serving("--ports", free_ports(4)) as (process, banner):
        async with grpc.aio.insecure_channel(target(banner)) as channel:
            stub = pb_grpc.ModelServiceStub(channel)
            await stub.StartModel(pb.StartModelRequest(model_id="story-mini"))
        [engine] = children(process.pid)
        gone = os.pidfd_open(engine)

        process.kill()
        await process.wait()

        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(gone, ended.set)
        async with within(SLOWLY, "the engine did not end after its service was killed"):
            await ended.wait()
        loop.remove_reader(gone)
        os.close(gone)


async def test_sighup_reads_the_catalog_again_and_a_mistake_changes_nothing(
    tmp_path: Path,
) -> None:
    path = tmp_path / "models.toml"
    entry = (
        '[[models]]\nid = "mine"\nhf_name = "me/mine"\ncontext_length = 1024\n'
        '[models.tgi]\nmemory = "1GB"\nweights = { repo = "me/mine" }\n'
    )
    path.write_text(entry)
    async with (
        serving("--catalog", str(path)) as (process, banner),
        grpc.aio.insecure_channel(target(banner)) as channel,
    ):
        stub = pb_grpc.ModelServiceStub(channel)
        assert process.stdout is not None
        assert process.stderr is not None

        async def ids() -> list[str]:
            return [m.id for m in (await stub.ListModels(pb.ListModelsRequest())).models]

        path.write_text(entry + entry.replace("mine", "yours"))
        process.send_signal(signal.SIGHUP)
        assert await process.stdout.readline() == b"catalog  added yours\n"
        assert (await ids())[-2:] == ["mine", "yours"]

        path.write_text("models = 1")
        process.send_signal(signal.SIGHUP)
        assert b"the old catalog stays" in await process.stderr.readline()
        assert (await ids())[-2:] == ["mine", "yours"]

        process.send_signal(signal.SIGTERM)
        await end(process)
    assert process.returncode == 0


async def test_a_start_is_seen_on_the_terminal() -> None:
    async with (
        serving() as (process, banner),
        grpc.aio.insecure_channel(target(banner)) as channel,
    ):
        stub = pb_grpc.ModelServiceStub(channel)
        await stub.StartModel(pb.StartModelRequest(model_id="story-mini"))
        await stub.StopModel(pb.StopModelRequest(model_id="story-mini"))
        process.send_signal(signal.SIGTERM)
        _, err = await end(process)

    lines = err.decode().splitlines()
    said = [line.rpartition("story-mini: ")[2] for line in lines]
    assert said == ["starting", "starting the process", "loading weights", *said[3:]]
    assert said[3:] == ["ready", "stopping", "stopped"]
    assert all(" INFO inference_service." in line for line in lines)


async def test_a_quiet_service_says_nothing_of_a_start() -> None:
    async with (
        serving("--log-level", "warning") as (process, banner),
        grpc.aio.insecure_channel(target(banner)) as channel,
    ):
        stub = pb_grpc.ModelServiceStub(channel)
        await stub.StartModel(pb.StartModelRequest(model_id="story-mini"))
        process.send_signal(signal.SIGTERM)
        _, err = await end(process)

    assert err == b""


async def test_a_closed_terminal_ends_the_service() -> None:
    try:
        controller, terminal = os.openpty()
    except OSError:
        pytest.skip("this machine has no pseudo-terminals")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "inference_service", *EMBEDDED),
        stdin=terminal,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    os.close(terminal)
    try:
        assert process.stdout is not None
        while b"curl -s" not in (line := await process.stdout.readline()):
            assert line
        process.send_signal(signal.SIGHUP)
        assert b"catalog  nothing has changed" in await process.stdout.readline()

        os.close(controller)
        process.send_signal(signal.SIGHUP)
        out, _ = await end(process)
        assert b"stopping" in out
        assert process.returncode == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def test_the_access_log_is_on_standard_output_whatever_the_level() -> None:
    flags = ("--access-log", "--log-level", "error")
    async with serving(*flags) as (process, banner), within(SLOWLY, "no lines of access"):
        match = re.search(r"^gRPC +(\S+)", banner, re.MULTILINE)
        assert match is not None
        async with grpc.aio.insecure_channel(match[1]) as channel:
            await pb_grpc.ModelServiceStub(channel).ListModels(pb.ListModelsRequest())
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode()
        process.terminate()
        _, err = await process.communicate()

    assert re.search(r'\d - "gRPC /inference_service\.v1\.ModelService/ListModels" OK \d', line)
    assert "gRPC /" not in err.decode()


@pytest.mark.parametrize(
    "streams",
    [
        "<&- >&- 2>&-",
        ">&-",
        "2>&-",
        ">/dev/full",
        "2>/dev/full",
        ">/dev/full 2>&1",
        "> >(exec <&-)",
    ],
)
async def test_standard_streams_that_take_nothing_do_not_end_the_service(
    streams: str, tmp_path: Path
) -> None:
    first, _, last = free_ports(2).partition("-")
    flags = [*EMBEDDED[:2], "--grpc-port", first, "--rest-port", last, "--access-log"]
    errors = tmp_path / "errors"
    line = f'exec "$@" 2>"$ERRORS" {streams}'
    process = await asyncio.create_subprocess_exec(
        *("bash", "-c", line, "bash", sys.executable, "-m", "inference_service", *flags),
        env=os.environ | {"ERRORS": str(errors)},
    )
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{first}") as channel:
            stub = pb_grpc.ModelServiceStub(channel)
            request = pb.GenerateRequest(model_id="story-mini", prompt="Once", max_new_tokens=3)
            async with within(SLOWLY, "the service did not answer"):
                answer = await stub.Generate(request, wait_for_ready=True)
        assert answer.generated_text.startswith("Once")
        process.send_signal(signal.SIGTERM)
        async with within(SLOWLY, "the service did not end"):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert "Traceback" not in errors.read_text()


_STARTED_BADLY = """\
import os, signal, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
os.execv(sys.executable, [sys.executable, "-m", "inference_service", *sys.argv[1:]])
"""


async def test_signals_that_are_blocked_or_ignored_at_the_start_are_taken(tmp_path: Path) -> None:
    script = tmp_path / "start.py"
    script.write_text(_STARTED_BADLY)
    async with serving(how=(str(script),)) as (process, banner):
        async with grpc.aio.insecure_channel(target(banner)) as channel:
            stub = pb_grpc.ModelServiceStub(channel)
            await stub.StartModel(pb.StartModelRequest(model_id="story-mini"))
            os.kill(children(process.pid)[0], signal.SIGKILL)
            async with within(SLOWLY, "the engine's end was not reported"):
                request = pb.WatchModelsRequest(model_id="story-mini")
                async for event in stub.WatchModels(request):
                    if "SIGKILL" in event.model.last_error.message:
                        break
        process.send_signal(signal.SIGTERM)
        await end(process)

    assert process.returncode == 0
