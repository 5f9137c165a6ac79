"""Faults of TGI's double: a death, too little memory, a hang."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from docker.models.containers import Container

from inference_service.v1 import model_service_pb2 as pb
from tests.chaos.callers import STREAMS, TEXT
from tests.chaos.conftest import Faulty
from tests.chaos.trial import ENDLESS
from tests.service import Serving
from tests.waiting import SLOWLY, within

pytestmark = [pytest.mark.docker, pytest.mark.chaos]

Settings = Callable[..., dict[str, Any]]

# Makes the kernel kill the engine, and not this program, when the container's memory is full.
_OUTGROW = """
import glob, os
for path in glob.glob('/proc/[0-9]*/oom_score_adj'):
    if path.split('/')[2] not in ('1', str(os.getpid())):
        open(path, 'w').write('1000')
kept = [bytearray(b'x' * 2**20) for _ in range(2**10)]
"""


def signalled(container: Container, number: signal.Signals) -> None:
    """Send a signal to the engine itself, which is not the container's first process."""
    container.exec_run(["/bin/sh", "-c", f"kill -{number} -1"])


async def until_state(
    service: Serving, model_id: str, wanted: Callable[[pb.Model], bool]
) -> pb.Model:
    """Return the model as soon as it is as wanted."""
    call = service.stub.WatchModels(pb.WatchModelsRequest(model_id=model_id))
    async with within(SLOWLY, "the model did not come into the wanted state"):
        async for change in call:
            if change.WhichOneof("event") == "model" and wanted(change.model):
                call.cancel()
                return change.model
    raise AssertionError("the watch has ended")


@asynccontextmanager
async def failing(service: Serving, model_id: str) -> AsyncGenerator[asyncio.Task[str]]:
    """Watch the model during a fault, for the message of FAILED: it may be READY again soon."""

    def failed(model: pb.Model) -> bool:
        watching.set()
        return model.state == pb.MODEL_STATE_FAILED

    async def message() -> str:
        return str((await until_state(service, model_id, failed)).last_error.message)

    watching = asyncio.Event()
    watch = asyncio.create_task(message())
    async with within(SLOWLY, "the watch did not begin"):
        await watching.wait()
    yield watch
    await watch


async def test_killed_while_loading(faulty: Faulty, tgi: Settings) -> None:
    allowed = {"START_FAILED", "START_BACKING_OFF"}
    async with (
        faulty("kill -9 of an engine that loads", allowed) as trial,
        trial.serving(**tgi(DOUBLE_LOAD_SECONDS=1)) as service,
    ):
        crowd = trial.call(service, 20)
        await until_state(
            service,
            trial.model_id,
            lambda model: model.start_progress.phase == pb.START_PHASE_LOADING_WEIGHTS,
        )
        trial.strike()
        signalled(trial.container(), signal.SIGKILL)
        await crowd.answered()
        await trial.heal(service)
        assert ["START_FAILED"] in [caller.answers for caller in crowd.callers]
        assert not any(caller.answers == [TEXT] for caller in crowd.callers)


async def test_killed_while_idle(faulty: Faulty, tgi: Settings) -> None:
    allowed = {"ENGINE_FAILED", "START_FAILED", "START_BACKING_OFF"}
    async with (
        faulty("kill -9 of an idle engine", allowed) as trial,
        trial.serving(**tgi()) as service,
    ):
        await trial.call(service, 1).answered()
        trial.strike()
        signalled(trial.container(), signal.SIGKILL)
        await trial.call(service, 20).answered()
        await trial.heal(service)


async def test_killed_amid_streams(faulty: Faulty, tgi: Settings) -> None:
    allowed = {"ENGINE_FAILED", "START_BACKING_OFF"}
    async with (
        faulty("kill -9 amid 20 streams", allowed) as trial,
        trial.serving(**tgi(DOUBLE_TOKENS_PER_SECOND=50)) as service,
    ):
        crowd = trial.call(service, 20, ENDLESS, STREAMS)
        await crowd.reading()
        trial.strike()
        signalled(trial.container(), signal.SIGKILL)
        await crowd.answered()
        await trial.heal(service)
        assert [caller.answers for caller in crowd.callers] == [["ENGINE_FAILED"]] * 20


async def test_killed_amid_streams_with_resumptions(faulty: Faulty, tgi: Settings) -> None:
    async with (
        faulty("kill -9 amid 20 streams that resume") as trial,
        trial.serving(**tgi(DOUBLE_TOKENS_PER_SECOND=50)) as service,
    ):
        body = ENDLESS | {"max_new_tokens": 150, "resume": True}
        crowd = trial.call(service, 20, body, STREAMS)
        await crowd.reading()
        trial.strike()
        signalled(trial.container(), signal.SIGKILL)
        await crowd.answered()
        await trial.heal(service)
        assert [caller.answers for caller in crowd.callers] == [[TEXT]] * 20


async def test_out_of_memory_amid_streams(faulty: Faulty, tgi: Settings) -> None:
    allowed = {"ENGINE_FAILED", "START_BACKING_OFF"}
    async with (
        faulty("out of memory amid 20 streams", allowed) as trial,
        trial.serving(**tgi(DOUBLE_TOKENS_PER_SECOND=50)) as service,
    ):
        crowd = trial.call(service, 20, ENDLESS, STREAMS)
        await crowd.reading()
        async with failing(service, trial.model_id) as error:
            trial.strike()
            trial.container().exec_run(["python", "-c", _OUTGROW], detach=True)
            await crowd.answered()
        await trial.heal(service)
        assert "ran out of its memory limit" in await error
        assert [caller.answers for caller in crowd.callers] == [["ENGINE_FAILED"]] * 20


async def test_hangs_amid_streams(faulty: Faulty, tgi: Settings) -> None:
    """The engine runs, and its port is open: only its silence shows the fault."""
    allowed = {"ENGINE_FAILED", "START_BACKING_OFF"}
    settings = tgi(DOUBLE_TOKENS_PER_SECOND=50) | {"hang_timeout": 1}
    async with (
        faulty("SIGSTOP amid 20 streams", allowed) as trial,
        trial.serving(**settings) as service,
    ):
        crowd = trial.call(service, 20, ENDLESS, STREAMS)
        await crowd.reading()
        async with failing(service, trial.model_id) as error:
            trial.strike()
            signalled(trial.container(), signal.SIGSTOP)
            late = trial.call(service, 20)
            await crowd.answered()
            await late.answered()
        await trial.heal(service)
        assert "answered nothing for" in await error
        assert {answer for caller in late.callers for answer in caller.answers} == {TEXT}
        assert [caller.answers for caller in crowd.callers] == [["ENGINE_FAILED"]] * 20
