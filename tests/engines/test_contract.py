"""The promises of every `Engine`, with real programs: see `inference_service/engines/base.py`.

The fake engine takes part, but in tests of the context and of stop sequences: it has neither.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec
import pytest

from inference_service.engines.base import Engine, FinishReason, Prompt
from inference_service.engines.exchange import Request
from inference_service.engines.llamacpp.engine import Llamacpp
from inference_service.engines.openai.engine import Openai
from inference_service.engines.tgi import log as tgi_log
from inference_service.engines.tgi.engine import Tgi
from inference_service.errors import (
    EngineFailed,
    EngineLost,
    EngineOverloaded,
    InvalidRequest,
    PromptTooLong,
    ServiceError,
)
from inference_service.key import Key
from inference_service.runtimes.base import Exit, Instance
from inference_service.runtimes.command import Launch, Seat
from inference_service.runtimes.ports import Ports
from tests.engines import beds
from tests.engines.beds import Bed, Text
from tests.engines.waiting import soon, until
from tests.fakes import FakeEngine, FakeRunning, spec
from tests.runtimes.beds import DockerBed
from tests.sinks import Kept
from tests.waiting import SLOWLY

SOON = 1.0  # the seconds in which an engine notices that its caller has left

GREEDY = Prompt("", max_new_tokens=40, temperature=0)
WILD = Prompt("", max_new_tokens=20, temperature=2, top_p=1)
# This text repeats itself, so that it has no end of its own.
ENDLESS = Prompt("", max_new_tokens=200, temperature=0, repetition_penalty=0.3)


def prompt(bed: Bed, like: Prompt = GREEDY, **changes: Any) -> Prompt:
    return replace(like, **{"text": bed.opening, **changes})


async def test_a_text_comes_in_chunks_of_which_the_last_has_the_finish(bed: Bed) -> None:
    text = await bed.read(prompt(bed))

    *chunks, last = text.chunks
    assert str(text).split()
    assert last.finish
    assert all(chunk.text and chunk.finish is None for chunk in chunks)


async def test_tokens_are_counted_as_the_engine_counts_them(bed: Bed) -> None:
    for opening in (bed.opening, "Größer 🦙 日本 than"):
        text = await bed.read(prompt(bed, text=opening))

        assert text.finish.prompt_token_count == await bed.count(opening)
        sent = sum(chunk.token_count for chunk in text.chunks)
        assert sent == (text.finish.completion_token_count if bed.counts else 0)


async def test_the_counts_of_chunks_add_up(real: Bed, subtests: pytest.Subtests) -> None:
    """Parts of characters are tokens without text, and so is the end of a text."""
    for seed in (1, 5, 8, 12, 21, 22):
        for changes in ({}, {"max_new_tokens": 30}, {"stop": ("e",)}):
            with subtests.test(f"{seed} {changes}"):
                wild = {"temperature": 2.0, "top_p": 1.0, "seed": seed, "text": "🦙🦙🦙"}
                text = await real.read(prompt(real, **wild | changes))

                sent = sum(chunk.token_count for chunk in text.chunks)
                assert sent == (text.finish.completion_token_count if real.counts else 0)


async def test_what_may_begin_a_stop_sequence_is_text_at_the_limit(real: Bed) -> None:
    whole = str(await real.read(prompt(real, max_new_tokens=3)))
    for length in range(1, 4):
        stop = (whole[-length:] + "QQQ",)
        assert str(await real.read(prompt(real, max_new_tokens=3, stop=stop))) == whole


async def test_a_whole_text_is_that_of_the_stream(real: Bed) -> None:
    wanted = prompt(real, WILD, seed=7)
    whole = real.engine.generate(real.instance, real.spec, wanted, whole=True)

    text = Text(tuple([chunk async for chunk in whole]))

    streamed = Text(tuple([chunk async for chunk in real.generate(wanted)]))
    assert (str(text), text.finish) == (str(streamed), streamed.finish)


async def test_greedy_text_is_repeatable(bed: Bed) -> None:
    texts = {str(await bed.read(prompt(bed, seed=seed))) for seed in (None, None, 1, 2)}

    assert len(texts) == 1


async def test_a_seed_makes_chance_repeatable(real: Bed, subtests: pytest.Subtests) -> None:
    for seed in (0, 7, 2**31 - 1):
        with subtests.test(str(seed)):
            texts = {str(await real.read(prompt(real, WILD, seed=seed))) for _ in range(3)}

            assert len(texts) == 1


async def test_without_a_seed_texts_differ(real: Bed) -> None:
    wanted = prompt(real, WILD)
    texts = {str(await real.read(wanted)) for _ in range(5)}

    assert len(texts) > 1


async def test_a_text_is_as_long_as_asked_for(bed: Bed, subtests: pytest.Subtests) -> None:
    for count in (1, 5, 200):
        with subtests.test(str(count)):
            text = await bed.read(prompt(bed, ENDLESS, max_new_tokens=count))

            assert text.finish.reason is FinishReason.LENGTH
            assert text.finish.completion_token_count == count


async def test_every_sampler_may_be_at_its_bound(real: Bed) -> None:
    bounds: tuple[dict[str, Any], ...] = (
        {"temperature": 2.0, "top_p": 1.0, "top_k": 1000, "repetition_penalty": 2.0},
        {"temperature": 0.01, "top_p": 0.01, "top_k": 1, "repetition_penalty": 0.01},
        {"temperature": 0.0, "top_p": 0.5, "top_k": 5, "seed": 1},
        {"temperature": 1.0, "top_p": 1.0},
    )
    for changes in bounds:
        assert (await real.read(prompt(real, **changes))).finish.completion_token_count


async def test_a_text_ends_before_a_stop_sequence(real: Bed, subtests: pytest.Subtests) -> None:
    whole = str(await real.read(prompt(real)))
    for begin, length in ((5, 1), (11, 4), (20, 9), (31, 2)):
        stop = whole[begin : begin + length]
        with subtests.test(stop):
            text = await real.read(prompt(real, max_new_tokens=400, stop=("@never@", stop)))

            assert str(text) == whole[: whole.index(stop)]
            assert text.finish.reason is FinishReason.STOP_SEQUENCE
            assert text.finish.completion_token_count < 200  # 40, and some on the way


async def of_length(bed: Bed, tokens: int) -> str:
    """Make a prompt of so many tokens."""
    text = bed.opening + " the" * (tokens - await bed.count(bed.opening))
    assert await bed.count(text) == tokens
    return text


async def test_a_text_ends_at_the_end_of_the_context(real: Bed, subtests: pytest.Subtests) -> None:
    for room in (1, 2, 30):
        length = real.spec.context_length - room
        with subtests.test(str(room)):
            text = await real.read(prompt(real, ENDLESS, text=await of_length(real, length)))

            assert text.finish.reason is FinishReason.LENGTH
            assert text.finish.completion_token_count == room
            assert text.finish.prompt_token_count == length


async def test_a_prompt_that_fills_the_context_is_too_long(
    real: Bed, subtests: pytest.Subtests
) -> None:
    for beyond in (0, 1, 5000):
        text = await of_length(real, real.spec.context_length + beyond)
        with subtests.test(str(beyond)):
            with pytest.raises(PromptTooLong) as caught:
                await real.read(prompt(real, text=text))

            assert caught.value.field == "prompt"
            assert caught.value.metadata["context_length"] == str(real.spec.context_length)
            assert await real.read(prompt(real))


async def test_a_text_that_is_left_before_it_ends_is_not_made(bed: Bed) -> None:
    async with aclosing(bed.generate(prompt(bed, ENDLESS))) as chunks:
        await anext(chunks)

    await idle(bed)


async def test_a_text_that_is_left_frees_its_slot_at_once(bed: Bed) -> None:
    """The slot is free when the engine has closed the connection."""
    async with aclosing(bed.generate(prompt(bed, ENDLESS))) as chunks:
        await anext(chunks)

    if left := bed.engine.parting(bed.instance):
        await soon(asyncio.wait(left), "the engine closes the connection", SOON)
    assert not bed.engine.parting(bed.instance)


async def idle(bed: Bed) -> None:
    """Return when the engine has no requests, within a second."""

    async def idle() -> bool:
        return not await bed.busy()

    await until(idle, "the engine has no requests", SOON)


async def gone(bed: Bed) -> None:
    """Return when the engine is not ready any more, within a second."""

    async def gone() -> bool:
        return not await bed.engine.ready(bed.instance)

    await until(gone, "the engine is not ready any more", SOON)


async def many(bed: Bed) -> list[asyncio.Task[Text]]:
    """Start thirty texts, of which the engine works on some and queues the others."""
    tasks = [
        asyncio.create_task(bed.read(prompt(bed, ENDLESS, max_new_tokens=400))) for _ in range(30)
    ]

    async def most() -> bool:
        return await bed.busy() >= 25

    await until(most, "the engine has most of the thirty requests")
    return tasks


async def test_the_engine_is_free_soon_after_all_callers_have_left(slow: Bed) -> None:
    tasks = await many(slow)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)

    await idle(slow)
    assert sum(task.cancelled() for task in tasks) > 20
    assert await slow.read(prompt(slow, max_new_tokens=1))


async def test_an_engine_that_is_killed_fails_all_its_requests(slow: Bed) -> None:
    tasks = await many(slow)
    async with aclosing(slow.generate(prompt(slow))) as chunks:
        slow.kill()
        with pytest.raises(EngineFailed):
            async for _ in chunks:
                pass
    ends = await asyncio.gather(*tasks, return_exceptions=True)

    assert all(isinstance(end, Text | EngineFailed) for end in ends)
    assert sum(isinstance(end, EngineFailed) for end in ends) > 20
    assert not await slow.engine.ready(slow.instance)
    with pytest.raises(EngineFailed):
        await slow.read(prompt(slow))


async def test_an_engine_may_fail_in_the_middle_of_a_text(bed: Bed) -> None:
    async with aclosing(bed.generate(prompt(bed, ENDLESS))) as chunks:
        last = await anext(chunks)
        assert last.text
        bed.kill()
        try:
            async for chunk in chunks:
                last = chunk
        except EngineLost:
            assert last.finish is None
        else:
            assert last.finish is not None  # the whole text was made before the kill


async def test_ready_is_the_truth(real: Bed) -> None:
    assert await real.engine.ready(real.instance)
    real.kill()
    await gone(real)


@pytest.mark.parametrize(
    "answer", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 503 Loading\r\n\r\n", b"HTTP/1.1 200", None]
)
async def test_ready_never_raises_and_takes_seconds_at_most(answer: bytes | None) -> None:
    left = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if answer is None:
            await left.wait()
        else:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    instance = Instance("engine", f"http://127.0.0.1:{port}", port, health="/health")
    engines = (Llamacpp(""), Openai(), Tgi(""))
    async with server:
        asked = asyncio.gather(*(engine.ready(instance) for engine in engines))
        assert await soon(asked, "each engine's `ready` returns") == [False] * len(engines)
        left.set()
        for engine in engines:
            await engine.aclose()


@pytest.mark.parametrize(
    "engine", [FakeEngine(), Llamacpp(""), Openai(), Tgi("")], ids=lambda e: e.name
)
async def test_progress_ends_with_the_engine_and_counts_no_heartbeats(engine: Engine) -> None:
    running = FakeRunning("some-engine", 8080)
    for line in ("still waiting", "", "{}"):
        running.log.append(line)
    steps = engine.progress(FakeEngine().command(spec(), Seat()), running)
    reading = asyncio.create_task(anext(steps, None))
    await asyncio.sleep(0.01)
    assert not reading.done()

    running.die(Exit(1))

    assert await soon(reading, "the end of the progress after that of the engine") is None


async def test_fifty_at_once_are_all_answered(bed: Bed) -> None:
    wanted = [prompt(bed, WILD, seed=seed) for seed in range(50)]

    texts = await asyncio.gather(*(bed.read(one) for one in wanted))

    assert all(text.finish.completion_token_count for text in texts)
    await idle(bed)


async def test_requests_one_after_the_other_are_all_answered(bed: Bed) -> None:
    """An engine may keep or close the connection of the request before."""
    for _ in range(100):
        assert await bed.read(prompt(bed, max_new_tokens=2))


async def test_an_answer_in_bytes_is_the_engines_own(bed: Bed) -> None:
    unknown = Request("GET", "/no/such/path")
    for request, status in ((bed.short, 200), (bed.long, 200), (unknown, 404)):
        sink = Kept()
        async with bed.recorded() as (instance, sent):
            await bed.engine.ask(instance, request, sink)

            assert (sink.heads[0].status, sink.ends) == (status, [None])
            assert sink.body == sent()
        await idle(bed)


async def test_openais_json_is_openais(real: Bed) -> None:
    """The text of a stream is that of the whole answer, and both name model and reason."""
    path, model = "/v1/completions", real.instance.model
    asked = {"prompt": real.opening, "max_tokens": 20, "temperature": 0, "model": model}
    assert path in real.engine.paths(real.spec)
    whole, streamed = Kept(), Kept()
    for sink, more in ((whole, {}), (streamed, {"stream": True, "n": 1, "stop": None})):
        body = json.dumps(asked | more).encode()
        options = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        real.engine.check(real.spec, path, options)
        request = Request("POST", path, body, "application/json")
        await real.engine.ask(real.instance, request, sink)
        assert (sink.heads[0].status, sink.ends) == (200, [None])

    answer = json.loads(whole.body)
    *frames, done, _ = streamed.body.split(b"\n\n")
    events = [json.loads(frame.removeprefix(b"data: ")) for frame in frames]
    choices = [choice for event in events for choice in event["choices"]]
    assert done == b"data: [DONE]"
    assert "".join(choice["text"] for choice in choices) == answer["choices"][0]["text"]
    reasons = {choice["finish_reason"] for choice in choices}
    assert reasons == {None, answer["choices"][0]["finish_reason"]} <= {None, "stop", "length"}
    assert answer["id"] and answer["usage"]["completion_tokens"]
    assert {event["model"] for event in events} == {answer["model"]} == {model}


async def test_a_sink_holds_its_answer_back(bed: Bed) -> None:
    sink = Kept(on_head=lambda sink: sink.source.pause())
    asking = asyncio.create_task(bed.engine.ask(bed.instance, bed.long, sink))
    await sink.until(lambda sink: sink.heads, "the head")
    at_first = len(sink.body)
    await asyncio.sleep(0.3)
    assert len(sink.body) == at_first
    assert not asking.done()

    sink.source.resume()

    await soon(asking, "the end of the answer", SLOWLY)
    assert sink.ends == [None]
    assert len(sink.body) > at_first


@pytest.mark.parametrize("by", ["the caller", "the sink"])
async def test_an_answer_that_is_left_before_it_ends_is_not_made(bed: Bed, by: str) -> None:
    sink = Kept()
    asking = asyncio.create_task(bed.engine.ask(bed.instance, bed.long, sink))
    await sink.until(lambda sink: sink.pieces, "the first bytes")
    if by == "the sink":
        sink.source.close()
        await soon(asking, "the return of the call")
    else:
        asking.cancel()
        await asyncio.wait([asking])

    await idle(bed)
    assert sink.ends == []


async def test_an_engine_that_dies_breaks_its_answer_off(slow: Bed) -> None:
    """The whole answer of a fast one is in the kernel's buffers before the engine is killed."""
    await _dies_within_its_answer(slow)


