"""Streams with `resume`, while no engine can be started; on a manual clock."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from inference_service.engines.base import Prompt
from inference_service.errors import (
    LaunchError,
    ModelStopped,
    NotRunning,
    ResumptionFailed,
    RuntimeUnavailable,
    Unlaunchable,
)
from inference_service.lifecycle import State
from inference_service.serving.generation import Generation, Order
from inference_service.serving.model import Model
from tests.build import timing
from tests.fakes import FakeRuntime
from tests.serving.manual_loop import on_manual_time
from tests.serving.mortal import mortal
from tests.serving.test_generation import Reader

PROMPT = Prompt("once upon", max_new_tokens=6)
TIMING = timing(poll=0.1, poll_longest=0.1, back_off=1.0, back_off_longest=60.0)

Steps = Callable[[Model, FakeRuntime], Awaitable[None]]


def drive(steps: Steps) -> None:
    """Run the steps on a model whose first engine dies after two tokens."""

    async def whole() -> None:
        async with mortal(2, times=TIMING) as (model, runtime, _):
            await steps(model, runtime)

    on_manual_time(whole())


def refuse(runtime: FakeRuntime, model: Model, *refusals: Exception) -> list[float]:
    """Let the starts after the first one fail; return the list of their times."""
    left, starts = [*refusals], []
    show = model._changed

    def note(changed: Model) -> None:
        show(changed)
        status = changed.status
        if status.state is State.STARTING and status.progress is None and runtime.started:
            starts.append(asyncio.get_running_loop().time())
            runtime.refusal = left.pop(0) if left else None

    model._changed = note
    return starts


@pytest.mark.parametrize("refusal", [RuntimeUnavailable("no such file"), LaunchError("no")])
def test_it_goes_on_when_a_start_succeeds_again(refusal: Exception) -> None:
    """As while a daemon restarts, or when the next engine crashes too."""

    async def steps(model: Model, runtime: FakeRuntime) -> None:
        starts = refuse(runtime, model, refusal, refusal, refusal)
        reader = Reader()

        text = await reader.read(Generation(model, Order(PROMPT, 60, resumes=True)))

        assert text == " word" * 6
        assert [resumption.token_count for resumption in reader.resumptions] == [2]
        assert [round(later - starts[0]) for later in starts] == [0, 2, 6, 14]

    drive(steps)


def test_starts_are_tried_for_as_long_as_a_stream_may_be_silent() -> None:
    async def steps(model: Model, runtime: FakeRuntime) -> None:
        refuse(runtime, model, *[RuntimeUnavailable("no such file")] * 20)
        loop, reader = asyncio.get_running_loop(), Reader()
        began = loop.time()

        with pytest.raises(ResumptionFailed, match="no such file") as failed:
            await reader.read(Generation(model, Order(PROMPT, 30, resumes=True)))

        assert loop.time() - began == pytest.approx(30, abs=0.1)
        assert failed.value.metadata["sent_token_count"] == "2"

    drive(steps)


def test_what_no_retry_mends_is_not_waited_for() -> None:
    async def steps(model: Model, runtime: FakeRuntime) -> None:
        starts = refuse(runtime, model, Unlaunchable("no such image"))

        with pytest.raises(ResumptionFailed, match="no such image"):
            await Reader().read(Generation(model, Order(PROMPT, 60, resumes=True)))

        assert len(starts) == 1

    drive(steps)


def test_a_stop_in_the_back_off_is_the_end() -> None:
    async def steps(model: Model, runtime: FakeRuntime) -> None:
        reader = Reader()
        starts = refuse(runtime, model, *[LaunchError("no")] * 3)
        reading = asyncio.create_task(
            reader.read(Generation(model, Order(PROMPT, 60, resumes=True)))
        )
        await reader.has_resumed.wait()
        while model.status.state is not State.FAILED or not starts:
            await model.changes.next()
        with pytest.raises(NotRunning):
            await model.stop()

        with pytest.raises(ModelStopped):
            await reading
        assert len(starts) == 1
        assert model.status.state is State.FAILED

    drive(steps)


def test_a_stream_without_resume_ends_with_the_first_refusal() -> None:
    async def steps(model: Model, runtime: FakeRuntime) -> None:
        starts = refuse(runtime, model)
        with pytest.raises(Exception, match="broke the connection"):
            await Reader().read(Generation(model, Order(PROMPT, 60)))
        assert starts == []

    drive(steps)
