"""Models of kind `openai` as a user meets them: by command, by image and by URL."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from docker import DockerClient

import inference_service
from inference_service.errors import CatalogInvalid
from inference_service.v1 import model_service_pb2 as pb
from tests.docker import images
from tests.engines.scripted import event, plain, stream
from tests.engines.scripted import serving as scripted
from tests.engines.waiting import until
from tests.runtimes import processes
from tests.service import Serving, failure, free_ports, killed_after, serving
from tests.waiting import SLOWLY

GGUF = Path(inference_service.__file__).parent / "story_mini" / "story-mini.gguf"
GREEDY: dict[str, Any] = {"prompt": "Once upon a time", "max_new_tokens": 20, "temperature": 0}
LLAMACPP = """
options = { top_k = "top_k", repetition_penalty = "repeat_penalty", stop = false }
body = { min_p = 0.0, timings_per_token = true }
"""


def entry(section: str, model_id: str = "mine") -> str:
    """Make the TOML of an entry for story-mini."""
    head = f'[[models]]\nid = "{model_id}"\nhf_name = "story-mini"\ncontext_length = 512\n'
    return f"{head}[models.openai]\n{section}\n"


def command(*words: str, more: str = "") -> str:
    """Make the section of a model whose engine is a command, by default our own worker."""
    words = words or (sys.executable, "-P", "-m", "inference_service.worker")
    return f"""\
command = {json.dumps(words)}
env = {{ LLAMACPP_HOST = "{{host}}", LLAMACPP_PORT = "{{port}}", LLAMACPP_FILE = "{{weights}}",\
 LLAMACPP_CONTEXT = "{{context_length}}", LLAMACPP_EXIT_WITH_PARENT = "1" }}