async def test_the_fake_engine_breaks_its_answer_off_too() -> None:
    async with beds.fake() as bed:
        await _dies_within_its_answer(bed)


async def _dies_within_its_answer(bed: Bed) -> None:
    # At the first bytes, as the whole answer takes some engines only milliseconds.
    sink, late = Kept(on_data=lambda sink: bed.kill() if len(sink.pieces) == 1 else None), Kept()
    with pytest.raises(EngineLost):
        await soon(bed.engine.ask(bed.instance, bed.long, sink), "the error of the call")
    assert isinstance(sink.ends[0], Exception)
    with pytest.raises(EngineLost):
        await bed.engine.ask(bed.instance, bed.short, late)
    assert not late.heads and not late.ends


# TGI alone.

WHOLE_OR_NOT = pytest.mark.parametrize("whole", [False, True], ids=["streamed", "whole"])


@WHOLE_OR_NOT
async def test_tgi_makes_as_many_tokens_as_asked_for(
    subtests: pytest.Subtests, whole: bool
) -> None:
    """Above 1024 tokens TGI itself would go on to the next multiple."""
    async with beds.tgi(context_length=4096, whole=whole) as bed:
        for count in (1023, 1024, 1025, 1500, 2048, 3000):
            with subtests.test(str(count)):
                text = await bed.read(prompt(bed, max_new_tokens=count))
                await idle(bed)

                assert text.finish.reason is FinishReason.LENGTH
                assert text.finish.completion_token_count == count
                assert text.finish.prompt_token_count == await bed.count(bed.opening)


