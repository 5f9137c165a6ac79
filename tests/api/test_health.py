"""The health of the service and of each model."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from grpc_health.v1 import health_pb2

from inference_service.api.health import Health
from inference_service.lifecycle import State, Status
from inference_service.serving.view import Removed
from tests.build import model as make_model

NAMES = {value: name for name, value in health_pb2.HealthCheckResponse.ServingStatus.items()}


async def check(health: Health, name: str) -> str:
    servicer: Any = health.servicer
    answer = await servicer.Check(health_pb2.HealthCheckRequest(service=name), None)
    return NAMES[answer.status]


async def up() -> Health:
    health = Health()
    await health.up(["", "service"], ["tiny"])
    return health


async def test_at_first_the_service_serves_and_no_model() -> None:
    health = await up()

    shown = [await check(health, name) for name in ("", "service", "tiny")]
    assert shown == ["SERVING", "SERVING", "NOT_SERVING"]


@pytest.mark.parametrize("state", State)
async def test_a_model_serves_while_it_is_ready(state: State) -> None:
    health = await up()
    health.changed(replace(make_model().view(), status=Status(state)))
    await asyncio.sleep(0)

    serves = "SERVING" if state is State.READY else "NOT_SERVING"
    assert await check(health, "tiny") == serves


async def test_a_model_that_was_removed_is_unknown() -> None:
    health = await up()
    health.changed(Removed("tiny"))
    await asyncio.sleep(0)

    assert await check(health, "tiny") == "SERVICE_UNKNOWN"


async def test_at_the_end_nothing_serves() -> None:
    health = await up()
    await health.down()

    shown = [await check(health, name) for name in ("", "service", "tiny")]
    assert shown == ["NOT_SERVING"] * 3
