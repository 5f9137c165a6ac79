"""Prompts that cannot fit, refused by their bytes before they have a slot."""

from __future__ import annotations

import asyncio

import pytest

from inference_service.engines.base import Prompt
from inference_service.errors import PromptTooLong
from inference_service.serving.fitting import LONGEST_TOKEN, refuse_what_cannot_fit
from inference_service.serving.generation import Generation, Order
from tests.build import model as make_model
from tests.build import timing
from tests.fakes import FakeEngine, FakeRuntime, spec
from tests.waiting import PROMPTLY, within

CONTEXT = 128


@pytest.mark.parametrize("longest", [None, 0, 1, 14, 300])
@pytest.mark.parametrize("letter", ["a", " ", "é", "\U0001f999"])
def test_a_prompt_that_may_fit_is_never_refused(longest: int | None, letter: str) -> None:
    room = CONTEXT * (longest or LONGEST_TOKEN)
    refuse_what_cannot_fit(letter * (room // len(letter.encode())), spec(), longest)


@pytest.mark.parametrize(("longest", "room"), [(None, CONTEXT * 256), (1, 128), (14, 1792)])
def test_a_prompt_of_more_bytes_than_all_tokens_is_refused(longest: int | None, room: int) -> None:
    with pytest.raises(PromptTooLong, match=f"it has {room + 1} bytes.*have at most {room}") as why:
        refuse_what_cannot_fit("a" * (room - 1) + "é", spec(), longest)
    assert why.value.metadata == {"context_length": "128"}


def test_a_tokenizer_that_can_drop_text_has_no_bound() -> None:
    refuse_what_cannot_fit("a" * (1 << 22), spec(), 0)


def test_a_tokenizer_that_is_not_known_may_drop_white_space() -> None:
    refuse_what_cannot_fit(" \n\t" * (1 << 20), spec(), None)
    with pytest.raises(PromptTooLong):
        refuse_what_cannot_fit(" \n\t" * (1 << 20), spec(), 14)


async def test_a_prompt_that_cannot_fit_needs_no_slot() -> None:
    """It is refused while each slot is taken, without a place in the queue."""
    engine = FakeEngine(concurrency=1)
    engine.longest = 5
    model = make_model(spec(), FakeRuntime(), engine, timing())
    long = Generation(model, Order(Prompt("a" * (CONTEXT * 5 + 1)), 60))
    async with model.lease(), within(PROMPTLY, "the prompt waited for a slot"):
        with pytest.raises(PromptTooLong) as why:
            await long.whole()
    assert why.value.metadata["model_id"] == "tiny"
    await model.close(0)


async def test_a_prompt_is_judged_when_the_engine_is_known() -> None:
    """Before the first start nothing is known of the tokens."""
    runtime, engine = FakeRuntime(), FakeEngine()
    engine.longest = 5
    model = make_model(spec(), runtime, engine, timing())
    asking = asyncio.create_task(Generation(model, Order(Prompt("a" * 1000), 60)).whole())
    with pytest.raises(PromptTooLong):
        await asking
    assert runtime.started == ["tgi-tiny"]
    assert not engine.open
    await model.close(0)