weights.path = "{GGUF}"
served_name = "{GGUF}"
memory = "200MB"
{more}"""


def image(name: str) -> str:
    """Make the section of a model whose engine is an image with our own worker."""
    section = command(more=LLAMACPP).replace(
        f'"{GGUF}"\nmemory', '"/model/story-mini.gguf"\nmemory'
    )
    section = section.replace(', LLAMACPP_EXIT_WITH_PARENT = "1"', "")  # of a process
    return f"image = {json.dumps(name)}\n" + section.partition("\n")[2]


@asynccontextmanager
async def cataloged(tmp_path: Path, *entries: str, **changes: Any) -> AsyncGenerator[Serving]:
    """Run a service with these entries."""
    path = tmp_path / "catalog.toml"
    path.write_text("\n".join(entries))
    settings: dict[str, Any] = {
        "ports": free_ports(8),
        "catalog": path,
        "hang_timeout": 2,
    } | changes
    async with serving(**settings) as service:
        yield service


class Worker:
    """A worker that somebody else runs on a port of its own."""

    def __init__(self) -> None:
        self.port = int(free_ports(1).partition("-")[0])
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        env = os.environ | {
            "LLAMACPP_HOST": "127.0.0.1",
            "LLAMACPP_PORT": str(self.port),
            "LLAMACPP_FILE": str(GGUF),
            "LLAMACPP_CONTEXT": "512",
        }
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "inference_service.worker"), env=env
        )
        await until(self.answers, "the worker answers", SLOWLY)

    async def answers(self) -> bool:
        async with httpx.AsyncClient(trust_env=False) as client:
            try:
                return (await client.get(f"{self.url}/health")).status_code == 200
            except httpx.TransportError:
                return False

    async def stop(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()


@pytest.fixture
async def worker() -> AsyncGenerator[Worker]:
    worker = Worker()
    await worker.start()
    yield worker
    await worker.stop()


def by_url(worker: Worker) -> str:
    return f'url = "{worker.url}/v1/"\nserved_name = "{GGUF}"\n{LLAMACPP}'


async def read(stream: AsyncIterable[pb.GenerateStreamResponse]) -> tuple[str, Any, int]:
    """Return the text of a stream, its summary and the sum of the counts of its chunks."""
    events = [event async for event in stream]
    chunks = [event.chunk for event in events if event.WhichOneof("event") == "chunk"]
    text = "".join(chunk.text for chunk in chunks)
    return text, events[-1].summary, sum(chunk.token_count for chunk in chunks)


async def generates(service: Serving, **more: Any) -> None:
    """Check a whole text and a stream, with counts, a stop sequence and a refusal."""
    whole = await service.stub.Generate(pb.GenerateRequest(model_id="mine", **GREEDY))
    request = pb.GenerateStreamRequest(model_id="mine", **GREEDY)
    text, summary, count = await read(service.stub.GenerateStream(request))

    assert whole.generated_text == GREEDY["prompt"] + text
    assert text.startswith(", there was a little girl")
    assert (summary.completion_token_count, summary.prompt_token_count, count) == (20, 5, 20)
    assert summary.finish_reason == pb.FINISH_REASON_LENGTH

    request.stop.append("a little g")
    text, summary, _ = await read(service.stub.GenerateStream(request))
    assert (text, summary.finish_reason) == (", there was ", pb.FINISH_REASON_STOP_SEQUENCE)

    answer = await service.http.post("/generate", json={"model_id": "mine"} | GREEDY)
    assert answer.json() == {"generated_text": whole.generated_text, "model_id": "mine"}
    long = GREEDY | {"prompt": "word " * 600}
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await service.stub.Generate(pb.GenerateRequest(model_id="mine", **long))
    assert failure(error.value).reason == "PROMPT_TOO_LONG"


async def left(service: Serving) -> bool:
    """Return whether the engine has no request of ours."""
    url = service.service.models.find("mine").status
    async with httpx.AsyncClient(trust_env=False) as client:
        lines = (await client.get(f"http://127.0.0.1:{url.port}/metrics")).text.splitlines()
    counts = [line for line in lines if line.startswith("llamacpp:requests_")]
    return bool(counts) and all(line.endswith(" 0") for line in counts)


def engine_of(service: Serving) -> int:
    """Return the process that listens for the model."""
    port = service.service.models.find("mine").status.port
    _guard, engine = sorted(processes.with_variable(f"LLAMACPP_PORT={port}"))
    return engine


async def test_a_process_that_fails_at_once_was_being_started(tmp_path: Path) -> None:
    ends = entry(command("/bin/sh", "-c", "exit 3"), "ends")
    killed = entry(command("/bin/sh", "-c", "echo INFO: ready; kill -9 $$"), "killed")
    missing = entry(command("/no/such/program"), "missing")
    async with cataloged(tmp_path, ends, killed, missing) as service:
        causes = {
            "ends": "ends exited with code 3 (starting the process)",
            "killed": "killed exited with code -9, SIGKILL (starting the process)",
            "missing": "missing cannot be started (starting the process): the program",
        }
        for model_id, cause in causes.items():
            answer = await service.http.post(f"/models/{model_id}/start")
            assert answer.status_code == 503
            assert answer.json()["detail"].startswith(cause)
            assert "ready" not in answer.json()["detail"]


async def test_a_model_by_command(tmp_path: Path) -> None:
    async with cataloged(tmp_path, entry(command(more=LLAMACPP))) as service:
        await generates(service)

        endless = GREEDY | {"max_new_tokens": 400, "repetition_penalty": 0.3}
        stream = service.stub.GenerateStream(pb.GenerateStreamRequest(model_id="mine", **endless))
        await anext(aiter(stream))
        stream.cancel()
        await until(lambda: left(service), "the engine has no request any more", SLOWLY)

        request = pb.GenerateStreamRequest(model_id="mine", resume=True, **endless)
        events = aiter(service.stub.GenerateStream(request))
        first = [await killed_after(engine_of(service), anext(events))]
        kinds = [
            event.WhichOneof("event") for event in [*first, *[event async for event in events]]
        ]
        assert kinds.count("resumption") == 1
        assert kinds[-1] == "summary"

        request.resume = False
        events = aiter(service.stub.GenerateStream(request))
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await killed_after(engine_of(service), anext(events))
            await read(events)
        assert failure(error.value).reason in ("ENGINE_FAILED", "ENGINE_DIED")

        stopped = await service.http.post("/models/mine/stop")
        assert stopped.status_code in (200, 404)


async def test_a_model_by_url(tmp_path: Path, worker: Worker) -> None:
    async with cataloged(tmp_path, entry(by_url(worker))) as service:
        await generates(service)
        model = (await service.stub.GetModel(pb.GetModelRequest(model_id="mine"))).model
        assert (model.state, model.port) == (pb.MODEL_STATE_READY, 0)

        endless = GREEDY | {"max_new_tokens": 400, "repetition_penalty": 0.3}
        request = pb.GenerateStreamRequest(model_id="mine", resume=True, **endless)
        events = aiter(service.stub.GenerateStream(request))
        assert worker.process is not None
        seen = [await killed_after(worker.process.pid, anext(events))]
        await worker.process.wait()
        await worker.start()
        kinds = [event.WhichOneof("event") for event in [*seen, *[event async for event in events]]]
        assert kinds.count("resumption") == 1
        assert kinds[-1] == "summary"

        stopped = await service.http.post("/models/mine/stop")
        assert stopped.status_code == 200
        assert await worker.answers()  # somebody else's


@pytest.mark.docker
async def test_a_model_by_image(tmp_path: Path, docker_client: DockerClient) -> None:
    name = f"openai-{os.getpid()}"
    section = entry(image(images.llamacpp(docker_client)))
    docker = {"runtime": "docker", "service_name": name, "volume": name, "pull_policy": "never"}
    try:
        async with cataloged(tmp_path, section, **docker) as service:
            await generates(service)

            endless = GREEDY | {"max_new_tokens": 400, "repetition_penalty": 0.3}
            request = pb.GenerateStreamRequest(model_id="mine", resume=True, **endless)
            events = aiter(service.stub.GenerateStream(request))
            seen = [await anext(events)]
            docker_client.containers.get(f"{name}-tgi-mine").kill()
            seen += [event async for event in events]
            assert seen[-1].WhichOneof("event") == "summary"
        left = docker_client.containers.list(all=True, filters={"name": name})
        assert left == []
    finally:
        docker_client.volumes.get(name).remove()


@pytest.mark.docker
async def test_an_image_without_the_program_is_a_clear_error(
    tmp_path: Path, docker_client: DockerClient
) -> None:
    name = f"openai-{os.getpid()}"
    section = entry(image(images.missing_command(docker_client)))
    docker = {"runtime": "docker", "service_name": name, "volume": name, "pull_policy": "never"}
    try:
        async with cataloged(tmp_path, section, **docker) as service:
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await service.stub.StartModel(pb.StartModelRequest(model_id="mine"))
            assert failure(error.value).reason == "MODEL_UNUSABLE"
            assert "/no/such/command" in failure(error.value).message
            engines = docker_client.containers.list(all=True, filters={"name": f"{name}-tgi"})
            assert engines == []
    finally:
        docker_client.volumes.get(name).remove()


@pytest.mark.parametrize("resume", [False, True])
async def test_a_text_without_counts_is_neither_repeated_nor_resumed(
    tmp_path: Path, resume: bool
) -> None:
    models = plain(200, b'{"data": [{"id": "mine"}]}')
    piece = event({"choices": [{"index": 0, "text": " one", "finish_reason": None}]})
    async with (
        scripted(models, stream(piece, end="cut")) as server,
        cataloged(tmp_path, entry(f'url = "{server.url}"')) as service,
    ):
        request = pb.GenerateStreamRequest(model_id="mine", prompt="x", resume=resume)
        events = aiter(service.stub.GenerateStream(request))
        assert (await anext(events)).chunk.text == " one"
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await anext(events)

    failed = failure(error.value)
    assert (failed.reason, failed.code) == ("ENGINE_FAILED", grpc.StatusCode.ABORTED)


async def test_options_that_the_engine_has_not_are_refused(tmp_path: Path, worker: Worker) -> None:
    section = f'url = "{worker.url}"\nserved_name = "{GGUF}"'
    async with cataloged(tmp_path, entry(section)) as service:
        body = {"model_id": "mine", "top_k": 3} | GREEDY
        answer = await service.http.post("/generate", json=body)

    assert answer.status_code == 422
    assert answer.json()["detail"] == "top_k is no option of the engine of mine; leave it out"
    assert answer.headers["x-error-reason"] == "INVALID_PARAMETER"


async def start_error(service: Serving, reason: str = "MODEL_UNUSABLE") -> str:
    """Return the message with which the model does not start, and check that nothing is left."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await service.stub.StartModel(pb.StartModelRequest(model_id="mine"))
    failed = failure(error.value)
    assert failed.reason == reason
    return failed.message


