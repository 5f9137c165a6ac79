"""The order of a text: the request with the caller and the deadline of its call."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
from google.protobuf import duration_pb2

from inference_service.api import requests
from inference_service.api.requests import Limits
from inference_service.serving.generation import Order
from inference_service.v1 import model_service_pb2 as pb
from tests.fakes import spec

LIMITS = Limits(60, 3600)


class Context:
    """A call with so many seconds left."""

    def __init__(self, left: float | None = None) -> None:
        self.left = left

    def time_remaining(self) -> float | None:
        return self.left

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return (("x-caller", "somebody"),)

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"


def order(kind: Any, context: Any, **fields: Any) -> Order:
    request = kind(model_id="tiny", prompt="once", **fields)
    return requests.order(request, context, spec(), LIMITS)


@pytest.mark.parametrize("kind", [pb.GenerateRequest, pb.GenerateStreamRequest])
async def test_an_order_has_what_the_call_says(kind: Any) -> None:
    idle = duration_pb2.Duration(seconds=5)
    now = asyncio.get_running_loop().time()

    made = order(kind, Context(10), idle_timeout=idle)

    assert (made.prompt.text, made.timeout, made.idle_timeout) == ("once", 60, 5)
    assert made.caller == "somebody"
    assert now + 10 <= made.deadline <= asyncio.get_running_loop().time() + 10
    assert not made.resumes
    assert order(kind, Context()).deadline == math.inf
    assert order(kind, Context()).idle_timeout is None


async def test_a_stream_resumes_where_it_asks_for_it() -> None:
    assert order(pb.GenerateStreamRequest, Context(), resume=True).resumes
