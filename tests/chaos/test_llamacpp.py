"""Faults of the embedded engine: a death, a hang."""

from __future__ import annotations

import os
import signal

import pytest

from tests.chaos.callers import STREAMS
from tests.chaos.conftest import Faulty
from tests.chaos.trial import PROMPT, Trial
from tests.runtimes.processes import with_variable
from tests.service import Serving

pytestmark = [
    pytest.mark.docker,
    pytest.mark.chaos,
]  # docker, since the leftovers count containers


LONG = {"prompt": PROMPT, "max_new_tokens": 400}


async def signalled(trial: Trial, service: Serving, number: signal.Signals) -> None:
    """Send a signal to the engine."""
    (worker,) = with_variable(f"LLAMACPP_PORT={(await trial.model(service)).port}")
    os.kill(worker, number)


async def test_killed_amid_streams(faulty: Faulty) -> None:
    allowed = {"ENGINE_FAILED", "START_BACKING_OFF"}
    async with (
        faulty("kill -9 of llama.cpp amid 8 streams", allowed, model_id="story-mini") as trial,
        trial.serving(runtime="process") as service,
    ):
        crowd = trial.call(service, 8, LONG, STREAMS)
        await crowd.callers[0].read()
        trial.strike()
        await signalled(trial, service, signal.SIGKILL)
        await crowd.answered()
        await trial.heal(service)
        assert ["ENGINE_FAILED"] in [caller.answers for caller in crowd.callers]


async def test_hangs_amid_streams(faulty: Faulty) -> None:
    allowed = {"ENGINE_FAILED", "START_BACKING_OFF"}
    async with (
        faulty("SIGSTOP of llama.cpp amid 8 streams", allowed, model_id="story-mini") as trial,
        trial.serving(runtime="process", hang_timeout=1) as service,
    ):
        crowd = trial.call(service, 8, LONG, STREAMS)
        await crowd.callers[0].read()
        trial.strike()
        await signalled(trial, service, signal.SIGSTOP)
        await trial.call(service, 8).answered()
        await crowd.answered()
        await trial.heal(service)
        assert ["ENGINE_FAILED"] in [caller.answers for caller in crowd.callers]
