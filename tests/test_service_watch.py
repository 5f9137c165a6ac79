"""WatchModels and StreamLogs over loopback, with story-mini in a real engine."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from inference_service.v1 import model_service_pb2 as pb
from tests.service import Serving, failure, free_ports, serving
from tests.waiting import PROMPTLY, SLOWLY, within


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


async def test_logs_are_those_of_the_run_and_are_kept_after_it(service: Serving) -> None:
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
