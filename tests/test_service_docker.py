"""The service on a real Docker daemon: TGI's double and llama.cpp in containers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import docker
import grpc
import httpx
import pytest
from docker.errors import NotFound

from inference_service.capacity.gpus import GpuError
from inference_service.engines.kinds import KINDS
from inference_service.engines.tgi.engine import Tgi
from inference_service.v1 import model_service_pb2 as pb
from tests.command import command
from tests.docker import images
from tests.docker.daemon import Daemon
from tests.docker.needs import require_daemon, require_private_daemon, require_registry
from tests.docker.registry import Registry
from tests.doubles.hub import Hub
from tests.service import Serving, failure, free, free_ports, serving
from tests.waiting import SLOWLY, within

pytestmark = pytest.mark.docker

NAME = f"inference-service-test-{os.getpid()}"
PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def client() -> Iterator[docker.DockerClient]:
    """Connect to the daemon of this machine, on which nothing of these tests may be left."""
    require_daemon()
    daemon = docker.from_env()
    yield daemon
    ours = daemon.containers.list(all=True, filters={"label": f"inference-service.service={NAME}"})
    with contextlib.suppress(NotFound):
        daemon.volumes.get(NAME).remove()
    daemon.close()
    assert ours == []


@asynccontextmanager
async def on_docker(client: docker.DockerClient, **changes: Any) -> AsyncGenerator[Serving]:
    """Run a service on Docker whose TGI is the double."""
    settings = {
        "runtime": "docker",
        "tgi_image": images.tgi_double(client),
        "service_name": NAME,
        "volume": NAME,
        "ports": free_ports(8),
    }
    async with serving(**settings | changes) as service:
        yield service


@pytest.fixture
async def service(client: docker.DockerClient) -> AsyncGenerator[Serving]:
    async with on_docker(client) as running:
        yield running


def catalog(folder: Path, **entries: str) -> Path:
    """Write a catalog; each of `entries` has the `[models.tgi]` lines of a model."""
    path = folder / "catalog.toml"
    path.write_text(
        "\n".join(
            f'[[models]]\nid = "{id}"\nhf_name = "org/{id}"\ncontext_length = 1024\n[models.tgi]\n'
            f'memory = "256MiB"\nweights = {{ repo = "org/{id}" }}\n{lines}\n'
            for id, lines in entries.items()
        )
    )
    return path


async def refused(service: Serving, model_id: str, reason: str = "START_FAILED") -> tuple[Any, Any]:
    """Return the answers to a start that fails with this reason, over REST and over gRPC."""
    rest = await service.http.post(f"/models/{model_id}/start")
    assert (rest.status_code, rest.headers["x-error-reason"]) == (503, reason)
    assert list(rest.json()) == ["detail"]
    model = (await service.stub.GetModel(pb.GetModelRequest(model_id=model_id))).model
    assert model.state == pb.MODEL_STATE_FAILED
    assert model.last_error.message == rest.json()["detail"]
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await service.stub.Generate(pb.GenerateRequest(model_id=model_id, prompt="x"))
    failed = failure(error.value)
    lasts = reason == "MODEL_UNUSABLE"
    assert failed.reason == (reason if lasts else "START_BACKING_OFF")
    assert rest.json()["detail"][:200] in failed.message
    assert ("RetryInfo" in failed.details) is not lasts
    return rest, model


async def test_start_and_stop_are_as_documented(
    client: docker.DockerClient, service: Serving
) -> None:
    started = await service.http.post("/models/gpt-2/start")

    port = started.json()["port"]
    assert started.json() == {
        "message": "Container for gpt-2 started",
        "port": port,
        "container_name": f"{NAME}-tgi-gpt-2",
    }
    container = client.containers.get(f"{NAME}-tgi-gpt-2")
    facts = container.attrs
    assert facts["NetworkSettings"]["Ports"]["80/tcp"] == [
        {"HostIp": "127.0.0.1", "HostPort": str(port)}
    ]
    assert {"MODEL_ID=gpt2", "USAGE_STATS=off", "DISABLE_CUSTOM_KERNELS=true"} <= set(
        facts["Config"]["Env"]
    )
    assert facts["HostConfig"]["Memory"] == 4 * 10**9
    assert facts["HostConfig"]["ShmSize"] == 2**30
    assert facts["HostConfig"]["Init"] is True
    assert (await service.http.get("/")).json()["running_containers"] == ["gpt-2"]

    text = await service.http.post("/generate", json={"model_id": "gpt-2", "prompt": PROMPT})
    assert text.json()["generated_text"].startswith(PROMPT)

    stopped = await service.http.post("/models/gpt-2/stop")
    assert stopped.json() == {"message": "Container for gpt-2 stopped"}
    with pytest.raises(NotFound):
        client.containers.get(f"{NAME}-tgi-gpt-2")
    assert free(port)
    assert (await service.http.post("/models/gpt-2/stop")).status_code == 404


async def test_fifty_at_once_on_a_cold_model_start_one_container(
    client: docker.DockerClient, service: Serving
) -> None:
    body = {"model_id": "gpt-2", "prompt": PROMPT, "max_new_tokens": 5}

    answers = await asyncio.gather(*(service.http.post("/generate", json=body) for _ in range(50)))

    assert [answer.status_code for answer in answers] == [200] * 50
    ours = client.containers.list(filters={"label": f"inference-service.service={NAME}"})
    assert [container.name for container in ours] == [f"{NAME}-tgi-gpt-2"]


async def test_llama_cpp_writes_real_text_in_a_container(client: docker.DockerClient) -> None:
    async with on_docker(client, llamacpp_image=images.llamacpp(client)) as service:
        model = (await service.stub.GetModel(pb.GetModelRequest(model_id="story-mini"))).model
        assert (model.runtime, model.engine) == ("docker", "llamacpp")
        request = {"model_id": "story-mini", "prompt": PROMPT, "temperature": 0}
        inside = (await service.http.post("/generate", json=request)).json()["generated_text"]
    async with serving(ports=free_ports(4)) as embedded:
        outside = (await embedded.http.post("/generate", json=request)).json()["generated_text"]

    assert inside == outside
    assert len(inside.split()) > 20


async def test_auto_takes_docker_and_leaves_to_the_embedded_engine_what_tgi_cannot_run(
    client: docker.DockerClient,
) -> None:
    async with on_docker(client, runtime="auto") as service:
        models = (await service.stub.ListModels(pb.ListModelsRequest())).models
        request = pb.StartModelRequest(model_id="phi-2", validate_only=True)
        planned = await service.stub.StartModel(request)
        info = await service.stub.GetInfo(pb.GetInfoRequest())
        text = await service.http.post("/generate", json={"model_id": "story-mini", "prompt": "x"})

    assert info.runtime == "docker"
    assert {m.id: (m.runtime, m.engine) for m in models} == {
        **{m.id: ("process", "llamacpp") for m in models},
        "gpt-2": ("docker", "tgi"),
        "tiny-llama": ("docker", "tgi"),
    }
    assert planned.model.placement == "tgi needs a GPU for it, which the service does not have"
    assert planned.plan.required_memory_bytes == 6 * 10**9
    assert text.status_code == 200


FAULTS = [
    pytest.param("status=422", "INVALID_PARAMETER", 422, id="422"),
    pytest.param("status=424", "ENGINE_FAILED", 503, id="424"),
    pytest.param("status=429", "ENGINE_OVERLOADED", 429, id="429"),
    pytest.param("status=500", "ENGINE_FAILED", 503, id="500"),
    pytest.param("plain", "ENGINE_FAILED", 503, id="plain text"),
    pytest.param("half_event=0", "ENGINE_FAILED", 503, id="half an event"),
    pytest.param("half_event=3", "ENGINE_FAILED", 503, id="three events and a half"),
    pytest.param("no_answer", "ENGINE_FAILED", 503, id="nothing"),
    pytest.param("garbage=0", "ENGINE_FAILED", 503, id="garbage"),
    pytest.param("cut_after=3", "ENGINE_FAILED", 503, id="no final event"),
    pytest.param("error_after=3", "ENGINE_FAILED", 503, id="an error in the stream"),
]


async def test_each_fault_of_the_engine_has_its_answer(service: Serving) -> None:
    """One container for all faults: after each fault, the next text is as before."""
    for case in FAULTS:
        fault, reason, status = case.values
        prompt = f"[[no_eos]][[fault:{fault}]] {PROMPT}"
        rest = await service.http.post("/generate", json={"model_id": "gpt-2", "prompt": prompt})
        assert (rest.status_code, rest.headers["x-error-reason"]) == (status, reason), case.id
        assert isinstance(rest.json()["detail"], str)
        if reason == "ENGINE_OVERLOADED":
            assert rest.headers["retry-after"] == "1"

        sent = 0
        with pytest.raises(grpc.aio.AioRpcError) as error:
            request = pb.GenerateStreamRequest(model_id="gpt-2", prompt=prompt)
            async for event in service.stub.GenerateStream(request):
                sent += event.chunk.token_count
        failed = failure(error.value)
        assert failed.reason == reason, case.id
        assert int(failed.metadata.get("sent_token_count", 0)) == sent
        if reason == "ENGINE_FAILED":
            expected = grpc.StatusCode.ABORTED if sent else grpc.StatusCode.UNAVAILABLE
            assert failed.code is expected, case.id
        assert failed.metadata["model_id"] == "gpt-2"

        good = await service.http.post("/generate", json={"model_id": "gpt-2", "prompt": PROMPT})
        assert good.status_code == 200, case.id


async def test_a_prompt_that_fills_the_context_of_tgi(
    client: docker.DockerClient, tmp_path: Path
) -> None:
    models = catalog(tmp_path, short='env = { MAX_TOTAL_TOKENS = "64", MAX_INPUT_TOKENS = "63" }')
    async with on_docker(client, catalog=models) as service:
        body = {"model_id": "short", "prompt": "word " * 500}
        too_long = await service.http.post("/generate", json=body)
        nearly = await service.stub.Generate(
            pb.GenerateRequest(model_id="short", prompt="[[no_eos]]" + " word" * 20)
        )

    assert too_long.status_code == 422
    assert too_long.headers["x-error-reason"] == "PROMPT_TOO_LONG"
    assert nearly.summary.finish_reason == pb.FINISH_REASON_LENGTH
    assert nearly.summary.prompt_token_count + nearly.summary.completion_token_count == 64


@pytest.mark.parametrize("part", ["shard.py", "text-generation-router"])
async def test_a_text_outlives_the_death_of_a_part_of_tgi(
    client: docker.DockerClient, tmp_path: Path, part: str
) -> None:
    """The container lives on for a while, without a shard or without the router."""
    models = catalog(tmp_path, slow='env = { DOUBLE_TOKENS_PER_SECOND = "20" }')
    async with on_docker(client, catalog=models) as service:
        request = pb.GenerateStreamRequest(
            model_id="slow", prompt=f"[[no_eos]] {PROMPT}", max_new_tokens=60, resume=True
        )
        sent = 0
        async for event in service.stub.GenerateStream(request):
            if event.chunk.token_count and not sent:
                kill_in(client, f"{NAME}-tgi-slow", part)
            sent += event.chunk.token_count

    # A text can end within a character, whose tokens no chunk has.
    assert (event.summary.completion_token_count, len(event.summary.resumptions)) == (60, 1)
    assert 50 < sent <= 60


def kill_in(client: docker.DockerClient, name: str, part: str) -> None:
    """Kill the process of a container with this text in its command."""
    top = client.containers.get(name).top(ps_args="-eo pid,args")
    (pid,) = (int(line[0]) for line in top["Processes"] if part in line[-1])
    os.kill(pid, signal.SIGKILL)


async def test_a_failed_start_names_its_cause(client: docker.DockerClient, tmp_path: Path) -> None:
    models = catalog(
        tmp_path,
        gated='env = { DOUBLE_FAULT = "gated" }',
        cuda='env = { DOUBLE_FAULT = "cuda_oom" }',
        memory='env = { DOUBLE_FAULT = "oom_kill" }',
        exits=f'image = "{images.early_exit(client)}"',
        command=f'image = "{images.missing_command(client)}"',
        # The error must fit into trailers, however long the log of the engine is.
        wordy=f'env = {{ DOUBLE_FAULT = "gated", MODEL_ID = "org/{"näme" * 500}" }}',
    )
    async with on_docker(client, catalog=models) as service:
        causes = {
            "gated": "gated",
            "cuda": "CUDA out of memory",
            "memory": "ran out of its memory limit",
            "exits": "exited with code 3",
            "command": "/no/such/command",
            "wordy": "wordy cannot be started",
        }
        lasting = ("gated", "command", "wordy")
        for model_id, cause in causes.items():
            reason = "MODEL_UNUSABLE" if model_id in lasting else "START_FAILED"
            rest, _ = await refused(service, model_id, reason)
            assert cause in rest.json()["detail"]


async def test_an_image_that_does_not_exist(client: docker.DockerClient, tmp_path: Path) -> None:
    require_registry()
    with Registry() as registry:
        missing = f"{registry.address}/none:1"
        models = catalog(tmp_path, none=f'image = "{missing}"', gone=f'image = "{missing}"')
        async with on_docker(client, catalog=models) as service:
            rest, _ = await refused(service, "none", "MODEL_UNUSABLE")
            refusal = f"(pulling image): the image {missing} could not be pulled"
            assert refusal in rest.json()["detail"]
            registry.stop()
            rest, _ = await refused(service, "gone")
            assert "connection refused" in rest.json()["detail"]


async def test_the_pull_of_an_image_is_reported(
    client: docker.DockerClient, tmp_path: Path
) -> None:
    require_registry()
    require_private_daemon()
    with Registry() as registry, Daemon() as daemon:
        reference = registry.push(client, images.tgi_double(client), "tgi:1")
        models = catalog(tmp_path, pulled=f'image = "{reference}"')
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DOCKER_HOST", daemon.url)
            async with on_docker(client, catalog=models) as service:
                request = pb.GenerateStreamRequest(
                    model_id="pulled", prompt=PROMPT, max_new_tokens=3, status_events=True
                )
                events = [event async for event in service.stub.GenerateStream(request)]

    reports = [e.status.start_progress for e in events if e.WhichOneof("event") == "status"]
    pulls = [p for p in reports if p.phase == pb.START_PHASE_PULLING_IMAGE]
    fractions = [p.fraction for p in pulls if p.HasField("fraction")]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert max(p.completed_count for p in pulls) > 10**6
    assert {p.unit for p in pulls} == {"bytes"}
    phases = [p.phase for p in reports]
    assert phases == sorted(phases)
    assert {pb.START_PHASE_DOWNLOADING_WEIGHTS, pb.START_PHASE_LOADING_WEIGHTS} <= set(phases)
    assert events[-1].WhichOneof("event") == "summary"


async def test_the_download_of_weights_is_reported_in_bytes(
    client: docker.DockerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    often = replace(KINDS["tgi"], make=partial(Tgi, look_every=0.1))
    monkeypatch.setitem(KINDS, "tgi", often)
    models = catalog(tmp_path, large='env = { DOUBLE_DOWNLOAD_SECONDS = "3" }')
    async with Hub() as hub:
        for number in (0, 1):  # the two files that the double downloads
            name = f"model-0000{number + 1}-of-00002.safetensors"
            hub.add("org/large", name, bytes([number]) * (3 * 2**19))
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        async with on_docker(client, catalog=models) as service:
            watcher = service.stub.WatchModels(pb.WatchModelsRequest(model_id="large"))
            await anext(aiter(watcher))
            start = pb.StartModelRequest(model_id="large", no_wait=True)
            await service.stub.StartModel(start)
            reports = []
            async with within(SLOWLY, "the model did not become READY"):
                async for change in watcher:  # a watch has each change; status events skip some
                    reports.append(change.model.start_progress)
                    if change.model.state == pb.MODEL_STATE_READY:
                        break
            watcher.cancel()

    in_bytes = [p for p in reports if p.unit == "bytes"]
    counts = [p.completed_count for p in in_bytes]
    assert len(set(counts)) > 5
    assert counts == sorted(counts)
    assert counts[-1] == 3 * 2**20
    assert {p.total_count for p in in_bytes} == {3 * 2**20}
    assert [p.fraction for p in in_bytes] == [count / (3 * 2**20) for count in counts]
    assert any("(1 of 2 files)" in p.message for p in in_bytes)


async def test_a_daemon_that_stops_is_reported_and_serves_when_it_is_back(
    client: docker.DockerClient,
) -> None:
    require_private_daemon()
    with Daemon(live_restore=True) as daemon, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", daemon.url)
        image = images.tgi_double(daemon.client)
        async with on_docker(client, tgi_image=image) as service:
            daemon.stop()
            rest = await service.http.post("/models/gpt-2/start")
            assert (rest.status_code, rest.headers["x-error-reason"]) == (
                503,
                "RUNTIME_UNAVAILABLE",
            )
            assert (await service.http.get("/models")).status_code == 200

            daemon.start()
            again = await service.http.post("/models/gpt-2/start")
            assert again.status_code == 503
            await asyncio.sleep(int(again.headers["retry-after"]))
            assert (await service.http.post("/models/gpt-2/start")).status_code == 200

            daemon.stop()
            stopped = await service.http.post("/models/gpt-2/stop")
            assert (stopped.status_code, stopped.headers["x-error-reason"]) == (500, "STOP_FAILED")
            assert f"docker rm -f {NAME}-tgi-gpt-2" in stopped.json()["detail"]

            daemon.start()
            again = await service.http.post("/models/gpt-2/start")
            await asyncio.sleep(int(again.headers["retry-after"]))
            assert (await service.http.post("/models/gpt-2/start")).status_code == 200
            engines = daemon.client.containers.list(filters={"name": f"{NAME}-tgi"})
            assert len(engines) == 1


async def test_ports_that_are_used_up(client: docker.DockerClient) -> None:
    async with on_docker(client, ports=free_ports(1)) as service:
        assert (await service.http.post("/models/gpt-2/start")).status_code == 200

        rest, _ = await refused(service, "tiny-llama")

        assert "no port of 127.0.0.1 is free" in rest.json()["detail"]
        assert "widen the setting `ports`" in rest.json()["detail"]


async def test_the_token_of_the_hub_is_passed_on_and_shown_nowhere(
    client: docker.DockerClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", logger="inference_service")
    models = catalog(tmp_path, gated='env = { DOUBLE_FAULT = "gated" }')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TOKEN", "hf_secret")
        async with on_docker(client, catalog=models) as service:
            started = await service.http.post("/models/gated/start")
            container = client.containers.get(f"{NAME}-tgi-gated")
            model = (await service.stub.GetModel(pb.GetModelRequest(model_id="gated"))).model

    assert started.status_code == 200
    assert "HF_TOKEN=hf_secret" in container.attrs["Config"]["Env"]
    assert "hf_secret" not in str(container.labels) + str(model) + caplog.text


async def test_a_service_that_was_killed_leaves_its_containers_to_the_next(
    client: docker.DockerClient, tmp_path: Path
) -> None:
    ports = free_ports(8)
    models = catalog(tmp_path, same="", other="", dropped="")
    image = images.tgi_double(client)
    first = command(
        runtime="docker",
        service_name=NAME,
        volume=NAME,
        ports=ports,
        tgi_image=image,
        catalog=models,
    )
    async with first as killed, httpx.AsyncClient(timeout=60, trust_env=False) as http:
        for model_id in ("same", "other", "dropped"):
            assert (await http.post(f"{killed.url}/models/{model_id}/start")).status_code == 200
        body = {"model_id": "same", "prompt": "[[no_eos]]", "max_new_tokens": 900}
        async with http.stream("POST", f"{killed.url}/generate_stream", json=body) as stream:
            await anext(aiter(stream.aiter_bytes()))
            await killed.kill()
    kept = client.containers.get(f"{NAME}-tgi-same")
    foreign = client.containers.run(
        image, name=f"foreign-{NAME}", labels={"inference-service.service": "x"}, detach=True
    )
    try:
        models = catalog(tmp_path, same="", other="env = { MAX_BEST_OF = '1' }")
        async with on_docker(client, catalog=models, ports=ports) as service:
            started = await service.http.post("/models/same/start")
            now = client.containers.get(f"{NAME}-tgi-same")
            assert now.id == kept.id
            assert now.attrs["State"]["StartedAt"] == kept.attrs["State"]["StartedAt"]
            assert started.json()["port"] == int((kept.ports["80/tcp"] or [])[0]["HostPort"])
            for model_id in ("other", "dropped"):
                with pytest.raises(NotFound):
                    client.containers.get(f"{NAME}-tgi-{model_id}")
            body = {"model_id": "same", "prompt": PROMPT}
            assert (await service.http.post("/generate", json=body)).status_code == 200
            log = await service.http.get("/models/same/logs?tail_line_count=1000")
            assert "Connected" in log.text
        with pytest.raises(NotFound):
            client.containers.get(f"{NAME}-tgi-same")
        foreign.reload()
        assert foreign.status == "running"
    finally:
        foreign.remove(force=True, v=True)


async def test_a_service_can_leave_its_containers_on_purpose(client: docker.DockerClient) -> None:
    ports = free_ports(8)
    async with on_docker(client, leave_containers=True, ports=ports) as service:
        await service.http.post("/models/gpt-2/start")
        left = client.containers.get(f"{NAME}-tgi-gpt-2")
    left.reload()
    assert left.status == "running"

    async with on_docker(client, ports=ports) as service:
        await service.http.post("/models/gpt-2/start")
        assert client.containers.get(f"{NAME}-tgi-gpt-2").id == left.id
    with pytest.raises(NotFound):
        client.containers.get(f"{NAME}-tgi-gpt-2")


async def test_services_of_two_names_share_a_daemon(client: docker.DockerClient) -> None:
    ports = free_ports(8)
    blue, green = (
        on_docker(client, service_name=f"{NAME}-{colour}", ports=ports)
        for colour in ("blue", "green")
    )
    body = {"model_id": "gpt-2", "prompt": PROMPT}
    async with green as lasting:
        async with blue as passing:
            starts = (s.http.post("/models/gpt-2/start") for s in (passing, lasting))
            answers = [answer.json() for answer in await asyncio.gather(*starts)]
            assert [answer["container_name"] for answer in answers] == [
                f"{NAME}-blue-tgi-gpt-2",
                f"{NAME}-green-tgi-gpt-2",
            ]
            kept = client.containers.get(f"{NAME}-green-tgi-gpt-2")
            assert (await passing.http.post("/models/gpt-2/stop")).status_code == 200
            assert free(answers[0]["port"])
            assert (await passing.http.post("/generate", json=body)).status_code == 200
        assert client.containers.list(all=True, filters={"name": f"{NAME}-blue"}) == []
        assert (await lasting.http.post("/generate", json=body)).status_code == 200
        kept.reload()
        assert kept.status == "running"
    assert client.containers.list(all=True, filters={"name": f"{NAME}-green"}) == []


async def test_a_second_service_of_the_same_name_is_refused_before_it_changes_anything(
    client: docker.DockerClient, service: Serving
) -> None:
    await service.http.post("/models/gpt-2/start")
    before = client.containers.get(f"{NAME}-tgi-gpt-2")
    second = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "inference_service", "--grpc-port=0", "--rest-port=0"),
        f"--service-name={NAME}",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with within(SLOWLY, "the second service did not end"):
        out, err = await second.communicate()

    assert (second.returncode, out) == (1, b"")
    assert f"a service named {NAME} uses this Docker daemon already" in err.decode()
    before.reload()
    assert before.status == "running"
    text = await service.http.post("/generate", json={"model_id": "gpt-2", "prompt": PROMPT})
    assert text.status_code == 200


async def test_models_share_a_gpu_across_a_restart_of_the_service(
    client: docker.DockerClient, tmp_path: Path
) -> None:
    require_private_daemon()
    ports = free_ports(8)
    models = catalog(
        tmp_path,
        one='gpus = "all"\ngpu_memory = "30GB"',
        two='gpus = "all"\ngpu_memory = "20GB"',
        new='gpus = "all"\ngpu_memory = "40GB"',
        huge='gpus = "all"\ngpu_memory = "90GB"',
    )

    def dry_run(model_id: str) -> pb.StartModelRequest:
        return pb.StartModelRequest(model_id=model_id, validate_only=True)

    with Daemon(nvidia=True) as daemon, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", daemon.url)
        settings = {
            "tgi_image": images.tgi_double(daemon.client),
            "catalog": models,
            "ports": ports,
            "gpu_memory": "80GB",
            "min_residency": 0,
        }
        async with on_docker(client, leave_containers=True, **settings) as service:
            for model_id in ("one", "two"):
                await service.http.post(f"/models/{model_id}/start")
            left = [
                daemon.client.containers.get(f"{NAME}-tgi-{model_id}")
                for model_id in ("one", "two")
            ]
            env = [{*container.attrs["Config"]["Env"]} for container in left]

        async with on_docker(client, **settings) as service:
            for model_id in ("one", "two"):
                await service.http.post(f"/models/{model_id}/start")
            shown = (await service.stub.GetModel(pb.GetModelRequest(model_id="two"))).model
            now = [daemon.client.containers.get(c.name or "").id for c in left]
            plan = (await service.stub.StartModel(dry_run("new"))).plan
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await service.stub.StartModel(dry_run("huge"))

    assert {"NUM_SHARD=1", "CUDA_MEMORY_FRACTION=0.375"} < env[0]
    assert {"NUM_SHARD=1", "CUDA_MEMORY_FRACTION=0.625"} < env[1]
    assert now == [container.id for container in left]
    assert (shown.gpu_memory_bytes, [*shown.gpu_ids]) == (20 * 10**9, ["0"])
    assert (plan.required_gpu_memory_bytes, plan.gpus[0].free_memory_bytes) == (
        40 * 10**9,
        30 * 10**9,
    )
    assert [*plan.evicted_model_ids] == ["one"]
    assert failure(refused.value).reason == "INSUFFICIENT_MEMORY"
    assert failure(refused.value).metadata["required_gpu_bytes"] == str(90 * 10**9)


async def test_sizes_for_gpus_that_are_not_there_end_the_start_of_the_service(
    client: docker.DockerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\necho GPU-1, 24564\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(GpuError, match="has 2 sizes, and the GPUs of this machine are 1"):
        async with on_docker(client, gpu_memory="1GB,2GB"):
            pass