async def test_a_url_that_answers_html_is_a_clear_error(tmp_path: Path) -> None:
    page = plain(200, b"<html>Log in</html>", content_type="text/html; charset=utf-8")
    async with (
        scripted(page) as server,
        cataloged(tmp_path, entry(f'url = "{server.url}"')) as service,
    ):
        assert (await start_error(service)).endswith(
            "/v1/models is a page for people, and no engine; see `url` and `health` in the catalog"
        )


async def test_a_url_that_cannot_be_reached_is_told_at_once(tmp_path: Path) -> None:
    [port] = {*map(int, free_ports(1).split("-"))}
    async with cataloged(tmp_path, entry(f'url = "http://127.0.0.1:{port}"')) as service:
        message = await start_error(service, "START_FAILED")
    assert f"http://127.0.0.1:{port} cannot be reached: " in message


async def test_an_engine_with_another_models_name_is_a_clear_error(tmp_path: Path) -> None:
    section = command(more='health = "/health"').replace(f'served_name = "{GGUF}"', "")
    async with cataloged(tmp_path, entry(section)) as service:
        message = await start_error(service)
        assert message.endswith(f"serves {str(GGUF)!r}, and not 'mine'; see `served_name`")
        assert service.service.models.find("mine").status.port == 0


async def test_a_program_that_is_not_there_or_fails_is_a_clear_error(tmp_path: Path) -> None:
    async with cataloged(tmp_path, entry(command("no-such-program"))) as service:
        assert "'no-such-program' of its entry cannot be run" in await start_error(service)
    script = "raise ValueError('no memory for 7 layers')"
    async with cataloged(tmp_path, entry(command(sys.executable, "-c", script))) as service:
        message = await start_error(service, "START_FAILED")
        assert "ValueError: no memory for 7 layers" in message


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            'url = "https://h"\nimage = "a"',
            "entry 1 ('mine'), key openai: must have exactly one of",
        ),
        ('command = ["a", "{prot}"]\nmemory = "1GB"', "key openai.command: has the placeholder"),
        ('url = "https://h"\nargs = ["a"]', "key openai: has `args`, which goes with `image`"),
        ('url = "https://h"\nslot = 1', "key openai.slot: is not known; known are memory"),
        ('url = "https://h"\nkey_file = "none"', "key openai.key_file: "),
        ('url = "https://h"\noptions = { k = "k" }', "key openai.options: has 'k'; known are"),
        (
            'command = ["a", "{port}", "{weights}"]\nmemory = "1GB"\nweights.path = "no"',
            "key openai.weights.path: there is no file or folder",
        ),
    ],
)
async def test_a_mistake_in_the_section_is_named(
    tmp_path: Path, section: str, message: str
) -> None:
    with pytest.raises(CatalogInvalid) as caught:
        async with cataloged(tmp_path, entry(section)):
            pass

    assert message in caught.value.message
