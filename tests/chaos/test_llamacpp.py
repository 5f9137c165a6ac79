"""The embedded engine dies."""

from __future__ import annotations

import os
import signal

import pytest

from tests.chaos.callers import STREAMS
from tests.chaos.conftest import Faulty
from tests.chaos.trial import PROMPT
from tests.runtimes.processes import with_variable

pytestmark = [
    pytest.mark.docker,
    pytest.mark.chaos,
]  # for the footprint, which has containers in it


async def test_killed_amid_streams(faulty: Faulty) -> None:
    allowed = {"ENGINE_FAILED", "START_BACKING_OFF"}
    async with (
        faulty("kill -9 of llama.cpp amid 8 streams", allowed, model_id="story-mini") as trial,
        trial.serving(runtime="process") as service,
    ):
        body = {"prompt": PROMPT, "max_new_tokens": 400}
        crowd = trial.call(service, 8, body, STREAMS)
        await crowd.callers[0].reading.wait()
        trial.strike()
        (worker,) = with_variable(f"LLAMACPP_PORT={(await trial.model(service)).port}")
        os.kill(worker, signal.SIGKILL)
        await crowd.answered()
        await trial.heal(service)
        assert ["ENGINE_FAILED"] in [caller.answers for caller in crowd.callers]
