"""GenerateStream over loopback, with story-mini in a real engine."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import grpc

from inference_service.v1 import model_service_pb2 as pb
from tests.service import (
    PROMPT,
    Failure,
    Serving,
    engines,
    failure,
    free_ports,
    killed_after,
    serving,
)
from tests.waiting import until


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


async def test_the_counts_of_chunks_add_up_to_that_of_the_summary(service: Serving) -> None:
    """Parts of characters are tokens without text of their own."""
    for seed in (1, 5, 8, 12, 21, 22):
        request = pb.GenerateStreamRequest(
            model_id="story-mini", prompt="🦙🦙🦙", temperature=2, top_p=1, seed=seed
        )
        *events, last = [event async for event in service.stub.GenerateStream(request)]
        counts = [event.chunk.token_count for event in events]
        assert sum(counts) == last.summary.completion_token_count
        assert all(event.chunk.text for event in events[:-1])


async def test_what_may_begin_a_stop_sequence_is_not_lost_at_the_limit(service: Serving) -> None:
    request = pb.GenerateRequest(
        model_id="story-mini",
        prompt=PROMPT,
        temperature=1e-38,  # which means 0
        max_new_tokens=1,
        stop=[",QQQ"],
        return_full_text=False,
    )
    answer = await service.stub.Generate(request)
    assert answer.generated_text == ","
    assert answer.summary.finish_reason == pb.FINISH_REASON_LENGTH
    request.stop[:] = [","]
    answer = await service.stub.Generate(request)
    assert answer.generated_text == ""
    assert answer.summary.finish_reason == pb.FINISH_REASON_STOP_SEQUENCE


async def test_server_sent_events_are_the_same_stream(service: Serving) -> None:
    for path, extra in (("/generate_stream", {}), ("/generate", {"stream": True})):
        body = {"model_id": "story-mini", "prompt": PROMPT, "max_new_tokens": 5, **extra}
        response = await service.http.post(path, json=body)
        assert response.headers["content-type"].startswith("text/event-stream")
        names = [line for line in response.text.splitlines() if line.startswith("event: ")]
        assert names[-1] == "event: summary"
        assert set(names[:-1]) == {"event: chunk"}


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


async def test_the_queue_position_is_reported_to_each_caller_that_waits(service: Serving) -> None:
    request = pb.GenerateStreamRequest(
        model_id="story-mini", prompt=PROMPT, max_new_tokens=100, status_events=True
    )
    await service.stub.StartModel(pb.StartModelRequest(model_id="story-mini"))

    async def events() -> list[pb.GenerateStreamResponse]:
        return [event async for event in service.stub.GenerateStream(request)]

    model = service.service.models.find("story-mini")
    [engine] = engines()
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
