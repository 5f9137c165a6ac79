"""Callers that come all at once, and callers that break off."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from inference_service.v1 import model_service_pb2 as pb
from tests.chaos.callers import STREAMS, TEXT
from tests.chaos.conftest import Faulty
from tests.chaos.trial import ENDLESS, SHORT, Trial
from tests.service import Serving
from tests.waiting import PROMPTLY, within

pytestmark = [pytest.mark.docker, pytest.mark.chaos]

Settings = Callable[..., dict[str, Any]]


async def test_a_thousand_callers_of_a_cold_model(faulty: Faulty, tgi: Settings) -> None:
    async with (
        faulty("1,000 callers of a cold model") as trial,
        trial.serving(**tgi(MAX_CONCURRENT_REQUESTS=1000), generation_timeout=300) as service,
    ):
        trial.strike()
        crowd = trial.call(service, 1000)
        await crowd.answered()
        await trial.heal(service)
        assert trial.held()[f"container {trial.container().name}"] == 1


async def test_more_callers_than_the_engine_takes(faulty: Faulty, tgi: Settings) -> None:
    async with (
        faulty("300 of an engine for 128", {"ENGINE_OVERLOADED"}) as trial,
        trial.serving(**tgi(), generation_timeout=300) as service,
    ):
        trial.strike()
        crowd = trial.call(service, 300)
        await crowd.answered()
        await trial.heal(service)
        assert sum(caller.answers == [TEXT] for caller in crowd.callers) >= 128


async def test_five_hundred_clients_vanish_amid_streams(faulty: Faulty, tgi: Settings) -> None:
    settings = tgi(MAX_CONCURRENT_REQUESTS=1000, DOUBLE_TOKENS_PER_SECOND=5)
    async with (
        faulty("500 clients vanish amid streams, 20 wait") as trial,
        trial.serving(**settings) as service,
    ):
        waiting = trial.call(service, 20, SHORT | {"max_new_tokens": 20}, STREAMS)
        vanish = trial.passers_by(service, 500, ENDLESS, STREAMS)
        await vanish.reading()
        trial.strike()
        await vanish.vanish()
        await trial.heal(service)
        await waiting.answered()
        await until_at_rest(service, trial)
        assert [caller.answers for caller in waiting.callers] == [[TEXT]] * 20
        assert not any(caller.answers for caller in vanish.callers)


async def test_a_stop_amid_streams_and_a_queue(faulty: Faulty, tgi: Settings) -> None:
    settings = tgi(MAX_CONCURRENT_REQUESTS=8, DOUBLE_TOKENS_PER_SECOND=50)
    async with (
        faulty("a stop amid 8 streams and a queue of 32", {"MODEL_STOPPED"}) as trial,
        trial.serving(**settings) as service,
    ):
        crowd = trial.call(service, 40, ENDLESS, STREAMS)
        await until_queued(service, trial, 32)
        trial.strike()
        request = pb.StopModelRequest(model_id=trial.model_id)
        request.drain_timeout.FromSeconds(0)
        await service.stub.StopModel(request)
        await crowd.answered()
        await trial.call(service, 40).answered()
        await trial.heal(service)
        assert [caller.answers for caller in crowd.callers] == [["MODEL_STOPPED"]] * 40


async def until_queued(service: Serving, trial: Trial, count: int) -> None:
    """Return when so many requests wait for a slot."""
    async with within(30, f"there were not {count} requests in the queue"):
        while True:
            if (await trial.model(service)).queued_request_count == count:
                return
            await asyncio.sleep(0.02)


async def test_clients_hang_up_in_the_middle_of_an_upload(faulty: Faulty, tgi: Settings) -> None:
    async with (
        faulty("200 clients hang up amid an upload, 20 wait") as trial,
        trial.serving(**tgi()) as service,
    ):
        waiting = trial.call(service, 20)
        url = service.http.base_url
        trial.strike()
        await asyncio.gather(*(half_an_upload(url.host, url.port or 0) for _ in range(200)))
        await waiting.answered()
        await trial.heal(service)
        assert [caller.answers for caller in waiting.callers] == [[TEXT]] * 20


async def half_an_upload(host: str, port: int) -> None:
    """Announce a megabyte, send a part of it, and close the connection."""
    _, writer = await asyncio.open_connection(host, port)
    head = "POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: 1000000\r\n\r\n".encode() + b'{"prompt": "' + b"x" * 1000)
    await writer.drain()
    writer.transport.abort()


async def until_at_rest(service: Serving, trial: Trial) -> None:
    """Return when neither the service nor the engine has a request."""
    port = (await trial.model(service)).port
    async with within(PROMPTLY, "the requests of callers that vanished did not end"):
        while True:
            model = await trial.model(service)
            metrics = (await trial.http.get(f"http://127.0.0.1:{port}/metrics")).text
            if not model.active_request_count and "tgi_batch_current_size 0\n" in metrics:
                return
            await asyncio.sleep(0.05)