@WHOLE_OR_NOT
async def test_tgi_fills_a_context_that_is_no_multiple_of_its_1024_tokens(whole: bool) -> None:
    """TGI itself ends at the last multiple of 1024 tokens that fits."""
    async with beds.tgi(context_length=2048, whole=whole) as bed:
        text = await bed.read(prompt(bed, max_new_tokens=1500))

    assert text.finish.reason is FinishReason.LENGTH
    assert text.finish.completion_token_count == 1500


FAULTS = {
    "status=422": (InvalidRequest, "asked for by the prompt"),
    "status=424": (EngineFailed, "asked for by the prompt"),
    "status=429": (EngineOverloaded, "overloaded"),
    "status=500": (EngineFailed, "Incomplete generation"),
    "status=503": (EngineFailed, "HTTP 503: asked for by the prompt"),
    "status=413": (PromptTooLong, "as large as"),
    "plain": (EngineFailed, "HTTP 502: Bad Gateway"),
    "no_answer": (EngineLost, "broke the connection"),
    "half_event=1": (EngineLost, "broke the connection"),
    "half_event=7": (EngineLost, "broke the connection"),
    "garbage=1": (EngineFailed, "not its own"),
    "garbage=7": (EngineFailed, "not its own"),
    "cut_after=1": (EngineLost, "ended its answer before|broke the connection"),
    "cut_after=7": (EngineLost, "ended its answer before|broke the connection"),
    "error_after=1": (EngineFailed, "probabilities are not finite"),
    "error_after=7": (EngineFailed, "probabilities are not finite"),
}


