"""The runs of several models in one memory, in any order of events, on a manual clock.

The machine acts on `Models` as callers, engines, runtimes and time do, and stops the loop between
any two of its iterations. After each step it checks the promises of docs/architecture.md. Each bug
that it has found has a test of its own in `test_run_ends.py`.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Literal

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from inference_service.capacity.claims import MEMORY
from inference_service.catalog import Catalog, ModelSpec
from inference_service.engines.llamacpp.section import LlamacppNeeds
from inference_service.errors import (
    EngineDied,
    EngineFailed,
    LaunchError,
    ModelStopped,
    NotRunning,
    QueueFull,
    RuntimeUnavailable,
    ShuttingDown,
    StartBackingOff,
    StartFailed,
    StartStalled,
    StopFailed,
)
from inference_service.lifecycle import TRANSITIONS, State, Status
from inference_service.runtimes.base import Exit, Instance
from inference_service.runtimes.command import Seat
from inference_service.serving.entry import Entry
from inference_service.serving.history import NO_REVISION
from inference_service.serving.model import Model as Served
from inference_service.serving.models import Models, Shown
from inference_service.serving.start_times import StartTimes
from inference_service.serving.timing import Timing
from inference_service.serving.view import View
from tests.build import machine
from tests.fakes import FakeEngine, FakeRunning, broken, spec
from tests.serving.faulty_runtime import FaultyRuntime
from tests.serving.manual_loop import ManualLoop

MIB = 2**20
CAPACITY = 100 * MIB
CONCURRENCY = 2
TIMING = Timing(
    queue_size=3,
    queue_wait=math.inf,
    stall=90,
    drain=20,
    idle=30,
    residency=4,
    poll=1,
    poll_longest=5,
    back_off=2,
    back_off_longest=10,
    probe=4,
    hang=14,
    healthy_spell=20.5,
)
STATES_IN_USE = (State.STARTING, State.READY)
SOON = 1e-3


class ProbedEngine(FakeEngine):
    """An engine that calls `hangs` when its silence is so long that it has to be replaced."""

    def __init__(self, hangs: Callable[[], None]) -> None:
        super().__init__(CONCURRENCY)
        self.answered_at = -math.inf
        self._hangs = hangs

    async def ready(self, instance: Instance) -> bool:
        now = asyncio.get_running_loop().time()
        if answers := await super().ready(instance):
            self.answered_at = now
        elif now - self.answered_at >= TIMING.hang:
            self._hangs()
        return answers


@dataclass(eq=False)
class Wait:
    """The wait of a caller for a slot, and the slots that others have had meanwhile."""

    calls: list[Call]
    slots: Counter[str] = field(default_factory=Counter)

    @property
    def goes_on(self) -> bool:
        return any(call.waits for call in self.calls)


@dataclass(eq=False)
class Model:
    """One model, with the events and acts that the machine has seen. Runs have numbers."""

    spec: ModelSpec
    runtime: FaultyRuntime = field(default_factory=FaultyRuntime)
    engine: ProbedEngine = field(init=False)
    first_spec: ModelSpec = field(init=False)  # of the first catalog
    wanted_spec: ModelSpec = field(init=False)  # of the present catalog
    run_spec: ModelSpec = field(init=False)  # with which the run began
    state: State = State.STOPPED
    run: int = 0
    stopped: int = 0  # the last run that a caller, a reload or a close has stopped
    faulty: int = 0  # the last run that may fail
    harmed: int = 0  # the last run whose engine died or hung
    cut_at: float = math.inf  # when the stop of `stopped` has to have cut its leases
    ready_at: float = 0.0
    ready_run: int = 0
    used_at: float = 0.0
    perhaps_used_at: float = 0.0
    may_go_at: float = 0.0  # the earliest end of the idle timeout
    must_go_at: float = 0.0  # the latest
    failures: int = 0  # in a row
    retry_at: float = -math.inf
    revives_at: float = math.inf  # when it starts again without a caller
    waits: dict[str, Wait] = field(default_factory=dict)  # by caller

    def __post_init__(self) -> None:
        self.engine = ProbedEngine(self.hangs)
        self.first_spec = self.wanted_spec = self.run_spec = self.spec

    @property
    def own_idle(self) -> float:
        return TIMING.idle if self.spec.idle_timeout is None else self.spec.idle_timeout

    @property
    def size(self) -> int:
        return self.run_spec.needs(LlamacppNeeds).memory

    @property
    def serves(self) -> bool:
        return self.state is State.READY and self.harmed != self.run

    @property
    def engine_runs(self) -> bool:
        return self.runtime.current is not None and not self.runtime.current.exit.done()

    @property
    def may_stall(self) -> bool:
        return not (self.runtime.may_pull.is_set() and self.engine.may_answer.is_set())

    def hangs(self) -> None:
        """Note a silence of the engine that is too long; during a start it is no fault."""
        if self.state is not State.STARTING:
            self.faulty = self.harmed = self.run


Kind = Literal["lease", "start", "follow", "begin", "stop"]


@dataclass(eq=False)
class Call:
    """One caller. `since` is the first run whose errors may be the answer."""

    model: Model
    kind: Kind
    caller: str = ""
    idle: float | None = None
    drain: float = 0.0
    tidies_up: bool = False
    since: int = 0
    instance: FakeRunning | None = None  # of the lease
    ends: bool = False  # the block of the lease is being left
    cancelled: bool = False
    asked: bool = False
    due: int = 0  # the run that was READY while the call waited for it
    task: asyncio.Task[None] = field(init=False)
    end: asyncio.Future[None] = field(init=False)

    @property
    def holds(self) -> bool:
        return self.instance is not None and not self.task.done()

    @property
    def queues(self) -> bool:
        """Whether the call waits for a slot, when the model serves and no task can run."""
        started = self.kind in ("lease", "follow") and self.asked
        return started and self.instance is None and not (self.cancelled or self.task.done())

    @property
    def waits(self) -> bool:
        """Whether the call waits for a slot and takes it at once: `follow` has to notify first."""
        return self.queues and self.kind == "lease"


@dataclass(eq=False)
class Watcher:
    """A watcher of all models, with the latest status of each that came."""

    revision: int
    latest: dict[str, Status]
    task: asyncio.Task[None] = field(init=False)


def without_forecast(status: Status) -> Status:
    """Return a status without the forecast, which changes with time alone."""
    return replace(status, fraction=None, remaining=None)


ITERATIONS = st.one_of(st.just(math.inf), st.integers(0, 15))
IDS = ("pinned", "small", "large")
MODEL = st.sampled_from(IDS)
CALLERS = ("greedy", "modest", "third")
CALLER = st.sampled_from(CALLERS)
ANY = st.integers(0, 50)


class LifecycleMachine(RuleBasedStateMachine):
    """All models of a catalog, and everything that acts on them."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = ManualLoop()
        self.loop.set_exception_handler(lambda _, context: self.wrong.append(repr(context)))
        sizes = {"pinned": "30MiB", "small": "40MiB", "large": "70MiB"}
        self.models = {
            name: Model(spec(name, memory=size).model_copy(update={"pinned": name == "pinned"}))
            for name, size in sizes.items()
        }
        self.admission = machine(CAPACITY)
        self.served = Models(
            Catalog([model.spec for model in self.models.values()]),
            lambda spec: Entry.of(spec, self.models[spec.id].runtime, self.models[spec.id].engine),
            TIMING,
            self.admission,
            StartTimes(),
            self.changed,
        )
        self.wrong: list[str] = []
        self.calls: list[Call] = []
        self.watchers: list[Watcher] = []
        self.closes: list[asyncio.Task[None]] = []
        self.dead: set[FakeRunning] = set()  # whose end each task has had time to notice
        self.settled = self.sound = True

    def run(self, iterations: float = math.inf, seconds: float = 0) -> None:
        self.loop.run(seconds, iterations)
        self.settled = iterations == math.inf
        if self.settled:
            models = self.models.values()
            runtimes = (model.runtime for model in models)
            self.dead = {i for r in runtimes for i in r.running.values() if i.exit.done()}
            self.dead |= {
                m.runtime.current for m in models if m.runtime.current and m.harmed == m.run
            }
            for model in models:
                self.note_waits(model)

    def note_waits(self, model: Model) -> None:
        """Note the callers that wait for a slot. No task can run, so that all are in the queue."""
        for caller in CALLERS:
            waiting = [c for c in self.calls_of(model) if c.waits and c.caller == caller]
            if not (model.serves and waiting):
                model.waits.pop(caller, None)
                continue
            known = model.waits.get(caller)
            if known is None or not known.goes_on:
                known = model.waits[caller] = Wait([])
            known.calls = waiting
            for call in waiting:
                call.due = call.due or model.run

    def calls_of(self, model: Model) -> list[Call]:
        return [call for call in self.calls if call.model is model]

    # The events.

    @initialize(which=MODEL)
    def serves_already(self, which: str) -> None:
        self.call(Call(self.models[which], "lease", CALLERS[0]), math.inf)

    @rule(
        name=MODEL,
        kind=st.sampled_from(["lease", "lease", "lease", "start", "follow", "begin"]),
        caller=CALLER,
        idle=st.sampled_from([None, None, 0.0, 50.0]),
        tidies_up=st.booleans(),
        iterations=ITERATIONS,
    )
    def calls_for(
        self,
        name: str,
        kind: Kind,
        caller: str,
        idle: float | None,
        tidies_up: bool,
        iterations: float,
    ) -> None:
        self.call(Call(self.models[name], kind, caller, idle, tidies_up=tidies_up), iterations)

    @rule(name=MODEL, callers=st.lists(CALLER, min_size=2, max_size=4), iterations=ITERATIONS)
    def several_call_at_once(self, name: str, callers: list[str], iterations: float) -> None:
        for caller in callers:
            self.call(Call(self.models[name], "lease", caller), 0)
        self.run(iterations)

    @rule(name=MODEL, drain=st.sampled_from([0.0, 10.0, 15.0, 40.0]), iterations=ITERATIONS)
    def stops(self, name: str, drain: float, iterations: float) -> None:
        self.call(Call(self.models[name], "stop", drain=drain), iterations)

    @precondition(lambda self: self.calls)
    @rule(which=ANY, iterations=ITERATIONS)
    def cancels(self, which: int, iterations: float) -> None:
        call = self.calls[which % len(self.calls)]
        call.cancelled |= call.task.cancel()
        self.run(iterations)

    @precondition(lambda self: any(call.holds and not call.ends for call in self.calls))
    @rule(which=ANY, breaks=st.booleans(), iterations=ITERATIONS)
    def ends(self, which: int, breaks: bool, iterations: float) -> None:
        holders = [call for call in self.calls if call.holds and not call.ends]
        call = holders[which % len(holders)]
        if not call.end.done():
            call.end.set_exception(broken()) if breaks else call.end.set_result(None)
        self.run(iterations)

    @precondition(lambda self: any(call.waits and call.model.waits for call in self.calls))
    @rule(which=ANY, iterations=st.integers(0, 3))
    def leaves_as_its_slot_comes(self, which: int, iterations: int) -> None:
        waiting = [call for call in self.calls if call.waits and call.model.waits]
        leaver = waiting[which % len(waiting)]
        for call in self.calls_of(leaver.model):
            if call.holds and not call.end.done():
                call.end.set_result(None)
        self.run(iterations)
        leaver.cancelled |= leaver.task.cancel()
        self.run()

    @precondition(lambda self: not self.closes)  # it is refused after that
    @rule(
        name=MODEL, shrinks=st.booleans(), idle=st.sampled_from([None, 10.0]), iterations=ITERATIONS
    )
    def reloads(self, name: str, shrinks: bool, idle: float | None, iterations: float) -> None:
        self.loop.call_soon(self.reload, name, shrinks, idle)
        self.run(iterations)

    def reload(self, name: str, shrinks: bool, idle: float | None) -> None:
        model = self.models[name]
        last, entry = model.wanted_spec, spec(name, memory="29MiB") if shrinks else model.first_spec
        model.wanted_spec = entry.model_copy(
            update={"pinned": model.first_spec.pinned, "idle_timeout": idle}
        )
        runs = model.state in STATES_IN_USE and model.stopped != model.run
        if (
            runs
            and last != model.wanted_spec
            and model.engine.command(entry, Seat()) != model.engine.command(model.run_spec, Seat())
        ):
            self.note_stop(model, TIMING.drain)
        reloading = self.served.reload(Catalog([m.wanted_spec for m in self.models.values()]))
        try:
            reloading.send(None)
        except StopIteration as ended:  # so few models have no pause between them
            changes = ended.value
        if name in changes.changed:  # in force at once
            model.spec = self.served.find(name).entry.spec
            model.may_go_at = model.used_at + model.own_idle
            model.must_go_at = model.perhaps_used_at + model.own_idle

    @precondition(lambda self: any(model.engine_runs for model in self.models.values()))
    @rule(which=ANY, iterations=ITERATIONS)
    def crashes(self, which: int, iterations: float) -> None:
        running = [model for model in self.models.values() if model.engine_runs]
        model = running[which % len(running)]
        assert model.runtime.current is not None
        model.runtime.current.die(Exit(1), "Segmentation fault")
        model.faulty = model.harmed = model.run
        self.run(iterations)

    @precondition(lambda self: any(model.serves for model in self.models.values()))
    @rule(which=ANY, seconds=st.sampled_from([5, 13, 15, 19]), answers_again=st.booleans())
    def hangs_for_a_while(self, which: int, seconds: int, answers_again: bool) -> None:
        serving = [model for model in self.models.values() if model.serves]
        engine = serving[which % len(serving)].engine
        engine.may_answer.clear()
        self.time_passes(seconds)
        if answers_again:
            engine.may_answer.set()

    @rule(
        name=MODEL,
        where=st.sampled_from(["pull_refusal", "refusal"]),
        error=st.sampled_from([LaunchError, RuntimeUnavailable, RuntimeError]),
    )
    def refuses(self, name: str, where: str, error: type[Exception]) -> None:
        setattr(self.models[name].runtime, where, error("no"))
        self.models[name].faulty = self.models[name].run

    @rule(name=MODEL)
    def refuses_to_stop(self, name: str) -> None:
        self.models[name].runtime.stop_refusal = StopFailed("tiny", "tgi-tiny", "it will not go")
        self.models[name].faulty = self.models[name].run

    @rule(name=MODEL, iterations=ITERATIONS)
    def removes_at_last(self, name: str, iterations: float) -> None:
        self.models[name].runtime.removes_at_last()
        self.run(iterations)

    @rule(
        name=MODEL,
        which=st.sampled_from(["may_pull", "may_run", "may_remove", "may_answer"]),
        iterations=ITERATIONS,
    )
    def opens_or_closes_a_gate(self, name: str, which: str, iterations: float) -> None:
        model = self.models[name]
        gate = getattr(model.engine if which == "may_answer" else model.runtime, which)
        gate.clear() if gate.is_set() else gate.set()
        self.run(iterations)

    @rule(name=MODEL, count=st.integers(0, 100), iterations=ITERATIONS)
    def logs(self, name: str, count: int, iterations: float) -> None:
        if (instance := self.models[name].runtime.current) is not None:
            instance.log.append(f"load {count}")
        self.run(iterations)

    @rule(seconds=st.sampled_from([1, 3, 5, 10, 25, 31, 60, 100]))
    def time_passes(self, seconds: int) -> None:
        for model in self.models.values():
            if model.may_stall and model.state is State.STARTING:
                model.faulty = model.run
        self.run(seconds=seconds)

    @precondition(lambda self: len(self.watchers) < 3)
    @rule(resumes=st.booleans(), iterations=ITERATIONS)
    def watches(self, resumes: bool, iterations: float) -> None:
        watcher = Watcher(0, {})
        if resumes and self.watchers:
            watcher = Watcher(self.watchers[-1].revision, dict(self.watchers[-1].latest))
        watcher.task = self.loop.create_task(self.watch(watcher))
        self.watchers.append(watcher)
        self.run(iterations)

    @precondition(lambda self: len(self.closes) < 3)
    @rule(drain=st.sampled_from([0.0, 10.0, 15.0, 40.0]), iterations=ITERATIONS)
    def closes_all(self, drain: float, iterations: float) -> None:
        self.closes.append(self.loop.create_task(self.close(drain)))
        self.run(iterations)

    # The tasks of the events.

    def call(self, call: Call, iterations: float) -> None:
        call.end = self.loop.create_future()
        call.task = self.loop.create_task(
            self.answer(call), name=f"{call.kind} {call.model.spec.id}"
        )
        self.calls.append(call)
        self.run(iterations)

    async def answer(self, call: Call) -> None:
        model = call.model
        served = self.served.find(model.spec.id)
        call.asked = True
        call.since = model.run + (model.state not in STATES_IN_USE)
        try:
            await self.ask(call, served)
        except StartBackingOff as error:
            left = model.retry_at - self.loop.time()
            assert model.state is State.FAILED
            assert left > 0
            assert error.retry_after is not None
            assert abs(error.retry_after - left) < SOON
            raise
        except QueueFull:
            assert served.view().queued_count == TIMING.queue_size
            raise

    async def ask(self, call: Call, served: Served) -> None:
        model = call.model
        match call.kind:
            case "lease" | "follow":
                await self.hold(call)
            case "start":
                await served.start(call.idle)
                assert model.state is State.READY
                assert model.runtime.current not in self.dead
                self.used(model, call.idle)
            case "begin":
                served.begin()
            case "stop":
                await self.stop(call, served)

    async def hold(self, call: Call) -> None:
        model = call.model
        try:
            served = self.served.find(model.spec.id)

            async def notify(status: Status, position: int) -> None:
                assert status.state == served.status.state
                assert position <= served.view().queued_count

            follows = call.kind == "follow"
            caller, notified = (
                (f"{call.caller} follows", notify) if follows else (call.caller, None)
            )
            async with served.lease(call.idle, (caller,), notify=notified):
                assert model.state in (State.READY, State.STOPPING)
                call.instance, call.since = model.runtime.current, model.run
                assert call.instance is not None
                assert call.instance not in self.dead
                if not follows:
                    self.has_its_slot(call)
                try:
                    await call.end
                finally:
                    call.ends = True
                    if call.tidies_up:
                        await asyncio.sleep(7)
        except (ModelStopped, ShuttingDown):
            if call.instance is not None and call.since == model.stopped == model.run:
                assert self.loop.time() > model.cut_at - SOON
            raise
        finally:
            if call.instance is None:  # a wait in the queue is a use, a wait for READY is not
                self.used(model, call.idle, surely=False)
            elif call.since == model.run:
                self.used(model, call.idle)

    def has_its_slot(self, call: Call) -> None:
        """Check that no caller gets a second slot while another waits for the first."""
        call.model.waits.pop(call.caller, None)
        for caller, wait in call.model.waits.items():
            wait.slots[call.caller] += wait.goes_on
            assert wait.slots[call.caller] <= 1, f"{call.caller} overtakes {caller}"

    def used(self, model: Model, idle: float | None, surely: bool = True) -> None:
        model.perhaps_used_at = self.loop.time()
        model.used_at = model.perhaps_used_at if surely else model.used_at
        at = self.loop.time() + (model.own_idle if idle is None else idle)
        model.may_go_at = at if surely else min(model.may_go_at, at)
        model.must_go_at = at if surely else max(model.must_go_at, at)

    async def stop(self, call: Call, served: Served) -> None:
        model, instance = call.model, call.model.runtime.current
        call.since = model.run
        self.note_stop(model, call.drain)
        try:
            await served.stop(call.drain)
        except NotRunning:
            assert model.state in (State.STOPPED, State.FAILED)
            model.failures, model.retry_at, model.revives_at = 0, -math.inf, math.inf
            return
        assert instance is None or model.runtime.current is not instance

    def note_stop(self, model: Model, drain: float) -> None:
        if model.stopped != model.run:
            model.stopped, model.cut_at = model.run, math.inf
        model.cut_at = min(model.cut_at, self.loop.time() + drain)

    async def close(self, drain: float) -> None:
        for model in self.models.values():
            self.note_stop(model, drain)
        await self.served.close(drain)
        assert not any(model.runtime.current for model in self.models.values())

    async def watch(self, watcher: Watcher) -> None:
        resumed = snapshot = watcher.revision > 0
        async with aclosing(self.served.watch(watcher.revision)) as changes:
            async for change in changes:
                if change.item is None:
                    snapshot = True
                    assert not resumed
                    assert watcher.latest.keys() == self.models.keys()
                    watcher.revision = change.revision
                    continue
                if snapshot:
                    assert change.revision == watcher.revision + 1
                else:
                    assert change.revision == NO_REVISION
                watcher.revision = change.revision
                assert isinstance(change.item, View)
                watcher.latest[change.item.id] = change.item.status

    # The promises.

    @invariant()
    def promises_are_kept(self) -> None:
        self.sound = False
        self.nothing_went_wrong()
        self.models_fit()
        self.requests_wait_only_while_all_slots_are_taken()
        self.engines_that_died_or_hang_are_removed()
        self.each_lease_has_a_running_engine()
        self.each_answer_fits()
        self.watchers_see_the_present_statuses()
        self.unused_models_are_stopped()
        self.pinned_models_start_again()
        self.sound = True

    def changed(self, shown: Shown) -> None:
        """Check each change at the moment at which it comes."""
        assert isinstance(shown, View)
        model = self.models[shown.id]
        last, model.state = model.state, shown.status.state
        if last is model.state:
            return
        if model.state not in TRANSITIONS[last]:
            self.wrong.append(f"{model.spec.id}: {last} -> {model.state}")
        if model.state is State.STARTING:
            model.revives_at = math.inf
            model.run += 1
            model.spec = model.run_spec = self.served.find(shown.id).entry.spec
            model.waits.clear()
            if model.runtime.refuses or model.may_stall:
                model.faulty = model.run
            if self.loop.time() < model.retry_at:
                self.wrong.append(f"{model.spec.id}: started while it backs off")
        if model.state is State.READY:
            model.ready_at = self.loop.time()
            self.used(model, None)
            model.ready_run = model.run
            for call in self.calls:
                if call.model is model and call.asked and call.kind in ("lease", "start"):
                    call.due = call.due or model.run  # others wait for a slot of a dead engine
        if model.state is State.STOPPED:
            model.failures, model.retry_at = 0, -math.inf
        if model.state is State.FAILED:
            if last is State.READY and model.harmed != model.run:
                self.wrong.append(f"{model.spec.id}: failed with a healthy engine")
            self.backs_off(model, shown.status)
            if model.spec.pinned and model.stopped != model.run:
                model.revives_at = model.retry_at
        if model.state is State.STOPPING and model.stopped != model.run and not self.closes:
            self.wrong += [
                f"{model.spec.id}: {why}" for why in self.reasons_against_a_stop(model, last)
            ]

    def backs_off(self, model: Model, status: Status) -> None:
        was_ready = model.ready_run == model.run
        if was_ready and model.runtime.left_at - model.ready_at > TIMING.healthy_spell:
            model.failures = 0
        wait = min(TIMING.back_off * 2**model.failures, TIMING.back_off_longest)
        model.failures += 1
        model.retry_at = self.loop.time() + wait
        assert status.retry_at is not None
        assert status.since is not None
        if abs(status.retry_at - status.since - wait) > 0.5:
            self.wrong.append(f"{model.spec.id}: reports a wrong time of the next start")

    def reasons_against_a_stop(self, model: Model, last: State) -> list[str]:
        """Return why a model should not be STOPPING without a stop by a caller."""
        why = []
        now = self.loop.time()
        users = [
            call
            for call in self.calls
            if call.model is model and model.run == (call.since if call.instance else call.due)
            if not (call.ends or call.cancelled or call.task.done())
        ]
        if last is State.STARTING:
            why.append("stopped while it starts")
        if model.spec.pinned:
            why.append("pinned, and stopped")
        if users and model.harmed != model.run:
            why.append("stopped while in use")
        waiting = any(
            m.state is State.STARTING and m.runtime.current is None
            for m in self.models.values()
            if m is not model
        )
        evicted = waiting and now > model.ready_at + TIMING.residency - SOON
        if not evicted and now < model.may_go_at - SOON:
            why.append("stopped before the end of its idle timeout")
        return why

    def nothing_went_wrong(self) -> None:
        assert not self.wrong, self.wrong
        assert not self.loop.faults, self.loop.faults
        for close in self.closes:
            assert not close.done() or close.exception() is None, repr(close.exception())

    def models_fit(self) -> None:
        there = [model for model in self.models.values() if model.runtime.running]
        assert sum(model.size for model in there) <= CAPACITY
        assert self.admission.free(MEMORY) >= 0
        assert all(len(model.runtime.running) <= 1 for model in self.models.values())

    def requests_wait_only_while_all_slots_are_taken(self) -> None:
        for name, model in self.models.items():
            calls = self.calls_of(model)
            holding = sum(call.holds and call.since == model.run for call in calls)
            assert holding <= CONCURRENCY
            if self.settled and model.serves:
                waiting = sum(call.queues for call in calls)
                assert self.served.find(name).view().queued_count == waiting <= TIMING.queue_size
                assert holding == CONCURRENCY or not waiting

    def engines_that_died_or_hang_are_removed(self) -> None:
        for name, model in self.models.items():
            if self.settled and model.state is State.READY:
                silence = self.loop.time() - model.engine.answered_at
                assert model.harmed == model.run or silence < TIMING.hang + TIMING.probe + SOON
                assert model.harmed != model.run or not model.runtime.may_remove.is_set(), name

    def each_lease_has_a_running_engine(self) -> None:
        for call in self.calls:
            model = call.model
            if not call.holds or call.ends or model.harmed >= call.since:
                continue
            assert call.instance is not None
            assert model.runtime.current is call.instance
            assert not call.instance.exit.done()
            if model.stopped < call.since and not self.closes:
                assert model.state is State.READY
            elif self.settled and model.stopped == call.since:
                assert self.loop.time() < model.cut_at - SOON

    def each_answer_fits(self) -> None:
        for call in [call for call in self.calls if call.task.done()]:
            self.calls.remove(call)
            if call.task.cancelled():
                assert call.cancelled
                continue
            match error := call.task.exception():
                case None:
                    pass
                case ModelStopped():
                    assert call.model.stopped >= call.since
                case ShuttingDown():
                    assert self.closes
                case StartFailed() | StartStalled() | RuntimeUnavailable() | StopFailed():
                    assert call.model.faulty >= call.since
                case StartBackingOff() | QueueFull():
                    pass  # `answer` has checked it
                case EngineFailed() | EngineDied():
                    assert call.instance is not None or call.model.harmed >= call.since
                case _:
                    raise error

    def watchers_see_the_present_statuses(self) -> None:
        for watcher in self.watchers:
            if watcher.task.done():
                assert isinstance(watcher.task.exception(), ShuttingDown)
                assert any(close.done() for close in self.closes)
            elif self.settled:
                for name, status in watcher.latest.items():
                    now = self.served.find(name).status
                    assert without_forecast(status) == without_forecast(now)

    def unused_models_are_stopped(self) -> None:
        for name, model in self.models.items():
            if self.settled and model.state is State.READY and not model.spec.pinned:
                in_use = any(call.holds for call in self.calls if call.model is model)
                if not in_use and model.runtime.current not in self.dead:
                    assert self.loop.time() < model.must_go_at + SOON, name

    def pinned_models_start_again(self) -> None:
        """Check that a failure of a pinned model is followed by a start, unless it was stopped."""
        if self.settled and not self.closes:
            for name, model in self.models.items():
                assert self.loop.time() < model.revives_at + SOON, name

    # The end.

    def teardown(self) -> None:
        try:
            if self.sound:
                self.everything_ends()
        finally:
            self.open_all_gates()
            for task in tuple(self.loop.tasks):
                task.cancel()
            self.loop.run(seconds=20)
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()

    def open_all_gates(self) -> None:
        for model in self.models.values():
            runtime = model.runtime
            runtime.pull_refusal = runtime.refusal = runtime.stop_refusal = None
            for gate in (
                runtime.may_pull,
                runtime.may_run,
                runtime.may_remove,
                model.engine.may_answer,
            ):
                gate.set()
            runtime.removes_at_last()

    def everything_ends(self) -> None:
        """Check that with open gates all callers are answered, and that a close leaves nothing."""
        self.open_all_gates()
        for call in self.calls:
            if not call.end.done():
                call.end.set_result(None)
        self.run(seconds=200)
        self.promises_are_kept()
        self.stops("pinned", 0, math.inf)  # others may have waited for its claim
        self.run(seconds=200)
        self.promises_are_kept()
        assert not self.calls
        self.closes_all(0, math.inf)
        self.promises_are_kept()
        assert all(close.done() for close in self.closes)
        assert all(watcher.task.done() for watcher in self.watchers)
        assert not self.loop.tasks
        assert self.admission.free(MEMORY) == CAPACITY
        assert not any(model.runtime.current for model in self.models.values())
        assert {model.state for model in self.models.values()} <= {State.STOPPED, State.FAILED}


TestLifecycle = LifecycleMachine.TestCase
TestLifecycle.settings = settings(
    max_examples=500,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
