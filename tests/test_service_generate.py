"""Generate over loopback, with story-mini in a real engine."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2

from inference_service.v1 import model_service_pb2 as pb
from tests.service import PROMPT, Serving, engines, failure, free_ports, serving
from tests.waiting import until


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


async def test_fifty_at_once_on_a_cold_model_start_one_engine(service: Serving) -> None:
    body = {"model_id": "story-mini", "prompt": PROMPT, "max_new_tokens": 20}

    answers = await asyncio.gather(*(service.http.post("/generate", json=body) for _ in range(50)))

    assert [answer.status_code for answer in answers] == [200] * 50
    assert len(engines()) == 1


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
    again = (await service.stub.GetModel(pb.GetModelRequest(model_id="story-mini"))).model
    assert again.expire_time == model.expire_time
    left = model.expire_time.ToDatetime() - model.state_change_time.ToDatetime()
    assert 50 < left.total_seconds() < 70


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


async def test_a_deadline_that_a_start_cannot_meet_is_refused_and_the_start_goes_on(
    tmp_path: Path,
) -> None:
    program = " ".join((sys.executable, "-X", "utf8", "-P", "-m", "inference_service.worker"))
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