@WHOLE_OR_NOT
async def test_faults_of_tgi(subtests: pytest.Subtests, whole: bool) -> None:
    async with beds.tgi(whole=whole) as bed:
        for fault, (kind, message) in FAULTS.items():
            with subtests.test(fault):
                with pytest.raises(ServiceError, match=message) as caught:
                    await bed.read(prompt(bed, text=f"{bed.opening} [[fault:{fault}]]"))

                assert type(caught.value) is kind
                assert await bed.read(prompt(bed))


@WHOLE_OR_NOT
@pytest.mark.parametrize(
    "fault", ["crash_after=3", "shard_after=3", "router_after=3", "kill_after=3"]
)
async def test_crashes_of_tgi(fault: str, whole: bool) -> None:
    async with beds.tgi(whole=whole) as bed:
        with pytest.raises(EngineLost):
            await bed.read(prompt(bed, text=f"{bed.opening} [[fault:{fault}]]"))
        await gone(bed)


async def test_bytes_of_tgi_may_come_one_by_one() -> None:
    async with beds.tgi() as bed:
        text = "[[fault:bytes]] [[say:größer 🦙 日本]]"
        assert str(await bed.read(prompt(bed, text=text))) == "größer 🦙 日本"


async def test_silence_of_tgi_is_waited_for_and_comments_are_no_text() -> None:
    async with beds.tgi(DOUBLE_KEEPALIVE_SECONDS="0.02") as bed:
        text = await bed.read(prompt(bed, text="[[fault:slow_first=0.2]] [[say:late]]"))
        assert str(text) == "late"

        async with aclosing(bed.generate(prompt(bed, text="[[fault:silent]]"))) as chunks:
            waiting = asyncio.ensure_future(anext(chunks))

            async def busy() -> bool:
                return bool(await bed.busy())

            await until(busy, "the engine has the request", SOON)
            waiting.cancel()
            await asyncio.wait([waiting])
        await idle(bed)


