"""The service as a user meets it: gRPC and REST over loopback, story-mini in a real engine."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import grpc
import httpx
import pytest
import uvicorn
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

import inference_service
from inference_service.api import listener
from inference_service.api.listener import BindError
from inference_service.v1 import model_service_pb2 as pb
from inference_service.v1 import model_service_pb2_grpc as pb_grpc
from tests.service import Failure, Serving, failure, free, free_ports, serving
from tests.test_cli import children
from tests.waiting import PROMPTLY, SLOWLY, until, within

PROMPT = "Once upon a time"


@pytest.fixture
async def service() -> AsyncGenerator[Serving]:
    async with serving(ports=free_ports(8)) as running:
        yield running


T = TypeVar("T")


def engines() -> list[int]:
    """Return the engine processes of this process."""
    found = []
    for status in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = status.read_bytes().split(b"\0")
            parent = (status.parent / "stat").read_text().rsplit(")", 1)[1].split()[1]
        except OSError:  # it has gone meanwhile
            continue
        if b"inference_service.worker" in words and int(parent) == _me():
            found.append(int(status.parent.name))
    return found


async def killed_after(engine: int, first: Awaitable[T]) -> T:
    """Await the first event of a text, then kill the engine, which cannot have ended the text.

    The engine runs for two milliseconds at a time, and a text of 100 tokens takes 50. It runs on
    the core of this thread, and only while no other process needs that core: on a busy machine both
    wait.
    """
    task = asyncio.ensure_future(first)
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    for thread in Path(f"/proc/{engine}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {min(cores)})
        os.sched_setscheduler(int(thread.name), os.SCHED_IDLE, os.sched_param(0))
    while not task.done():
        os.kill(engine, signal.SIGCONT)
        time.sleep(0.002)  # noqa: ASYNC251  # a busy loop would delay the next line
        os.kill(engine, signal.SIGSTOP)
        await asyncio.wait([task], timeout=0.02)
    os.kill(engine, signal.SIGKILL)
    os.sched_setaffinity(0, cores)
    return await task


def _me() -> int:
    return int(Path("/proc/self").resolve().name)


async def test_the_documented_rest_calls_give_the_documented_answers(service: Serving) -> None:
    http = service.http
    ids = "gpt-2 tiny-llama phi-2 mistral-7b llama-2-7b falcon-7b story-mini".split()
    assert (await http.get("/")).json() == {
        "message": "LLM Inference API",
        "models": ids,
        "running_containers": [],
    }

    started = await http.post("/models/story-mini/start")
    again = await http.post("/models/story-mini/start")

    port = service.service.models.find("story-mini").status.port
    assert (started.status_code, started.json()) == (
        200,
        {
            "message": "Container for story-mini started",
            "port": port,
            "container_name": "tgi-story-mini",
        },
    )
    assert again.json() == started.json()
    assert (await http.get("/models")).json()["models"][-2:] == [
        {
            "id": "falcon-7b",
            "name": "falcon-7b",
            "hf_name": "tiiuae/falcon-7b-instruct",
            "running": False,
        },
        {"id": "story-mini", "name": "story-mini", "hf_name": "story-mini", "running": True},
    ]
    assert (await http.get("/")).json()["running_containers"] == ["story-mini"]

    text = await http.post("/generate", json={"model_id": "story-mini", "prompt": PROMPT})
    assert text.status_code == 200
    assert list(text.json()) == ["generated_text", "model_id"]
    assert text.json()["generated_text"].startswith(PROMPT)
    assert len(text.json()["generated_text"]) > len(PROMPT) + 20
    assert text.json()["model_id"] == "story-mini"

    stopped = await http.post("/models/story-mini/stop")
    assert (stopped.status_code, stopped.json()) == (
        200,
        {"message": "Container for story-mini stopped"},
    )
    missing = await http.post("/models/story-mini/stop")
    assert (missing.status_code, missing.json()) == (404, {"detail": "story-mini is not running"})
    assert missing.headers["x-error-reason"] == "CONTAINER_NOT_RUNNING"


async def test_the_documented_python_example_runs_as_written(service: Serving) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        response = await client.post(
            f"{service.service.rest_url}/generate",
            json={"model_id": "story-mini", "prompt": "What is AI?", "max_new_tokens": 100},
        )
        assert response.json()["generated_text"].startswith("What is AI?")


async def test_generate_starts_the_model_and_returns_a_summary(service: Serving) -> None:
    answer = await service.stub.Generate(
        pb.GenerateRequest(model_id="story-mini", prompt=PROMPT, max_new_tokens=7)
    )

    assert answer.generated_text.startswith(PROMPT)
    assert answer.summary.finish_reason == pb.FINISH_REASON_LENGTH
    assert answer.summary.completion_token_count == 7
    assert answer.summary.prompt_token_count > 0
    assert answer.summary.start_duration.ToNanoseconds() > 0
    assert not answer.summary.HasField("first_token_duration")
    assert (
        answer.summary.total_duration.ToNanoseconds()
        > answer.summary.start_duration.ToNanoseconds()
    )


async def test_the_prompt_can_be_left_out_of_the_text(service: Serving) -> None:
    request = {"model_id": "story-mini", "prompt": PROMPT, "temperature": 0, "max_new_tokens": 9}

    full = (await service.http.post("/generate", json=request)).json()["generated_text"]
    rest = (
        await service.http.post("/generate", json=request | {"return_full_text": False})
    ).json()["generated_text"]

    assert full == PROMPT + rest


async def test_temperature_0_and_a_seed_are_repeatable(service: Serving) -> None:
    for choice in ({"temperature": 0.0}, {"seed": 7, "temperature": 1.5}):
        request = pb.GenerateRequest(model_id="story-mini", prompt=PROMPT, **choice)  # type: ignore[arg-type]
        texts = {(await service.stub.Generate(request)).generated_text for _ in range(3)}
        assert len(texts) == 1


async def test_a_stream_is_the_start_then_the_text_then_one_summary(service: Serving) -> None:
    request = pb.GenerateStreamRequest(
        model_id="story-mini", prompt=PROMPT, max_new_tokens=30, temperature=0, status_events=True
    )
    events = [event async for event in service.stub.GenerateStream(request)]
    kinds = [event.WhichOneof("event") for event in events]
    chunks = [event.chunk for event in events if event.WhichOneof("event") == "chunk"]
    whole = await service.stub.Generate(
        pb.GenerateRequest(
            model_id="story-mini",
            prompt=PROMPT,
            max_new_tokens=30,
            temperature=0,
            return_full_text=False,
        )
    )

    assert kinds == sorted(kinds, key=lambda kind: ("status", "chunk", "summary").index(kind or ""))
    assert kinds.count("summary") == 1
    assert events[0].status.model_state == pb.MODEL_STATE_STARTING
    assert pb.START_PHASE_LOADING_WEIGHTS in {e.status.start_progress.phase for e in events}
    assert "".join(chunk.text for chunk in chunks) == whole.generated_text
    assert sum(chunk.token_count for chunk in chunks) == 30
    assert events[-1].summary.completion_token_count == 30


async def test_server_sent_events_are_the_same_stream(service: Serving) -> None:
    for path, extra in (("/generate_stream", {}), ("/generate", {"stream": True})):
        body = {"model_id": "story-mini", "prompt": PROMPT, "max_new_tokens": 5, **extra}
        response = await service.http.post(path, json=body)
        assert response.headers["content-type"].startswith("text/event-stream")
        names = [line for line in response.text.splitlines() if line.startswith("event: ")]
        assert names[-1] == "event: summary"
        assert set(names[:-1]) == {"event: chunk"}


async def test_fifty_at_once_on_a_cold_model_start_one_engine(service: Serving) -> None:
    body = {"model_id": "story-mini", "prompt": PROMPT, "max_new_tokens": 20}

    answers = await asyncio.gather(*(service.http.post("/generate", json=body) for _ in range(50)))

    assert [answer.status_code for answer in answers] == [200] * 50
    assert len(engines()) == 1


async def test_stop_leaves_no_process_and_no_port(service: Serving) -> None:
    port = (await service.stub.StartModel(pb.StartModelRequest(model_id="story-mini"))).port
    assert len(engines()) == 1
    assert not free(port)

    await service.stub.StopModel(pb.StopModelRequest(model_id="story-mini"))

    assert engines() == []
    assert free(port)


async def test_the_end_of_the_service_leaves_no_process_and_no_port() -> None:
    async with serving(ports=free_ports(4)) as service:
        port = (await service.stub.StartModel(pb.StartModelRequest(model_id="story-mini"))).port

    assert engines() == []
    assert free(port)


async def test_a_service_of_another_name_begins_at_another_port() -> None:
    first = free_ports(8)
    async with serving(ports=first, service_name="blue") as service:
        started = await service.http.post("/models/story-mini/start")

    assert started.json()["port"] == int(first.partition("-")[0]) + 4


async def test_no_wait_returns_at_once_and_the_start_goes_on(service: Serving) -> None:
    answer = await service.stub.StartModel(
        pb.StartModelRequest(model_id="story-mini", no_wait=True)
    )
    assert answer.model.state == pb.MODEL_STATE_STARTING
    assert answer.container_name == "tgi-story-mini"

    waited = await service.stub.StartModel(pb.StartModelRequest(model_id="story-mini"))

    assert waited.model.state == pb.MODEL_STATE_READY
    assert waited.port == waited.model.port > 0


async def test_a_caller_that_leaves_ends_its_generation(service: Serving) -> None:
    request = pb.GenerateStreamRequest(model_id="story-mini", prompt=PROMPT, max_new_tokens=500)
    model = service.service.models.find("story-mini")
    for _ in range(5):
        call = service.stub.GenerateStream(request)
        await call.read()
        call.cancel()
    unary = service.stub.Generate(
        pb.GenerateRequest(model_id="story-mini", prompt=PROMPT, max_new_tokens=500)
    )
    unary.cancel()

    await until(lambda: not model.view().active_count, "the leases were not given back", 1)


async def test_a_deadline_during_a_cold_start_disturbs_no_other_caller(service: Serving) -> None:
    request = pb.GenerateRequest(model_id="story-mini", prompt=PROMPT, max_new_tokens=5)
    patient = asyncio.ensure_future(service.stub.Generate(request))

    with pytest.raises(grpc.aio.AioRpcError) as error:
        await service.stub.Generate(request, timeout=0.02)

    assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert (await patient).generated_text.startswith(PROMPT)


async def test_a_text_that_takes_too_long_is_a_generation_timeout() -> None:
    async with serving(ports=free_ports(4), generation_timeout=0.02) as service:
        request = {"model_id": "story-mini", "prompt": PROMPT, "max_new_tokens": 500}
        response = await service.http.post("/generate", json=request)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await service.stub.Generate(pb.GenerateRequest(**request))  # type: ignore[arg-type]

    assert response.status_code == 504
    assert response.headers["x-error-reason"] == "GENERATION_TIMEOUT"
    assert failure(error.value).reason == "GENERATION_TIMEOUT"
    assert failure(error.value).code is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_an_engine_killed_in_the_middle_of_a_stream_is_an_error_and_is_replaced() -> None:
    async with serving(ports=free_ports(4)) as service:
        await service.stub.StartModel(pb.StartModelRequest(model_id="story-mini"))
        [engine] = engines()
        request = pb.GenerateStreamRequest(
            model_id="story-mini", prompt=PROMPT, max_new_tokens=500, temperature=0
        )
        # More than the engine has slots, so that some still wait when the first have ended.
        streams = [aiter(service.stub.GenerateStream(request)) for _ in range(32)]
        readers = [asyncio.ensure_future(anext(stream)) for stream in streams]
        await killed_after(engine, asyncio.wait(readers, return_when=asyncio.FIRST_COMPLETED))

        async def end(
            reader: asyncio.Future[pb.GenerateStreamResponse],
            stream: AsyncIterator[pb.GenerateStreamResponse],
        ) -> Failure | None:
            try:
                events = [await reader, *[event async for event in stream]]
            except grpc.aio.AioRpcError as error:
                return failure(error)
            assert events[-1].WhichOneof("event") == "summary"
            return None

        failures = list(filter(None, await asyncio.gather(*map(end, readers, streams))))
        assert "ENGINE_FAILED" in {failed.reason for failed in failures}
        for failed in failures:
            assert failed.reason in ("ENGINE_FAILED", "START_BACKING_OFF")  # some came later
            sent = int(failed.metadata.get("sent_token_count", 0))
            aborted, unavailable = grpc.StatusCode.ABORTED, grpc.StatusCode.UNAVAILABLE
            assert failed.code is (aborted if sent else unavailable)
        assert len(failures) < 32  # texts without a token yet come from the next engine
        assert engines() not in ([], [engine])


async def test_the_death_of_an_unused_engine_is_reported_with_its_cause() -> None:
    async with serving(ports=free_ports(4)) as service:
        await service.stub.StartModel(pb.StartModelRequest(model_id="story-mini"))
        [engine] = engines()
        watcher = service.stub.WatchModels(pb.WatchModelsRequest(model_id="story-mini"))
        os.kill(engine, signal.SIGKILL)
        async with within(SLOWLY, "the model did not become FAILED"):
            async for change in watcher:
                model = change.model
                if model.state == pb.MODEL_STATE_FAILED:
                    break
        watcher.cancel()
        assert "exited with code -9" in model.last_error.message
        assert model.HasField("retry_time")
        response = await service.http.post("/models/story-mini/start")
        assert response.status_code == 503
        assert response.headers["x-error-reason"] == "START_BACKING_OFF"
        await asyncio.sleep(int(response.headers["retry-after"]))
        assert (await service.http.post("/models/story-mini/start")).status_code == 200


async def test_a_text_goes_on_after_its_engine_was_killed(service: Serving) -> None:
    body = {"model_id": "story-mini", "prompt": PROMPT, "max_new_tokens": 300, "resume": True}
    request = pb.GenerateStreamRequest(**body)  # type: ignore[arg-type]
    await service.stub.StartModel(pb.StartModelRequest(model_id="story-mini"))
    [engine] = engines()
    stream = aiter(service.stub.GenerateStream(request))
    events = [await killed_after(engine, anext(stream))]
    events += [event async for event in stream]

    kinds = [event.WhichOneof("event") for event in events]
    assert kinds.count("resumption") == kinds.count("summary") == 1
    resumption, summary = events[kinds.index("resumption")].resumption, events[-1].summary
    before = sum(event.chunk.token_count for event in events[: kinds.index("resumption")])
    after = sum(event.chunk.token_count for event in events[kinds.index("resumption") :])
    assert "chunk" in kinds[kinds.index("resumption") :]
    assert list(summary.resumptions) == [resumption]
    assert (resumption.sent_token_count, "engine" in resumption.cause) == (before, True)
    assert summary.completion_token_count in (before + after, before + after + 1)  # an end of text
    assert summary.prompt_token_count in range(3, 7)

    [engine] = engines()
    opened = service.http.stream("POST", "/generate_stream", json=body)
    response = await killed_after(engine, opened.__aenter__())
    text = "".join([part async for part in response.aiter_text()])
    await opened.__aexit__(None, None, None)
    assert text.count("event: resumption\n") == text.count("event: summary\n") == 1
    assert '"resumptions": [{"sent_token_count": ' in text


async def test_shutdown_lets_a_stream_finish_and_refuses_new_calls() -> None:
    async with serving(ports=free_ports(4)) as service:
        request = pb.GenerateStreamRequest(model_id="story-mini", prompt=PROMPT, max_new_tokens=400)
        stream = aiter(service.stub.GenerateStream(request))
        await anext(stream)
        closing = asyncio.create_task(service.service.models.close(30))
        await asyncio.sleep(0)

        with pytest.raises(grpc.aio.AioRpcError) as error:
            await service.stub.Generate(pb.GenerateRequest(model_id="story-mini", prompt="x"))
        events = [event async for event in stream]
        await closing

    assert failure(error.value).reason == "SHUTTING_DOWN"
    assert events[-1].WhichOneof("event") == "summary"


async def test_health_names_the_service_and_each_model(service: Serving) -> None:
    health: Any = health_pb2_grpc.HealthStub(service.channel)

    async def status(name: str) -> int:
        request = health_pb2.HealthCheckRequest(service=name)
        return int((await health.Check(request)).status)

    serving_, not_serving = 1, 2
    assert await status("") == serving_
    assert await status("inference_service.v1.ModelService") == serving_
    assert await status("story-mini") == not_serving
    watch = health.Watch(health_pb2.HealthCheckRequest(service="story-mini"))
    assert (await watch.read()).status == not_serving
    await service.stub.StartModel(pb.StartModelRequest(model_id="story-mini"))
    assert (await watch.read()).status == serving_
    watch.cancel()
    assert (await service.http.get("/readyz")).status_code == 200


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_lists_and_describes_the_service(service: Serving, version: str) -> None:
    ask = service.channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    name = "inference_service.v1.ModelService"
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=name),
    ]
    listed, described = [answer async for answer in ask(iter(requests))]

    assert name in {found.name for found in listed.list_services_response.service}
    assert len(described.file_descriptor_response.file_descriptor_proto) >= 1


async def test_a_request_that_is_no_message_is_an_invalid_parameter(service: Serving) -> None:
    call: Any = service.channel.unary_unary("/inference_service.v1.ModelService/Generate")

    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call(b"\xff\xff\xff")

    assert failure(error.value).reason == "INVALID_PARAMETER"


async def test_fields_that_the_contract_does_not_have_are_ignored_over_grpc(
    service: Serving,
) -> None:
    """As in proto3, so that newer clients can call older services."""
    call: Any = service.channel.unary_unary("/inference_service.v1.ModelService/GetModel")
    request = pb.GetModelRequest(model_id="story-mini").SerializeToString() + b"\xfa\x3f\x01x"

    answer = pb.GetModelResponse.FromString(await call(request))

    assert answer.model.id == "story-mini"


async def test_two_services_do_not_share_a_grpc_port(service: Serving) -> None:
    taken = int(service.service.target.rpartition(":")[2])
    with pytest.raises(BindError, match="--grpc-port"):
        async with serving(grpc_port=taken):
            pass
    rest = httpx.URL(service.service.rest_url or "").port
    with pytest.raises(BindError, match="--rest-port"):
        async with serving(rest_port=rest):
            pass


async def test_a_service_whose_bridge_cannot_serve_does_not_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def load(_: uvicorn.Config) -> None:
        raise OSError("no more file handles")

    monkeypatch.setattr(uvicorn.Config, "load", load)

    with pytest.raises(OSError, match="no more file handles"):
        async with serving():
            pass


async def test_a_generated_stub_of_the_sync_api_works_too(service: Serving) -> None:
    def call() -> list[str]:
        with grpc.insecure_channel(service.service.target) as channel:
            stub = pb_grpc.ModelServiceStub(channel)
            return list(stub.GetInfo(pb.GetInfoRequest()).models)

    assert (await asyncio.to_thread(call))[-1] == "story-mini"


async def test_a_reflection_client_lists_and_calls_the_service(service: Serving) -> None:
    """`buf curl` knows the contract from reflection alone."""

    async def buf(*arguments: str) -> str:
        command = [str(Path(sys.executable).with_name("buf")), "curl", "--http2-prior-knowledge"]
        process = await asyncio.create_subprocess_exec(
            *command, "--protocol", "grpc", *arguments, stdout=asyncio.subprocess.PIPE
        )
        return (await process.communicate())[0].decode()

    url = f"http://{service.service.target}"
    method = "inference_service.v1.ModelService/Generate"

    listed = await buf(f"{url}/", "--list-methods")
    answer = await buf(f"{url}/{method}", "-d", '{"modelId": "story-mini", "prompt": "Once upon"}')

    assert method in listed.split()
    assert json.loads(answer)["generatedText"].startswith("Once upon")


async def test_a_plan_has_the_claim_of_a_start(tmp_path: Path) -> None:
    async with serving(ports=free_ports(4), memory="1.2GB") as service:
        ask = service.stub.StartModel
        await ask(pb.StartModelRequest(model_id="story-mini"))

        plan = (await ask(pb.StartModelRequest(model_id="gpt-2", validate_only=True))).plan
        assert (plan.required_memory_bytes, plan.capacity_memory_bytes) == (10**9, 1_200_000_000)
        assert plan.free_memory_bytes == 1_200_000_000 - 256 * 2**20
        assert plan.must_wait  # the minimum residency of story-mini is not over
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await ask(pb.StartModelRequest(model_id="mistral-7b", validate_only=True))
        refused = await service.http.post("/models/mistral-7b/start")

    assert failure(error.value).reason == "INSUFFICIENT_MEMORY"
    assert failure(error.value).code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (refused.status_code, refused.headers["x-error-reason"]) == (503, "INSUFFICIENT_MEMORY")
    assert "12.0 GB" in refused.json()["detail"]


async def test_a_request_sets_the_idle_timeout_up_to_the_limit_of_the_operator(
    service: Serving,
) -> None:
    request = pb.GenerateRequest(model_id="story-mini", prompt=PROMPT, max_new_tokens=2)
    request.idle_timeout.FromSeconds(0)
    await service.stub.Generate(request)
    await until(lambda: not engines(), "the idle engine was not stopped")

    request.idle_timeout.FromSeconds(3601)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await service.stub.Generate(request)
    assert failure(error.value).message == "idle_timeout must be from 0 to 3600 s, not 3601 s"

    request.idle_timeout.FromSeconds(60)
    await service.stub.Generate(request)
    model = (await service.stub.GetModel(pb.GetModelRequest(model_id="story-mini"))).model
    left = model.expire_time.ToDatetime() - model.state_change_time.ToDatetime()
    assert 50 < left.total_seconds() < 70


async def test_watchers_see_each_change_and_resume_without_loss(service: Serving) -> None:
    def watch(after: int = 0) -> AsyncIterator[pb.WatchModelsResponse]:
        request = pb.WatchModelsRequest(model_id="story-mini", after_revision=after)
        return aiter(service.stub.WatchModels(request))

    async def changes_until(
        changes: AsyncIterator[pb.WatchModelsResponse], state: pb.ModelState.ValueType
    ) -> list[pb.WatchModelsResponse]:
        seen: list[pb.WatchModelsResponse] = []
        async with within(SLOWLY, f"no change to {pb.ModelState.Name(state)} came"):
            while not seen or seen[-1].model.state != state:
                seen.append(await anext(changes))
        return seen

    changes = watch()
    assert (await anext(changes)).model.state == pb.MODEL_STATE_STOPPED
    snapshot = await anext(changes)
    assert snapshot.WhichOneof("event") == "snapshot_done"

    await service.stub.StartModel(pb.StartModelRequest(model_id="story-mini"))
    started = await changes_until(changes, pb.MODEL_STATE_READY)
    await service.stub.StopModel(pb.StopModelRequest(model_id="story-mini"))
    stopped = await changes_until(changes, pb.MODEL_STATE_STOPPED)
    again = await changes_until(watch(after=snapshot.revision), pb.MODEL_STATE_STOPPED)

    revisions = [change.revision for change in started + stopped]
    assert revisions == sorted(set(revisions))
    assert [c.revision for c in again] == revisions
    assert [c.model.state for c in again] == [c.model.state for c in started + stopped]
    foreign = watch(after=1)
    await anext(foreign)
    assert (await anext(foreign)).WhichOneof("event") == "snapshot_done"


async def test_a_watch_ends_with_the_service() -> None:
    async with serving(ports=free_ports(4)) as service:
        changes = aiter(service.stub.WatchModels(pb.WatchModelsRequest()))
        await anext(changes)
        await service.service.models.close(0)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            async with within(PROMPTLY, "the watch did not end"):
                async for _ in changes:
                    pass

    assert failure(error.value).reason == "SHUTTING_DOWN"


async def test_server_sent_changes_resume_by_their_id(service: Serving) -> None:
    async def read(headers: dict[str, str], count: int) -> list[dict[str, str]]:
        events: list[dict[str, str]] = [{}]
        async with service.http.stream("GET", "/models:watch", headers=headers) as response:
            assert response.headers["content-type"] == "text/event-stream"
            async for line in response.aiter_lines():
                key, _, value = line.partition(": ")
                if line:
                    events[-1][key] = value
                elif len(events) == count:
                    return events
                else:
                    events.append({})
        raise AssertionError("the stream ended")

    snapshot = await read({}, 8)
    assert [event["event"] for event in snapshot] == ["model"] * 7 + ["snapshot_done"]
    assert json.loads(snapshot[0]["data"])["id"] == "gpt-2"

    await service.stub.StartModel(pb.StartModelRequest(model_id="story-mini"))
    [first] = await read({"last-event-id": snapshot[-1]["id"]}, 1)

    assert json.loads(first["data"])["state"] == "MODEL_STATE_STARTING"
    assert int(first["id"]) == int(snapshot[-1]["id"]) + 1
    refused = await service.http.get("/models:watch?after_revision=-1")
    assert (refused.status_code, refused.headers["x-error-reason"]) == (422, "INVALID_PARAMETER")
    unknown = await service.http.get("/models:watch?model_id=nobody")
    assert unknown.status_code == 404


async def test_logs_are_those_of_the_run_and_are_kept_after_it(
    service: Serving, tmp_path: Path
) -> None:
    def read(**fields: Any) -> AsyncIterator[pb.StreamLogsResponse]:
        request = pb.StreamLogsRequest(model_id="story-mini", **fields)
        return aiter(service.stub.StreamLogs(request))

    with pytest.raises(grpc.aio.AioRpcError) as error:
        await anext(read())
    assert failure(error.value).reason == "CONTAINER_NOT_RUNNING"
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await anext(read(tail_line_count=1001))
    assert failure(error.value).reason == "INVALID_PARAMETER"

    await service.stub.StartModel(pb.StartModelRequest(model_id="story-mini"))
    follower = read(follow=True, tail_line_count=1000)
    async with within(PROMPTLY, "the last line of a start did not come"):
        while '"serving"' not in (await anext(follower)).line:
            pass
    kept = [answer.line async for answer in read()]
    assert '"serving"' in kept[-1]
    assert (await service.http.get("/models/story-mini/logs?tail_line_count=1")).text == (
        f"data: {kept[-1]}\n\n"
    )
    assert (await service.http.get("/models/story-mini/logs?tail_line_count=0")).text == ""

    await service.stub.StopModel(pb.StopModelRequest(model_id="story-mini"))
    assert [answer async for answer in follower] == []
    assert [answer.line async for answer in read()] == kept


def test_connections_to_rest_wait_for_no_acknowledgement() -> None:
    with (
        listener.bound("REST", "127.0.0.1", 0) as bound,
        socket.create_connection(bound.getsockname()),
        bound.accept()[0] as connection,
    ):
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_a_full_queue_is_429_with_the_time_to_retry() -> None:
    async with serving(ports=free_ports(4), queue_size=1) as service:
        await service.stub.StartModel(pb.StartModelRequest(model_id="story-mini"))
        body = {"model_id": "story-mini", "prompt": PROMPT, "max_new_tokens": 200}
        answers = await asyncio.gather(
            *(service.http.post("/generate", json=body) for _ in range(60))
        )

    refused = [answer for answer in answers if answer.status_code == 429]
    assert {answer.status_code for answer in answers} == {200, 429}
    assert len(refused) <= 60 - 9
    assert {answer.headers["x-error-reason"] for answer in refused} == {"QUEUE_FULL"}
    assert {answer.headers["retry-after"] for answer in refused} == {"5"}


async def test_three_hundred_at_once_are_all_answered(service: Serving) -> None:
    request = pb.GenerateRequest(model_id="story-mini", prompt=PROMPT, max_new_tokens=20)

    answers = await asyncio.gather(*(service.stub.Generate(request) for _ in range(300)))

    assert all(answer.generated_text.startswith(PROMPT) for answer in answers)
    assert len(engines()) == 1


async def test_the_forecast_of_a_start_is_by_the_starts_of_an_earlier_service(
    tmp_path: Path,
) -> None:
    plan = pb.StartModelRequest(model_id="story-mini", validate_only=True)
    settings: dict[str, Any] = {"ports": free_ports(4), "state_dir": tmp_path}
    async with serving(**settings) as service:
        assert not (await service.stub.StartModel(plan)).plan.HasField("usual_duration")
        await service.stub.StartModel(pb.StartModelRequest(model_id="story-mini"))

    async with serving(**settings) as service:
        usual = (await service.stub.StartModel(plan)).plan.usual_duration.ToTimedelta()
        assert usual > timedelta()
        request = pb.GenerateStreamRequest(
            model_id="story-mini", prompt=PROMPT, max_new_tokens=1, status_events=True
        )
        shown = [
            event.status.start_progress
            async for event in service.stub.GenerateStream(request)
            if event.status.model_state == pb.MODEL_STATE_STARTING
        ]
    assert shown[0].remaining_duration.ToTimedelta() <= usual
    assert all(progress.HasField("start_fraction") for progress in shown)
    fractions = [progress.start_fraction for progress in shown]
    assert fractions == sorted(fractions)
    assert 0 <= fractions[0] < fractions[-1] <= 1


async def test_a_deadline_that_a_start_cannot_meet_is_refused_and_the_start_goes_on(
    tmp_path: Path,
) -> None:
    program = " ".join((sys.executable, "-P", "-m", "inference_service.worker"))
    learnt = {f"process {program} story-mini": {"LOADING_WEIGHTS": [100.0, 90.0, 110.0]}}
    (tmp_path / "start-times-inference-service.json").write_text(json.dumps(learnt))
    async with serving(ports=free_ports(4), state_dir=tmp_path) as service:
        request = pb.GenerateRequest(model_id="story-mini", prompt=PROMPT, max_new_tokens=5)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await service.stub.Generate(request, timeout=60)

        refused = failure(error.value)
        assert (refused.code, refused.reason) == (
            grpc.StatusCode.UNAVAILABLE,
            "DEADLINE_TOO_SHORT",
        )
        assert refused.metadata["expected_seconds"] == "90.0"
        retry = refused.details["RetryInfo"]
        assert isinstance(retry, error_details_pb2.RetryInfo)
        assert 85 < retry.retry_delay.seconds <= 90
        assert (await service.stub.Generate(request, timeout=95)).generated_text.startswith(PROMPT)
        assert (await service.stub.Generate(request, timeout=60)).generated_text.startswith(PROMPT)


async def test_the_queue_position_is_reported_to_each_caller_that_waits(service: Serving) -> None:
    request = pb.GenerateStreamRequest(
        model_id="story-mini", prompt=PROMPT, max_new_tokens=100, status_events=True
    )
    await service.stub.StartModel(pb.StartModelRequest(model_id="story-mini"))

    async def events() -> list[pb.GenerateStreamResponse]:
        return [event async for event in service.stub.GenerateStream(request)]

    model = service.service.models.find("story-mini")
    [engine] = [
        child
        for child in children(os.getpid())
        if b"inference_service.worker" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]
    os.kill(engine, signal.SIGSTOP)  # so that no text ends while others still arrive
    try:
        texts = asyncio.gather(*(events() for _ in range(60)))
        await until(lambda: model.view().queued_count == 60 - 8, "not all 52 were in the queue")
    finally:
        os.kill(engine, signal.SIGCONT)
    positions = []
    for seen in await texts:
        statuses = [event.status for event in seen if event.WhichOneof("event") == "status"]
        assert {status.model_state for status in statuses} <= {pb.MODEL_STATE_READY}
        reported = [status.queue_position for status in statuses]
        assert reported == sorted(set(reported), reverse=True)
        assert seen[-1].WhichOneof("event") == "summary"
        positions += reported[:1]
    assert len(positions) == 60 - 8  # all but those that have a slot at once
    assert sorted(positions) == list(range(1, 60 - 8 + 1))


async def test_a_reload_restarts_the_models_that_have_changed_after_their_drain(
    tmp_path: Path,
) -> None:
    path = tmp_path / "models.toml"
    weights = Path(inference_service.__file__).parent / "story_mini" / "story-mini.gguf"

    def write(*entries: tuple[str, str]) -> None:
        path.write_text(
            "".join(
                f'[[models]]\nid = "{model_id}"\nhf_name = "x"\ncontext_length = 512\n'
                f'[models.llamacpp]\nmemory = "{memory}"\nweights = {{ path = "{weights}" }}\n'
                "threads = 1\n"
                for model_id, memory in entries
            )
        )

    write(("one", "256MiB"), ("two", "256MiB"))
    async with serving(ports=free_ports(8), catalog=path) as service:
        reload = pb.ReloadCatalogRequest()
        for model_id in ("one", "two"):
            await service.stub.StartModel(pb.StartModelRequest(model_id=model_id))
        kept, changed = engines()
        request = pb.GenerateStreamRequest(model_id="two", prompt=PROMPT, max_new_tokens=300)
        stream = aiter(service.stub.GenerateStream(request))
        await anext(stream)

        write(("one", "256MiB"), ("two", "257MiB"), ("three", "256MiB"))
        answer = await service.stub.ReloadCatalog(reload)
        assert (list(answer.added_model_ids), list(answer.restarted_model_ids)) == (
            ["three"],
            ["two"],
        )
        assert [event async for event in stream][-1].WhichOneof("event") == "summary"
        await service.stub.StartModel(pb.StartModelRequest(model_id="two"))
        assert kept in engines()
        assert changed not in engines()

        path.write_text("[[models]]\nid = 7\n")
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await service.stub.ReloadCatalog(reload)
        assert failure(error.value).reason == "CATALOG_INVALID"
        assert failure(error.value).code is grpc.StatusCode.FAILED_PRECONDITION
        response = await service.http.post("/catalog:reload")
        assert response.status_code == 409
        assert "key hf_name: is missing" in response.json()["detail"]

        write(("one", "256MiB"))
        watcher = service.stub.WatchModels(pb.WatchModelsRequest())
        async with within(PROMPTLY, "the snapshot did not end"):
            async for change in watcher:
                if change.WhichOneof("event") == "snapshot_done":
                    break
        response = await service.http.post("/catalog:reload")
        assert response.json()["removed_model_ids"] == ["two", "three"]
        stub: Any = health_pb2_grpc.HealthStub(service.channel)
        health = await stub.Check(health_pb2.HealthCheckRequest(service="three"))
        assert health.status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        refused = await service.http.post("/models/two/start")
        assert refused.status_code == 404
        removed: set[str] = set()
        async with within(SLOWLY, "the watch did not show the removed models"):
            while removed != {"two", "three"}:
                change = await anext(aiter(watcher))
                removed |= {change.removed_model_id} - {""}
        watcher.cancel()
        assert engines() == [kept]
