"""The life of one model, and the only place where its state is written.

Callers do not act on the state: they ask for a lease, a start or a stop, and get a fact. A life is
one coroutine, told straight: pull, run, wait until healthy, serve until dead or unwanted. Leaving
the runtime's `run` is the only clean-up path; stop, crash and cancellation share it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from inference_service.capacity.admission import Admission
from inference_service.capacity.claims import Claim, GpuNeed, GpuShare
from inference_service.catalog import ModelSpec
from inference_service.engines.base import Chunk, Engine, Prompt
from inference_service.errors import (
    DeadlineTooShort,
    EngineDied,
    EngineExited,
    EngineHung,
    LaunchError,
    ModelRemoved,
    ModelStopped,
    NotRunning,
    ServiceError,
    ShuttingDown,
    StartBackingOff,
    StartFailed,
    StartFault,
    StartStalled,
    StopFailed,
)
from inference_service.lifecycle import Phase, Progress, State, Status
from inference_service.runtimes.base import Exit, Instance, Runtime
from inference_service.serving.run import Life, race
from inference_service.serving.slots import Turns
from inference_service.serving.start_times import Forecast, StartTimes

log = logging.getLogger(__name__)

_LOG_LINES = 20  # what an error carries of an engine's log

Entry = tuple[ModelSpec, Runtime, Engine]  # of the catalog, with where and by what it runs

# Told a caller who waits: the model's status, and the place in its engine's queue (1 is next, 0 is
# before that).
Tell = Callable[[Status, int], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Timing:
    """The times that rule a life, in seconds, and the length of the queue before it."""

    queue_size: int = 1024

    stall: float = 600.0  # a start in which nothing moves for so long is given up
    drain: float = 30.0  # what a stop gives to requests that run
    idle: float = math.inf  # unused for so long, and the model is stopped
    residency: float = 0.0  # READY for so long before it makes room for another
    poll: float = 0.01  # between two looks at an engine that does not answer yet, at first
    poll_longest: float = 1.0
    back_off: float = 1.0  # after the first failure, doubled at each
    back_off_longest: float = 60.0
    probe: float = 15.0  # between two looks at an engine that is READY
    hang: float = 120.0  # without an answer for so long, it is replaced
    heartbeat: float = 10.0  # between two reports of a start in which nothing changes
    healthy_spell: float = 60.0  # READY for so long, and earlier failures are forgotten


class Lease:
    """The right to use a model: while it is held, the model is not stopped but by force."""

    def __init__(self, supervisor: Supervisor, instance: Instance) -> None:
        self.spec = supervisor.spec
        self._engine = supervisor.engine
        self._url = instance.url

    def generate(self, prompt: Prompt, *, whole: bool = False) -> AsyncGenerator[Chunk]:
        """See `Engine.generate`."""
        return self._engine.generate(self._url, self.spec, prompt, whole=whole)


class Supervisor:
    """Starts, watches and stops one model on behalf of any number of callers."""

    def __init__(
        self,
        spec: ModelSpec,
        runtime: Runtime,
        engine: Engine,
        timing: Timing,
        admission: Admission,
        changed: Callable[[Supervisor], None] = lambda _: None,
        start_times: StartTimes | None = None,
    ) -> None:
        self._timing = timing
        self._take_entry(spec, runtime, engine)
        self.status = Status()
        self._admission = admission
        self._start_times = start_times or StartTimes()
        self._forecast = Forecast({}, 0.0)
        self._on_change = changed
        self._changed = asyncio.Event()
        self._life: Life | None = None
        self._instance: Instance | None = None  # the last one; its log outlives it
        self._task: asyncio.Task[None] | None = None
        self._failures = 0
        self._retry_at = 0.0
        self._closed = False
        self._withdrawn = False
        self._next: Entry | None = None  # what it is to be when its life is over

    def _take_entry(self, spec: ModelSpec, runtime: Runtime, engine: Engine) -> None:
        self.spec = spec
        self.runtime = runtime
        self.engine = engine
        self.launch = engine.launch(spec)
        self._key = f"{runtime.name} {self.launch.image} {spec.id}"

    @property
    def lease_count(self) -> int:
        """The leases that are out."""
        return len(self._life.leases) if self._life else 0

    @property
    def queued_count(self) -> int:
        """The leases that wait for a turn."""
        return self._life.turns.queued if self._life else 0

    @property
    def _idle_timeout(self) -> float:
        if self.spec.pinned:
            return math.inf
        own = self.spec.idle_timeout
        return self._timing.idle if own is None else own

    @property
    def idle_in(self) -> float | None:
        """Seconds until it is stopped, if nobody uses it before; None where that is never."""
        if self._life is None or self.status.state is not State.READY:
            return None
        wait = self._life.idle_at() - self._life.clock()
        return max(0.0, wait) if math.isfinite(wait) else None

    @property
    def usual_start(self) -> float | None:
        """The seconds that a start takes, as past ones did; None when there were none."""
        return Forecast(self._start_times.past(self._key), 0.0).usual

    def now(self) -> Status:
        """Its status, with what is left of a start now, and not when it last told of itself."""
        if self.status.state is not State.STARTING:
            return self.status
        return self._forecasted(self.status)

    # What admission asks: it is a tenant of the machine's memory.

    @property
    def model_id(self) -> str:
        """Its id."""
        return self.spec.id

    @property
    def memory_bytes(self) -> int:
        """What it may use, at most."""
        return self.launch.memory_bytes

    @property
    def gpu_need(self) -> GpuNeed | None:
        """What it needs of the GPUs; None where it gets none."""
        return self.launch.gpu_need if self.runtime.gives_gpus(self.launch) else None

    @property
    def gpu_claim(self) -> Claim:
        """What it holds of GPUs now, by their ids."""
        return self._admission.gpu_claim(self.model_id)

    @property
    def settled(self) -> bool:
        """Whether its start is over."""
        return self.status.state is not State.STARTING

    @property
    def evictable(self) -> bool:
        """Whether it may make room for another now."""
        life = self._life
        if life is None or self.status.state is not State.READY or self.spec.pinned:
            return False
        return not life.in_use and life.clock() - life.ready_at >= self._timing.residency

    @property
    def used_at(self) -> float:
        """The end of its last use, on the clock of the loop."""
        return self._life.used_at if self._life else 0.0

    @property
    def lingers(self) -> bool:
        """Whether the container of its last life could not be removed yet."""
        return self.runtime.lingers(self.launch)

    async def evict(self) -> bool:
        """Stop it if it may make room; return when it is gone."""
        if not self.evictable or self._life is None:
            return False
        log.info("%s: makes room", self.spec.id)
        life = self._life
        self._end(life, 0)
        await asyncio.wait([life.gone])
        return True

    # What callers ask.

    @asynccontextmanager
    async def lease(
        self,
        idle_timeout: float | None = None,
        caller: str = "",
        deadline: float = math.inf,
        tell: Tell | None = None,
    ) -> AsyncGenerator[Lease]:
        """Hold the model in READY, starting it first if need be, and one of its engine's turns.

        `idle_timeout` is how long the model then stays unused, until the next lease ends; None is
        its own. `caller` tells whose turn it is: turns go round between callers. `deadline` is when
        the caller gives up, on the loop's clock. `tell` is awaited at first, at each change, and
        every `heartbeat` until the lease is held. A stop that cannot wait any longer ends the block
        with ModelStopped.
        """
        life, instance = await self._ready(deadline, tell)
        cutter = asyncio.timeout(None)
        life.leases.add(cutter)
        life.idle.clear()
        try:
            async with cutter:
                await life.turns.take(caller, deadline, tell and partial(self._tell_place, tell))
                try:
                    if life.dying or life.gone.done():
                        end = "ended before this request had its turn; retry"
                        raise EngineDied(self.spec.id, end, {}, "", self._back_off, ())
                    yield Lease(self, instance)
                finally:
                    life.turns.give()
        except TimeoutError:
            if not cutter.expired():
                raise
            raise self._stopped() from None
        except ServiceError as error:
            error.metadata.setdefault("model_id", self.spec.id)
            raise
        finally:
            life.leases.discard(cutter)
            self._used(life, idle_timeout)
            if not life.leases:
                life.idle.set()
                self._released(life)

    async def start(self, idle_timeout: float | None = None) -> None:
        """Return when the model is READY. Raises what a lease would, and counts as a use."""
        life, _ = await self._ready()
        self._used(life, idle_timeout)

    def begin(self, adopts: bool = False) -> None:
        """Start the model unless it runs, and return at once. Raises what is known already.

        `adopts` says that its engine runs already: such a start tells nothing of the next one.
        """
        if self._life is None:
            self._begin().adopts = adopts

    async def recovered(self) -> None:
        """Return when it is known what has become of an engine that broke off a request.

        That is when it answers again, or when another may be started in its place. Raises
        ModelStopped when somebody stops it.
        """
        pauses = self._pauses()
        while (life := self._life) is not None and self._instance is not None:
            if life.unwanted.is_set():
                raise self._stopped()
            if self.status.state is State.STARTING:
                return
            if not life.dying and await self.engine.ready(self._instance.url):
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(next(pauses)):  # its death is told by the runtime
                    await asyncio.shield(life.gone)
        await asyncio.sleep(max(0.0, self._retry_at - _now()))

    async def stop(self, drain: float | None = None) -> None:
        """Drain and end the model; return when nothing is left of it.

        Raises NotRunning, or StopFailed when something could not be removed.
        """
        life = self._life
        if life is None:
            raise NotRunning(self.spec.id)
        life.replaced = False
        self._end(life, self._timing.drain if drain is None else drain)
        await asyncio.shield(life.gone)

    async def logs(self, last: int, follow: bool) -> AsyncGenerator[str]:
        """Yield the last lines of the engine that runs, or ran last; then new ones, if asked.

        Raises NotRunning when the model has never been started.
        """
        if self._instance is None:
            raise NotRunning(self.spec.id)
        if not follow:
            for line in self._instance.tail(last):
                yield line
            return
        async with aclosing(self._instance.logs(last)) as lines:
            async for line in lines:
                yield line

    # What the catalog's reload asks.

    @property
    def gone(self) -> bool:
        """Whether it was withdrawn, and nothing of it is left."""
        return self._withdrawn and self._life is None

    def change(self, spec: ModelSpec, runtime: Runtime, engine: Engine) -> bool:
        """Take another entry of the catalog; tell whether that restarts the model.

        Where the same engine would run in the same way, the entry is in force at once. Where not, a
        model that runs is drained, and started again with the new entry.
        """
        life, launch = self._life, engine.launch(spec)
        self._withdrawn = False
        same = (runtime, engine, launch) == (self.runtime, self.engine, self.launch)
        if life is not None and (life.unwanted.is_set() or not same):
            self._next = (spec, runtime, engine)
            if not life.unwanted.is_set():  # else its drain is somebody else's wish
                life.replaced = True
                self._end(life, self._timing.drain)
            return life.replaced
        if same:
            self.spec = spec
        else:
            self._take_entry(spec, runtime, engine)
        if life is not None:
            life.idle_timeout = self._idle_timeout
            life.rearm.set()
        self._show(self.status)
        return False

    def withdraw(self) -> None:
        """Refuse callers, since the catalog has it no more; drain and stop it."""
        self._withdrawn = True
        if self._life is not None:
            self._life.replaced = False
            self._end(self._life, self._timing.drain)
        else:
            self._show(self.status)

    async def close(self, drain: float) -> None:
        """Refuse callers from now on, and stop. Never raises."""
        self._closed = True
        if self._life is not None:
            self._end(self._life, drain)
        if self._task is not None:
            await asyncio.wait([self._task])

    # Getting to READY.

    async def _ready(
        self, deadline: float = math.inf, tell: Tell | None = None
    ) -> tuple[Life, Instance]:
        """A life that is READY at the moment of return: no await may follow in the caller."""
        while True:
            self._refuse()
            life = self._life or self._begin()
            if not (life.unwanted.is_set() or life.dying):
                self._in_time(life, deadline)
                life.waiters += 1  # so that it is not idle before they have their lease
                try:
                    await self._until(life.ready, tell)
                finally:
                    life.waiters -= 1
                    self._released(life)
                if not life.replaced:
                    instance = life.ready.result()
                    if not (life.unwanted.is_set() or life.dying or life.gone.done()):
                        return life, instance
            await self._until(life.gone, tell)

    async def _until(self, future: asyncio.Future[Any], tell: Tell | None) -> None:
        """Return when it is done, and tell the status until then."""
        while not future.done():
            if tell is None:
                await asyncio.wait([future])
                return
            changed = self._changed  # set when the future is
            await tell(self.now(), 0)
            with contextlib.suppress(TimeoutError):  # silence makes proxies hang up
                async with asyncio.timeout(self._timing.heartbeat):
                    await changed.wait()

    async def _tell_place(self, tell: Tell, place: int) -> None:
        await tell(self.status, place)

    def _in_time(self, life: Life, deadline: float) -> None:
        """Raise DeadlineTooShort if this start will take too long; it goes on all the same."""
        if math.isinf(deadline) or life.ready.done():
            return
        wait, left = self._forecast.at_best(_now()), deadline - _now()
        if wait is not None and wait > left:
            raise DeadlineTooShort(self.spec.id, left, wait, "it is starting")

    def _refuse(self) -> None:
        if self._closed:
            raise ShuttingDown()
        if self._withdrawn:
            raise ModelRemoved(self.spec.id)

    def _begin(self) -> Life:
        self._refuse()
        if (wait := self._retry_at - _now()) > 0 and self.status.failure:
            raise StartBackingOff(self.spec.id, wait, self.status.failure)
        self._admission.plan(self)  # raises for what can never fit
        turns = Turns(self.spec.id, self.launch.concurrency, self._timing.queue_size)
        self._life = Life(self._idle_timeout, turns)
        self._forecast = Forecast(self._start_times.past(self._key), _now())
        self._enter(State.STARTING)
        self._task = asyncio.create_task(self._live(self._life), name=f"life of {self.spec.id}")
        return self._life

    def _end(self, life: Life, drain: float) -> None:
        """Make a life unwanted. A second call can only shorten the drain."""
        cut_at = life.clock() + drain
        if not life.unwanted.is_set():
            life.cut_at = cut_at
            life.unwanted.set()
            life.rearm.set()
        elif cut_at < life.cut_at:
            life.cut_at = cut_at
            self._cut(life)

    def _released(self, life: Life) -> None:
        """Somebody may have been the last to use it."""
        if not life.in_use:
            self._admission.changed()
            if life.parked:
                life.rearm.set()

    def _used(self, life: Life, idle_timeout: float | None) -> None:
        """Note the end of a use, from which idle time counts."""
        life.used_at = life.clock()
        if idle_timeout is None or self.spec.pinned:
            idle_timeout = self._idle_timeout
        if idle_timeout != life.idle_timeout:
            life.idle_timeout = idle_timeout
            life.rearm.set()

    # The life: one task, the only writer of the state.

    async def _live(self, life: Life) -> None:
        failure: ServiceError | None = None
        try:
            await race(self._admitted(life), self._unwanted(life))
        except ServiceError as error:
            failure = error
        except Exception as error:
            log.exception("%s: fault in its life", self.spec.id)
            failure = StartFault(self.spec.id, error)
        if life.unwanted.is_set() and not isinstance(failure, StopFailed):
            failure = None  # whatever broke on the way out, it is gone as was asked
            if self.status.state is not State.STOPPING:  # it broke before it could be stopped
                self._enter(State.STOPPING)
        self._life = None
        if self._next is not None:
            self._take_entry(*self._next)
            self._next = None
        self._settle(failure)
        if not life.ready.done():
            life.ready.set_exception(failure or self._stopped())
        if isinstance(failure, StopFailed):
            life.gone.set_exception(failure)
        else:
            life.gone.set_result(None)
        if life.replaced:
            self._start_again()

    def _start_again(self) -> None:
        try:
            self.begin()
        except ServiceError as error:
            log.error("%s is not started again: %s", self.spec.id, error.message)

    async def _admitted(self, life: Life) -> None:
        async with self._admission.room(self, self._waits) as gpus:
            await self._serve(life, gpus)

    def _waits(self, place: int, message: str) -> None:
        progress = Progress(Phase.WAITING, message=message, place=place)
        if progress != self.status.progress and self.status.state is State.STARTING:
            self._show(replace(self.status, progress=progress))

    async def _serve(self, life: Life, gpus: GpuShare | None) -> None:
        try:
            async with asyncio.timeout(self._timing.stall) as stall:
                moved = self._mover(stall)
                async with aclosing(self.runtime.pull(self.launch)) as pull:
                    async for progress in pull:
                        moved(progress)
                moved(Progress(Phase.CREATING_CONTAINER))
        except TimeoutError:
            raise StartStalled(self.spec.id, self._phase(), self._timing.stall) from None
        except LaunchError as error:
            raise StartFailed(self.spec.id, self._phase(), str(error)) from None
        await self._run(life, gpus)

    async def _run(self, life: Life, gpus: GpuShare | None) -> None:
        try:
            async with self.runtime.run(self.launch, gpus) as instance:
                self._instance = instance
                await self._until_healthy(instance)
                if not life.unwanted.is_set():
                    self._forecast.saw(None, _now())
                    if not life.adopts:
                        self._start_times.record(self._key, self._forecast.phases)
                    self._enter(State.READY, container=instance.name, port=instance.port)
                    life.ready.set_result(instance)
                    life.ready_at = life.used_at = life.clock()
                    life.rearm.set()
                ready_at = _now()
                try:
                    await race(self._dies(instance), self._hangs(instance))
                except EngineDied as error:
                    life.turns.close(error)
                    raise
                finally:
                    life.dying = True
                    if _now() - ready_at > self._timing.healthy_spell:
                        self._failures = 0
        except LaunchError as error:
            raise StartFailed(self.spec.id, self._phase(), str(error)) from None

    async def _until_healthy(self, instance: Instance) -> None:
        try:
            async with asyncio.timeout(self._timing.stall) as stall:
                moved = self._mover(stall)
                await race(
                    self._answers(instance), self._read_log(instance, moved), self._dies(instance)
                )
        except TimeoutError:
            log = instance.tail(_LOG_LINES)
            phase = self._phase()
            raise StartStalled(self.spec.id, phase, self._timing.stall, log) from None

    async def _answers(self, instance: Instance) -> None:
        for pause in self._pauses():
            if await self.engine.ready(instance.url):
                return
            await asyncio.sleep(pause)

    def _pauses(self) -> Iterator[float]:
        """A tenth of the time so far, about: of a short start no large part is lost by it."""
        pause = self._timing.poll
        while True:
            yield pause
            pause = min(pause * 1.1, self._timing.poll_longest)

    async def _read_log(self, instance: Instance, moved: Callable[[Progress], None]) -> None:
        await self.engine.follow(self.launch, instance, moved)
        await asyncio.Event().wait()  # the end of the log is not the end of the race

    async def _hangs(self, instance: Instance) -> None:
        """Raise when an engine that runs has answered nothing for too long.

        The limit is generous: engines are deaf while they read a long prompt.
        """
        answered = _now()
        while (silence := _now() - answered) < self._timing.hang:
            await asyncio.sleep(self._timing.probe)
            if await self.engine.ready(instance.url):
                answered = _now()
        log = instance.tail(_LOG_LINES)
        raise EngineHung(self.spec.id, silence, self._back_off, log)

    async def _dies(self, instance: Instance) -> None:
        raise self._died(instance, await instance.wait())

    async def _unwanted(self, life: Life) -> None:
        """Return when the model may be removed: it is unwanted or idle, and drained or cut."""
        while not life.unwanted.is_set():
            life.rearm.clear()
            life.parked = life.in_use
            try:
                async with asyncio.timeout_at(life.idle_at()):
                    await life.rearm.wait()
            except TimeoutError:
                # Looked at again, for a use does not move the timer: that would cost each request.
                if life.idle_at() <= life.clock():
                    log.info("%s: idle", self.spec.id)
                    self._end(life, 0)
        self._enter(State.STOPPING)
        if not life.ready.done():
            life.ready.set_exception(self._stopped())
        self._cut(life)
        await life.idle.wait()

    def _cut(self, life: Life) -> None:
        """End the leases that are still out when the drain is over."""
        for lease in life.leases:
            if not lease.expired():  # else it is cut already, and tidies up
                lease.reschedule(life.cut_at)

    # The state.

    def _enter(self, state: State, **facts: Any) -> None:
        status = self.status.enter(state, time.time())
        log.info("%s: %s", self.spec.id, state)
        self._show(replace(status, **facts) if facts else status)

    def _settle(self, failure: ServiceError | None) -> None:
        """End the life in STOPPED or FAILED."""
        if failure is None:
            self._failures = 0
            self._enter(State.STOPPED)
            return
        wait = self._back_off
        self._failures += 1
        self._retry_at = _now() + wait
        log.error("%s: %s", self.spec.id, failure.message)
        self._enter(State.FAILED, failure=failure, retry_at=time.time() + wait)

    @property
    def _back_off(self) -> float:
        return min(self._timing.back_off * 2.0**self._failures, self._timing.back_off_longest)

    def _mover(self, stall: asyncio.Timeout) -> Callable[[Progress], None]:
        """What shows progress, and puts off the moment at which the start counts as stalled."""

        def moved(progress: Progress) -> None:
            if self.status.state is not State.STARTING:
                return
            progress = progress.after(self.status.progress)
            if progress != self.status.progress:
                stall.reschedule(_now() + self._timing.stall)
                self._show(replace(self.status, progress=progress))

        return moved

    def _forecasted(self, status: Status) -> Status:
        now = _now()
        fraction, remaining = self._forecast.fraction(now), self._forecast.remaining(now)
        return replace(status, fraction=fraction, remaining=remaining)

    def _show(self, status: Status) -> None:
        if status.state is State.STARTING:
            self._forecast.saw(status.progress, _now())
            status = self._forecasted(status)
        self.status = status
        self._changed.set()
        self._changed = asyncio.Event()
        self._admission.changed()
        self._on_change(self)

    def _phase(self) -> str:
        return str(self.status.progress.phase if self.status.progress else Phase.WAITING)

    def _stopped(self) -> ServiceError:
        return ShuttingDown() if self._closed else ModelStopped(self.spec.id)

    def _died(self, instance: Instance, exit: Exit) -> ServiceError:
        log = instance.tail(_LOG_LINES)
        cause = self.engine.cause(log)
        if self.status.state is State.STARTING:
            return EngineExited(self.spec.id, self._phase(), str(exit), exit.facts, cause, log)
        return EngineDied(self.spec.id, str(exit), exit.facts, cause, self._back_off, log)


def _now() -> float:
    return asyncio.get_running_loop().time()