async def test_events_of_an_old_tgi_have_no_space() -> None:
    async with beds.tgi(DOUBLE_SSE="nospace") as bed:
        assert str(await bed.read(prompt(bed, text="[[say:hello]]"))) == "hello"


async def test_tgi_that_is_unhealthy_is_not_ready() -> None:
    async with beds.tgi() as bed:
        await bed.read(prompt(bed, text=f"{bed.opening} [[fault:unhealthy]]"))

        assert not await bed.engine.ready(bed.instance)


@WHOLE_OR_NOT
async def test_tgi_with_no_room_for_a_request_is_overloaded(whole: bool) -> None:
    async with beds.tgi(
        whole=whole, MAX_CONCURRENT_REQUESTS="3", DOUBLE_TOKENS_PER_SECOND="100"
    ) as bed:
        texts = (bed.read(prompt(bed, max_new_tokens=20)) for _ in range(10))
        ends = await asyncio.gather(*texts, return_exceptions=True)

    overloaded = [end for end in ends if isinstance(end, EngineOverloaded)]
    assert len(overloaded) == 7
    assert all(error.retry_after for error in overloaded)


@pytest.mark.docker
async def test_tgi_in_a_container(tgi_image: str, ports: Ports) -> None:
    """Run the engine's own launch, and read the log of its start and a text."""
    engine = Tgi(tgi_image)
    docker, spec = DockerBed(tgi_image, ports), beds.tgi_spec()
    launch = Launch(Key(spec.id), partial(engine.command, spec))
    phases = set()
    async with docker.runtime.run(launch) as running:
        async with aclosing(running.logs()) as lines:
            async for line in lines:
                if progress := tgi_log.progress(line):
                    phases.add(progress.phase)
                if "Connected" in line:
                    break
        await until(lambda: engine.ready(running.instance), "the engine is ready")
        wanted = Prompt("[[say:Hello from a container.]]", max_new_tokens=50)
        async with aclosing(engine.generate(running.instance, spec, wanted)) as chunks:
            text = "".join([chunk.text async for chunk in chunks])
    await engine.aclose()

    assert text == "Hello from a container."
    assert {phase.name for phase in phases} == {
        "DOWNLOADING_WEIGHTS",
        "LOADING_WEIGHTS",
        "WARMING_UP",
    }
    assert docker.left(launch) == []
    await docker.close()
