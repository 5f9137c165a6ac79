"""Progress bars, and lines that have no end, in the log of an engine."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path

import aiohttp

from inference_service.runtimes.lines import LINE_LIMIT
from inference_service.v1 import model_service_pb2 as pb
from tests.field.event_source import EventSource
from tests.field.writing import start, write, writing
from tests.service import Serving
from tests.waiting import PROMPTLY, within


async def tail(service: Serving, count: int) -> list[str]:
    request = pb.StreamLogsRequest(model_id="mine", tail_line_count=count)
    return [message.line async for message in service.stub.StreamLogs(request)]


async def test_a_progress_bar_is_seen_before_it_is_done(tmp_path: Path) -> None:
    """Elsewhere a bar is seen when it is at 100 % (argo-workflows#7671, moby#19645)."""
    async with writing(tmp_path, b"begun\n") as service:
        await start(service)
        assert service.service.rest_url is not None
        path = "/models/mine/logs?follow=true&tail_line_count=0"
        log = EventSource(service.service.rest_url, path)
        await log.connect()
        shards = b"\rLoading shards:  %d%% Completed | %d/4"
        seen = within(PROMPTLY, "a state of the bar did not come")
        async with seen, aclosing(log.events()) as events:
            await write(service, shards % (0, 0))
            for number in range(1, 5):
                await write(service, shards % (25 * number, number))
                data = (await anext(events)).data
                assert data == f"Loading shards:  {25 * number - 25}% Completed | {number - 1}/4"
                assert (await tail(service, 9))[:1] == ["begun"]
                assert len(await tail(service, 9)) == 2
            await write(service, b"\nnext\n")
            assert (await anext(events)).data == "Loading shards:  100% Completed | 4/4"
            assert (await anext(events)).data == "next"
        log.close()
        lines = await tail(service, 9)

    assert lines == ["begun", "Loading shards:  100% Completed | 4/4", "next"]


async def test_a_bar_of_many_states_is_one_line(tmp_path: Path) -> None:
    """Docker hands a bar over when it has 16 KiB or an end (kubeflow/pipelines#9593)."""
    bar = b"".join(b"\r%3d%%|%-20s| %d/1000" % (n // 10, b"#" * (n // 50), n) for n in range(1001))
    async with writing(tmp_path, b"one\n" + bar + b"\ntwo\n") as service:
        await start(service)
        lines = await tail(service, 1000)

    assert lines == ["one", f"100%|{'#' * 20}| 1000/1000", "two"]


async def test_a_line_without_an_end_is_bounded_and_loses_no_other(tmp_path: Path) -> None:
    """It filled the memory of Docker (moby#18057), and ended readers (disco-daemon#28)."""
    async with writing(tmp_path, b"one\n" + "日".encode() * 2_000_000) as service:
        await start(service)
        await write(service, b"\ntwo\n")
        async with within(PROMPTLY, "the last line did not come"):
            while (lines := await tail(service, 9))[-1] != "two":
                pass
        body = (await service.http.get("/models/mine/logs?tail_line_count=2")).text

    assert lines[0] == "one"
    assert lines[1] == "日" * (LINE_LIMIT // 3) + "…"
    assert len(lines) == 3
    assert body == f"data: {lines[1]}\n\ndata: two\n\n"


async def test_no_event_of_a_log_is_too_long_for_a_reader_with_a_limit(tmp_path: Path) -> None:
    """The line of an event may have 128 KiB in aiohttp (aiohttp-sse-client#11)."""
    long = ("x" * 200_000, "\x1b" * 200_000, "日\u2028" * 50_000, "\U0001f600" * 100_000)
    async with writing(tmp_path, "".join(f"{line}\n" for line in long).encode()) as service:
        await start(service)
        assert service.service.rest_url is not None
        url = f"{service.service.rest_url}/models/mine/logs"
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            lines = [line async for line in response.content]

    assert len(lines) == 2 * len(long)
    assert all(line.decode().endswith("…\n") for line in lines[::2])
