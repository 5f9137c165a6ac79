"""The RPCs over fakes: what each passes on, and in which order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from google.protobuf import duration_pb2

from inference_service.api.prompts import Prompts
from inference_service.api.requests import Limits
from inference_service.api.servicer import ModelService
from inference_service.api.statuses import status_of
from inference_service.catalog import Catalog
from inference_service.errors import (
    ModelNotFound,
    ModelStopped,
    NotRunning,
    ServiceError,
    ShuttingDown,
    StopFailed,
)
from inference_service.lifecycle import State
from inference_service.serving.entry import Entry
from inference_service.serving.models import Models, Reload
from inference_service.serving.placement import RuntimeChoice
from inference_service.serving.reading import Readers
from inference_service.serving.start_times import StartTimes
from inference_service.v1 import model_service_pb2 as pb
from tests.build import machine, timing
from tests.fakes import FakeEngine, FakeRuntime, broken, spec
from tests.waiting import PROMPTLY, until, within

HOUR = duration_pb2.Duration(seconds=3600)


@dataclass
class Context:
    """The context of a call, as far as the handlers use it, and what they have written."""

    has_wire = False
    written: list[Any] = field(default_factory=list)
    accepted: bool = False

    async def send_initial_metadata(self, _: object) -> None:
        assert not self.accepted, "a call is accepted once"
        self.accepted = True

    async def write(self, message: Any) -> None:
        self.written.append(message)

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return ()

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    def time_remaining(self) -> None:
        return None

    @property
    def kinds(self) -> list[str]:
        """The kind of each event."""
        return [message.WhichOneof("event") for message in self.written]


class Bed:
    """The service on two models."""

    def __init__(self, back_off: float = 0) -> None:
        self.runtime, self.engine = FakeRuntime(), FakeEngine()
        self.models = Models(
            Catalog([spec("tiny"), spec("small")]),
            lambda spec: Entry.of(spec, self.runtime, self.engine),
            timing(idle=900, back_off=back_off),
            machine(10**9),
            StartTimes(),
        )
        choice = RuntimeChoice("fake", "for tests")
        self.service: Any = ModelService(
            self.models, lambda: choice, Limits(60, 3600, 600), self._reload, Readers(60), Prompts()
        )
        self.context = Context()

    async def _reload(self) -> Reload:
        return Reload((), (), (), ())

    async def model(self, model_id: str = "tiny") -> pb.Model:
        request = pb.GetModelRequest(model_id=model_id)
        model: pb.Model = (await self.service.GetModel(request, self.context)).model
        return model


@asynccontextmanager
async def made(back_off: float = 0) -> AsyncGenerator[Bed]:
    bed = Bed(back_off)
    try:
        yield bed
    finally:  # a test that fails may not hang
        for gate in (bed.runtime.may_leave, bed.runtime.may_pull, bed.engine.may_speak):
            gate.set()
        await bed.models.close(0)


async def begun(call: Awaitable[Any]) -> asyncio.Future[Any]:
    task = asyncio.ensure_future(call)
    await asyncio.sleep(0)
    return task


async def test_expire_time_is_unset_while_a_model_is_in_use() -> None:
    async with made() as bed:
        assert not (await bed.model()).HasField("expire_time")
        async with bed.models.find("tiny").lease():
            model = await bed.model()
            assert (model.active_request_count, model.HasField("expire_time")) == (1, False)

        assert (await bed.model()).HasField("expire_time")


async def test_a_start_that_is_only_validated_starts_nothing() -> None:
    async with made() as bed:
        request = pb.StartModelRequest(model_id="tiny", validate_only=True)

        answer = await bed.service.StartModel(request, bed.context)

        assert (answer.port, answer.container_name) == (0, "")
        assert answer.plan.required_memory_bytes == 64 * 2**20
        assert answer.model.state == pb.MODEL_STATE_STOPPED
        assert bed.runtime.started == []


async def test_a_start_without_a_wait_answers_at_once_with_the_name_that_will_be() -> None:
    async with made() as bed:
        bed.runtime.may_pull.clear()
        request = pb.StartModelRequest(model_id="tiny", no_wait=True)

        async with within(PROMPTLY, "the call waited for the start"):
            answer = await bed.service.StartModel(request, bed.context)

        assert (answer.port, answer.container_name) == (0, "tgi-tiny")
        assert answer.message == "Container for tiny is being started"
        assert answer.model.state == pb.MODEL_STATE_STARTING


async def test_a_start_sets_the_idle_timeout() -> None:
    async with made() as bed:
        request = pb.StartModelRequest(model_id="tiny", idle_timeout=HOUR)

        answer = await bed.service.StartModel(request, bed.context)

        assert (answer.port, answer.container_name) == (8080, "tgi-tiny")
        model = answer.model
        assert 3590 < model.expire_time.seconds - model.state_change_time.seconds <= 3601


async def test_a_stop_has_the_drain_of_its_request() -> None:
    async with made() as bed:
        bed.engine.may_speak.clear()
        request = pb.GenerateRequest(model_id="tiny", prompt="once", max_new_tokens=2)
        call = await begun(bed.service.Generate(request, bed.context))
        await bed.engine.generates()
        stop = pb.StopModelRequest(model_id="tiny", drain_timeout=duration_pb2.Duration())

        async with within(PROMPTLY, "the request was not cut"):
            answer = await bed.service.StopModel(stop, bed.context)

        assert answer.model.state == pb.MODEL_STATE_STOPPED
        with pytest.raises(ModelStopped):
            await call


async def test_a_model_that_could_not_be_removed_does_not_run() -> None:
    async with made() as bed:
        await bed.models.find("tiny").start()
        bed.runtime.stop_refusal = StopFailed("tiny", "tgi-tiny", "it will not go")
        request = pb.StopModelRequest(model_id="tiny")

        with pytest.raises(StopFailed):
            await bed.service.StopModel(request, bed.context)
        model = await bed.model()
        assert model.state == pb.MODEL_STATE_FAILED
        assert "could not be removed" in model.last_error.message
        with pytest.raises(NotRunning) as refused:
            await bed.service.StopModel(request, bed.context)

        assert refused.value.reason == "CONTAINER_NOT_RUNNING"
        assert status_of(refused.value).message == "tiny is not running"
        bed.runtime.removes_at_last()


@pytest.mark.parametrize("status_events", [True, False])
async def test_a_stream_is_the_start_the_text_and_one_summary(status_events: bool) -> None:
    async with made() as bed:
        request = pb.GenerateStreamRequest(
            model_id="tiny", prompt="once", max_new_tokens=3, status_events=status_events
        )

        await bed.service.GenerateStream(request, bed.context)

        kinds = bed.context.kinds
        text = ["chunk"] * 3 + ["summary"]
        assert kinds[-4:] == text
        assert set(kinds[:-4]) == ({"status"} if status_events else set())
        assert bed.context.written[-1].summary.completion_token_count == 3


async def test_a_stream_that_goes_on_says_where_between_its_chunks() -> None:
    async with made() as bed:
        bed.engine.may_speak.clear()
        request = pb.GenerateStreamRequest(
            model_id="tiny", prompt="once", max_new_tokens=3, resume=True
        )

        async def write(message: Any) -> None:
            if not bed.context.written:
                bed.engine.failure = broken()
            else:
                bed.engine.failure = None
            bed.context.written.append(message)

        bed.context.write = write  # type: ignore[method-assign]
        bed.engine.may_speak.set()
        await bed.service.GenerateStream(request, bed.context)

        kinds = bed.context.kinds
        assert kinds == ["chunk", "resumption", "chunk", "chunk", "summary"]
        assert bed.context.written[1].resumption.sent_token_count == 1


async def test_a_watch_of_one_model_has_its_changes_and_the_end_of_the_snapshot() -> None:
    async with made() as bed:
        request = pb.WatchModelsRequest(model_id="tiny")
        watch = await begun(bed.service.WatchModels(request, bed.context))
        await until(lambda: len(bed.context.written) == 2, "the snapshot has no end")
        for model_id in ("small", "tiny"):
            await bed.models.find(model_id).start()
        last = pb.MODEL_STATE_READY
        await until(lambda: bed.context.written[-1].model.state == last, "READY was not reported")
        watch.cancel()

        kinds = bed.context.kinds
        assert kinds[:2] == ["model", "snapshot_done"]
        assert set(kinds[2:]) == {"model"}
        assert {m.model.id for m in bed.context.written if m.HasField("model")} == {"tiny"}


async def test_no_method_knows_a_model_that_the_catalog_does_not_have() -> None:
    async with made() as bed:
        for method, request in (
            (bed.service.GetModel, pb.GetModelRequest(model_id="tinny")),
            (bed.service.StartModel, pb.StartModelRequest(model_id="tinny")),
            (bed.service.StopModel, pb.StopModelRequest(model_id="tinny")),
            (bed.service.WatchModels, pb.WatchModelsRequest(model_id="tinny")),
            (bed.service.StreamLogs, pb.StreamLogsRequest(model_id="tinny")),
            (bed.service.Generate, pb.GenerateRequest(model_id="tinny")),
            (bed.service.GenerateStream, pb.GenerateStreamRequest(model_id="tinny")),
        ):
            with pytest.raises(ModelNotFound, match="did you mean 'tiny'"):
                async with within(PROMPTLY, "an unknown model was watched"):
                    await method(request, bed.context)
        assert not bed.context.accepted


async def test_a_watch_is_accepted_before_it_waits() -> None:
    async with made() as bed:
        await bed.models.find("small").start()
        revision = time.time_ns()
        for method, request in (
            (bed.service.WatchModels, pb.WatchModelsRequest(model_id="tiny")),
            (bed.service.WatchModels, pb.WatchModelsRequest(after_revision=revision)),
            (
                bed.service.StreamLogs,
                pb.StreamLogsRequest(model_id="small", tail_line_count=0, follow=True),
            ),
        ):
            context = Context()
            call = await begun(method(request, context))
            assert context.accepted
            call.cancel()


@pytest.mark.parametrize("status_events", [True, False])
@pytest.mark.parametrize("name", ["GenerateStream", "Forward"])
async def test_a_generation_is_accepted_with_its_first_message(
    name: str, status_events: bool
) -> None:
    async with made() as bed:
        bed.runtime.may_pull.clear()
        request: Any = {
            "GenerateStream": pb.GenerateStreamRequest(prompt="once", max_new_tokens=2),
            "Forward": pb.ForwardRequest(path="/words"),
        }[name]
        request.model_id, request.status_events = "tiny", status_events
        call = await begun(getattr(bed.service, name)(request, bed.context))
        await until(
            lambda: bed.models.find("tiny").status.state is State.STARTING, "no start was begun"
        )
        assert bed.context.accepted is status_events
        bed.runtime.may_pull.set()
        await call

        assert bed.context.accepted
        assert bed.context.kinds[-1] in ("summary", "data")


async def test_a_stream_that_is_refused_is_not_accepted() -> None:
    async with made() as bed:
        for method, request, refusal in (
            (bed.service.GenerateStream, pb.GenerateStreamRequest(model_id="tiny"), "prompt"),
            (bed.service.StreamLogs, pb.StreamLogsRequest(model_id="tiny"), "not running"),
            (
                bed.service.StreamLogs,
                pb.StreamLogsRequest(model_id="tiny", tail_line_count=-1),
                "must be from 0",
            ),
        ):
            with pytest.raises(ServiceError, match=refusal):
                await method(request, bed.context)
        await bed.models.close(0)
        with pytest.raises(ShuttingDown):
            request = pb.GenerateStreamRequest(model_id="tiny", prompt="once", max_new_tokens=2)
            await bed.service.GenerateStream(request, bed.context)

        assert not bed.context.accepted


async def test_a_reader_of_logs_gets_the_last_lines_and_new_ones_where_it_follows() -> None:
    async with made() as bed:
        await bed.models.find("tiny").start()
        log = bed.runtime.running["tgi-tiny"].log
        for line in ("one", "two", "three"):
            log.append(line)

        request = pb.StreamLogsRequest(model_id="tiny", tail_line_count=2)
        async with within(PROMPTLY, "the call followed the log"):
            await bed.service.StreamLogs(request, bed.context)
        assert [message.line for message in bed.context.written] == ["two", "three"]
        bed.context.accepted, request.follow = False, True
        follow = await begun(bed.service.StreamLogs(request, bed.context))
        await until(lambda: len(bed.context.written) == 4, "the last lines were not read")
        log.append("four")
        await until(lambda: len(bed.context.written) == 5, "a new line was not read")
        follow.cancel()

        assert bed.context.written[-1].line == "four"
