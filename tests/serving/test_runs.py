"""Several runs of one model: the choice between them, their one queue, and the ends of each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass

import pytest

from inference_service.capacity.admission import Admission
from inference_service.capacity.claims import MEMORY
from inference_service.engines.base import Prompt
from inference_service.errors import EngineDied, ModelStopped, ServiceError, StartFailed
from inference_service.key import Key
from inference_service.lifecycle import Phase, Progress, State, Status
from inference_service.runtimes.base import Exit
from inference_service.serving.entry import Entry
from inference_service.serving.generation import Generation, Order
from inference_service.serving.leases import Lease
from inference_service.serving.model import Model
from inference_service.serving.runs import choose, folded
from tests.build import machine, reached, timing
from tests.build import model as make_model
from tests.fakes import FakeEngine, FakeRuntime, spec
from tests.waiting import PROMPTLY, SLOWLY, until, within

MIB = 2**20


@dataclass(frozen=True)
class Load:
    """A run for the choice."""

    busy: int
    free: bool = True


@pytest.mark.parametrize(
    ("loads", "chosen"),
    [
        pytest.param([], None, id="no run"),
        pytest.param([Load(3)], 0, id="the only one"),
        pytest.param([Load(3), Load(1), Load(2)], 1, id="the least busy"),
        pytest.param([Load(1), Load(1)], 0, id="the first of equals"),
        pytest.param([Load(0, free=False), Load(9)], 1, id="one that is free"),
        pytest.param([Load(0, free=False)], None, id="none is free"),
    ],
)
def test_the_choice_between_runs(loads: Sequence[Load], chosen: int | None) -> None:
    assert choose(loads) is (None if chosen is None else loads[chosen])


def starting(phase: Phase, fraction: float | None = None) -> Status:
    return Status(State.STARTING, progress=Progress(phase), fraction=fraction)


@pytest.mark.parametrize(
    ("nearer", "further"),
    [
        (Status(State.READY), starting(Phase.WARMING_UP, 0.9)),
        (starting(Phase.WAITING), Status(State.STOPPING)),
        (starting(Phase.LOADING_WEIGHTS), starting(Phase.PULLING_IMAGE, 0.9)),
        (starting(Phase.LOADING_WEIGHTS, 0.5), starting(Phase.LOADING_WEIGHTS, 0.4)),
        (Status(State.STOPPING), Status(State.FAILED)),
        (Status(State.FAILED), Status(State.STOPPED)),
    ],
)
def test_the_status_of_a_model_is_that_of_the_run_that_has_come_furthest(
    nearer: Status, further: Status
) -> None:
    assert folded([nearer, further]) is folded([further, nearer]) is nearer


class Bed:
    """A model of two runs, each with two slots."""

    def __init__(self, admission: Admission | None = None, **times: float) -> None:
        self.runtime, self.engine = FakeRuntime(), FakeEngine(concurrency=2)
        self.admission = admission or machine(10**9)
        self.times = timing(**times)
        self.model = self.another(spec().id, count=2)

    def another(self, model_id: str, count: int = 1, memory: str = "64MiB") -> Model:
        entry = spec(model_id, memory=memory)
        return make_model(entry, self.runtime, self.engine, self.times, self.admission, count=count)

    @property
    def states(self) -> list[State]:
        return [instance.state for instance in self.model.view().instances]

    async def ready(self) -> None:
        """Start both runs."""
        await self.model.start()
        await until(lambda: self.states == [State.READY] * 2, "not both runs are ready")

    async def hold(self, leases: AsyncExitStack, count: int) -> list[Lease]:
        """Take so many leases."""
        return [await leases.enter_async_context(self.model.lease()) for _ in range(count)]


@asynccontextmanager
async def made(**times: float) -> AsyncGenerator[Bed]:
    bed = Bed(None, **times)
    try:
        yield bed
    finally:
        for gate in (bed.runtime.may_run, bed.runtime.may_leave, bed.engine.may_speak):
            gate.set()
        await bed.model.close(0)
    assert bed.runtime.running == {}
    assert bed.admission.free(MEMORY) == 10**9


def names(leases: Sequence[Lease]) -> list[str]:
    return [lease.instance.name for lease in leases]


async def test_each_run_has_a_name_an_address_and_a_claim_of_its_own() -> None:
    async with made() as bed:
        await bed.ready()

        assert [*bed.runtime.running] == ["tgi-tiny", "tgi-tiny.R2"]
        first, second = bed.model.view().instances
        assert (first.name, second.name) == ("tgi-tiny", "tgi-tiny.R2")
        assert first.url != second.url
        assert bed.admission.free(MEMORY) == 10**9 - 2 * 64 * MIB
        assert (bed.model.status.container, bed.model.status.port) == ("tgi-tiny", 8080)


async def test_requests_go_to_the_least_busy_run_and_beyond_that_to_one_queue() -> None:
    async with made() as bed:
        await bed.ready()
        async with AsyncExitStack() as leases:
            held = await bed.hold(leases, 4)
            assert names(held) == ["tgi-tiny", "tgi-tiny.R2"] * 2
            waiting = asyncio.create_task(bed.hold(leases, 1))
            await until(lambda: bed.model.view().queued_count == 1, "nobody is in the queue")
            view = bed.model.view()
            assert (view.active_count, [each.active_count for each in view.instances]) == (
                5,
                [2] * 2,
            )
            assert not waiting.done()
            bed.runtime.running["tgi-tiny"].die(Exit(1))  # which frees no slot of the other
            await until(lambda: bed.states == [State.READY], "the dead run is still there")
            assert not waiting.done()
            waiting.cancel()


async def test_a_request_in_the_queue_gets_the_first_slot_of_any_run() -> None:
    async with made() as bed:
        await bed.ready()
        async with AsyncExitStack() as first, AsyncExitStack() as second:
            one = await first.enter_async_context(bed.model.lease())
            other = await bed.hold(second, 3)
            async with AsyncExitStack() as late:
                waiting = asyncio.create_task(bed.hold(late, 1))
                await until(lambda: bed.model.view().queued_count == 1, "nobody is in the queue")
                await first.aclose()
                async with within(PROMPTLY, "the slot was not given to the request in the queue"):
                    [lease] = await waiting
                assert lease.instance is one.instance
                assert lease.instance in [each.instance for each in other]


async def test_a_run_that_becomes_ready_serves_the_queue() -> None:
    async with made() as bed:
        await bed.model.start()
        bed.engine.may_answer.clear()
        async with AsyncExitStack() as leases:
            waiting = asyncio.create_task(bed.hold(leases, 3))
            await bed.runtime.engine("tgi-tiny.R2")
            await until(lambda: bed.model.view().queued_count == 1, "nobody is in the queue")
            bed.engine.may_answer.set()
            async with within(PROMPTLY, "the queue was not served"):
                held = await waiting
            assert names(held) == ["tgi-tiny"] * 2 + ["tgi-tiny.R2"]


async def test_a_model_is_ready_with_its_first_run_although_another_has_no_room() -> None:
    bed = Bed(machine(100 * MIB))
    await bed.model.start()

    assert bed.model.status.state is State.READY
    assert bed.states == [State.READY, State.STARTING]
    assert bed.runtime.started == ["tgi-tiny"]  # and it does not evict its own peer
    await bed.model.stop()
    assert bed.runtime.running == {}


async def test_the_death_of_one_run_loses_no_text_of_the_other() -> None:
    async with made() as bed:
        await bed.ready()
        bed.engine.may_speak.clear()
        async with AsyncExitStack() as leases:
            held = await bed.hold(leases, 2)
            texts = []
            for lease in held:
                prompt = Prompt("once", max_new_tokens=3)
                texts.append(bed.engine.generate(lease.instance, lease.entry.spec, prompt))
            bed.runtime.running["tgi-tiny"].die(Exit(1))
            await until(lambda: bed.states == [State.READY], "the dead run is still there")
            bed.engine.may_speak.set()
            async with aclosing(texts[1]) as chunks:
                assert "".join([c.text async for c in chunks]) == " word word word"
        assert bed.model.status.state is State.READY
        async with bed.model.lease() as lease:
            assert lease.instance.name == "tgi-tiny.R2"


async def test_a_text_whose_run_dies_is_repeated_on_the_other_at_once() -> None:
    async with made(back_off=600) as bed:
        await bed.ready()
        bed.engine.may_speak.clear()
        text = asyncio.create_task(Generation(bed.model, Order(Prompt("once", 3), 60)).whole())
        await bed.engine.generates()
        bed.engine.dead.append(bed.runtime.running["tgi-tiny"].instance)
        bed.engine.may_speak.set()
        await until(lambda: bed.engine.open == 0, "the text did not break off")
        assert not text.done()
        bed.runtime.running["tgi-tiny"].die(Exit(1))

        async with within(SLOWLY, "the text was not repeated"):
            assert await text == " word word word"


async def test_the_queue_ends_with_the_death_of_the_last_run() -> None:
    async with made(back_off=600) as bed:
        await bed.ready()
        async with AsyncExitStack() as leases:
            await bed.hold(leases, 4)
            waiting = asyncio.create_task(bed.hold(leases, 1))
            await until(lambda: bed.model.view().queued_count == 1, "nobody is in the queue")
            bed.runtime.running["tgi-tiny.R2"].die(Exit(1))
            await until(lambda: len(bed.states) == 1, "the dead run is still there")
            assert not waiting.done()
            bed.runtime.running["tgi-tiny"].die(Exit(1))
            async with within(PROMPTLY, "the queue was not ended"):
                with pytest.raises(EngineDied):
                    await waiting
        await reached(bed.model, State.FAILED)


async def test_a_second_run_begins_when_the_first_has_fetched_the_weights() -> None:
    async with made() as bed:
        bed.engine.may_answer.clear()
        start = asyncio.create_task(bed.model.start())
        await bed.runtime.engine()
        assert len(bed.states) == 1
        bed.engine.may_answer.set()
        await start
        await bed.runtime.engine("tgi-tiny.R2")


async def test_a_start_fails_when_no_run_can_start() -> None:
    async with made(back_off=600) as bed:
        bed.engine.may_answer.clear()
        bed.model.adopt([1, 2])
        start = asyncio.create_task(bed.model.start())
        one, two = await bed.runtime.engine(), await bed.runtime.engine("tgi-tiny.R2")
        one.die(Exit(3), "no memory")
        await until(lambda: len(bed.states) == 1, "the dead run is still there")
        assert (start.done(), bed.states) == (False, [State.STARTING])
        two.die(Exit(3), "no memory")
        async with within(PROMPTLY, "the start did not fail"):
            with pytest.raises((StartFailed, ServiceError), match="no memory"):
                await start
        assert bed.model.status.state is State.FAILED
        bed.engine.may_answer.set()


async def test_a_stop_drains_and_stops_all_runs() -> None:
    async with made() as bed:
        await bed.ready()
        async with AsyncExitStack() as leases:
            await bed.hold(leases, 4)
            late = AsyncExitStack()
            waiting = asyncio.create_task(bed.hold(late, 1))
            await until(lambda: bed.model.view().queued_count == 1, "nobody is in the queue")
            stop = asyncio.create_task(bed.model.stop(60))
            await reached(bed.model, State.STOPPING)
            assert not stop.done()
        async with within(PROMPTLY, "the queue was not served during the drain"):
            await waiting
        assert not stop.done()
        await late.aclose()
        async with within(PROMPTLY, "the stop did not end"):
            await stop
        assert bed.runtime.running == {}
        assert bed.model.status.state is State.STOPPED


async def test_the_end_of_a_drain_cuts_the_leases_and_the_queue() -> None:
    async with made() as bed:
        await bed.ready()

        async def use() -> None:
            async with bed.model.lease():
                await asyncio.Event().wait()

        users = [asyncio.create_task(use()) for _ in range(6)]
        await until(lambda: bed.model.view().queued_count == 2, "nobody is in the queue")
        async with within(PROMPTLY, "the stop did not end"):
            await bed.model.stop(0)
            ends = await asyncio.gather(*users, return_exceptions=True)
        assert [type(end) for end in ends] == [ModelStopped] * 6


async def test_runs_are_idle_together() -> None:
    async with made(idle=0.3) as bed:
        await bed.ready()
        first = bed.model.view().expire_time
        async with bed.model.lease():
            await asyncio.sleep(0.01)
        assert bed.model.view().expire_time > first  # type: ignore[operator]
        await until(lambda: bed.runtime.running == {}, "the runs were not idle")


async def test_another_entry_replaces_all_runs() -> None:
    async with made() as bed:
        await bed.ready()
        larger = Entry.of(spec(memory="65MiB"), bed.runtime, bed.engine)
        assert bed.model.change(larger)
        await until(
            lambda: len(bed.runtime.started) == 4 and bed.states == [State.READY] * 2,
            "the runs were not replaced",
        )
        assert bed.admission.free(MEMORY) == 10**9 - 2 * 65 * MIB


async def test_runs_that_are_adopted_keep_their_numbers() -> None:
    async with made() as bed:
        bed.model.adopt([2, 3])
        await until(lambda: bed.states == [State.READY] * 2, "not both runs are ready")
        assert [*bed.runtime.running] == ["tgi-tiny.R2", "tgi-tiny.R3"]


async def test_one_run_that_cannot_be_removed_does_not_hide_the_other() -> None:
    async with made() as bed:
        await bed.ready()
        bed.runtime.stop_refusal = RuntimeError("will not go")
        bed.runtime.running["tgi-tiny"].die(Exit(1))
        await until(lambda: bed.states == [State.READY], "the dead run is still there")
        assert bed.runtime.removal_pending(Key("tiny"))
        assert not bed.runtime.removal_pending(Key("tiny", 2))
        assert bed.admission.free(MEMORY) == 10**9 - 2 * 64 * MIB
        bed.runtime.removes_at_last()


async def test_a_lost_machine_is_told_as_such() -> None:
    async with made(back_off=600) as bed:
        await bed.ready()
        for name in ("tgi-tiny", "tgi-tiny.R2"):
            bed.runtime.running[name].die(Exit(None, lost=True))
        await reached(bed.model, State.FAILED)
        failure = bed.model.status.failure
        assert failure is not None
        assert "was lost with its machine" in failure.message
        assert "exit_code" not in failure.metadata
