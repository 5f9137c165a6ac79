"""The claim of a service on its name, held in the daemon: taken, renewed, lost and let go.

A second service of the name would adopt or remove the engines of the first. A record in the daemon
keeps it from that, wherever it runs; the kernel's socket of `identity.alone` is the first look. A
record that is not renewed for 15 s is void. Clocks of two machines are never compared: who finds a
record watches whether it changes, unless it is known at once that its owner has ended.

A thread of its own makes all calls, so that a daemon that hangs holds nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from concurrent.futures import Future
from contextlib import ExitStack

from docker import DockerClient
from docker.errors import APIError, NotFound

from inference_service.errors import RuntimeUnavailable
from inference_service.runtimes import identity
from inference_service.runtimes.docker.calls import UNAVAILABLE, explanation, unavailable
from inference_service.runtimes.docker.owner import Owner
from inference_service.runtimes.docker.record import Found, NotOurs, Record
from inference_service.runtimes.identity import NameTaken

log = logging.getLogger(__name__)

RENEWAL = 5.0  # seconds between two renewals
VOID = 15.0  # seconds after which a record that was not renewed is void
_LOOK = 1.0  # seconds between two looks at the record of another
_TRIES = 5  # to make a record that others make and remove meanwhile
_BETWEEN = 0.5  # seconds between two of them
_TAKING = VOID + 15  # seconds in which a claim is taken, or never
_ANSWER = 5.0  # seconds for the question whether the claim is held still
_HURRIED = 1.0  # seconds for it when the service ends
_LETTING_GO = 3.0  # seconds for the last call


class Claim:
    """The claim of one service on its name.

    The daemon `daemon_id` is that of `client`. A claim that was never taken protects nothing, and
    counts as held. `renewal` and `void` are in seconds.
    """

    def __init__(
        self,
        client: DockerClient,
        service: str,
        daemon_id: str,
        renewal: float = RENEWAL,
        void: float = VOID,
    ) -> None:
        self._record = Record(client, service)
        self._client = client
        self._service = service
        self._daemon_id = daemon_id
        self._renewal, self._void = renewal, void
        self._held = ExitStack()  # the kernel's socket
        self._owner = Owner("")
        self._id = ""  # of the container of the record, while that is ours
        self._number = 0  # of the last renewal
        self._refusal: NameTaken | None = None  # since another service has the name
        self._known = 0.0  # when the daemon last said whose the name is
        self._answer = _ANSWER
        self._complaint = ""  # the last one of the log, which has each once
        self._ended, self._due = threading.Event(), threading.Event()
        self._asked: list[Future[None]] = []  # by `refusal`, until the next renewal
        self._guard: threading.Thread | None = None
        self._thread: threading.Thread | None = None

    # For the loop.

    async def take(self) -> None:
        """Take the claim, and hold it until `let_go`.

        Where a record cannot be made, the claim is held on this machine alone, with a warning.
        Raises NameTaken when another service has the name, or RuntimeUnavailable.
        """
        taken = _question()
        self._thread = threading.Thread(
            target=self._run, args=[taken], name="docker-claim", daemon=True
        )
        self._thread.start()
        try:
            await asyncio.wait_for(asyncio.wrap_future(taken), _TAKING)
        except TimeoutError:
            raise RuntimeUnavailable(f"no answer within {_TAKING:g} s") from None
        except UNAVAILABLE as error:
            raise unavailable(error) from None
        finally:
            if not taken.done() or taken.exception():
                self._end()

    async def refusal(self) -> NameTaken | None:
        """Return why no engine may be started or removed now; None while the claim is held.

        The daemon is asked where it was not for a while, as after a sleep of the machine.
        """
        if self._thread is None:
            return None
        if _uptime() - self._known > 2 * self._renewal:
            asked = _question()
            self._asked.append(asked)
            self._due.set()
            await asyncio.wait([asyncio.wrap_future(asked)], timeout=self._answer)
        return self._refusal

    def hurry(self) -> None:
        """Have less patience with the daemon from now on."""
        self._answer = _HURRIED

    async def let_go(self) -> None:
        """Let the claim go: remove the record, unless the daemon takes too long."""
        if self._thread is None:
            return
        self._end()
        await asyncio.to_thread(self._thread.join, _LETTING_GO)

    def _end(self) -> None:
        self._ended.set()
        self._due.set()

    # For the thread.

    def _run(self, taken: Future[None]) -> None:
        with self._held:
            try:
                self._begin()
            except BaseException as error:
                taken.set_exception(error)
            else:
                taken.set_result(None)
                while not self._ended.is_set():
                    self._due.wait(self._renewal)
                    self._due.clear()
                    self._renew()
            self._remove()

    def _begin(self) -> None:
        try:
            alone = identity.alone(self._service, self._daemon_id)
            held = self._held.enter_context(alone)
        except NameTaken:
            with contextlib.suppress(NotOurs, APIError):
                if (found := self._record.find()) is not None:
                    raise self._taken(found.owner) from None
            raise
        self._owner = Owner.this(self._client, held)
        self._take()

    def _renew(self) -> None:
        """Renew the claim, or take it again where its record is gone."""
        if self._ended.is_set():
            return
        asked, self._asked = self._asked, []
        try:
            self._write()
        except NameTaken as error:
            self._complain(
                f"{error}. Until it ends, this service starts and removes no container; engines "
                "that run are left to the other one"
            )
        except APIError as error:
            self._complain(f"the claim on the name is not renewed: {explanation(error)}")
        except UNAVAILABLE as error:
            log.debug("the claim on %s is not renewed: %s", self._service, error)
        except Exception:  # a fault of this service must not end the renewals
            log.exception("fault in the claim on %s", self._service)
        for question in asked:
            question.set_result(None)

    def _write(self) -> None:
        if self._id:
            try:
                self._number += 1
                self._record.renew(self._id, self._number)
                self._note()
                return
            except NotFound:
                self._id = ""
            except APIError as error:
                if error.status_code != 409:  # a removal is under way
                    raise
                return
        self._take()

    def _take(self) -> None:
        """Make the record, in the place of one that is void. Raises NameTaken."""
        replaced = False
        for attempt in range(_TRIES):
            if attempt > 0:
                self._ended.wait(_BETWEEN)
            try:
                found = self._made()
            except (NotOurs, APIError) as error:
                if replaced:  # the other owner would think the same
                    raise RuntimeUnavailable(_cause(error)) from None
                self._known = _uptime()
                self._complain(
                    f"the claim on the name {self._service} is held on this machine alone, because "
                    f"the daemon keeps no record of it: {_cause(error)}"
                )
                return
            if found is None:
                self._note()
                return
            if found.owner.id != self._owner.id:
                self._await_void(found)
                replaced = True
            self._record.remove(found.id)
        raise NameTaken(f"several services named {self._service} start at once; {identity.ADVICE}")

    def _made(self) -> Found | None:
        """Make the record; return the one that there is instead."""
        for _ in range(_TRIES):
            made = self._record.make(self._owner)
            if made is not None:
                self._id, self._number = made, 0
                return None
            if (found := self._record.find()) is not None:
                return found
            self._ended.wait(_BETWEEN)  # it is being made, or removed
        raise NotOurs(f"the daemon holds the name {self._record.name} for no container")

    def _await_void(self, found: Found) -> None:
        """Return when a record is void. Raises NameTaken where its owner runs.

        What counts is the time in which the daemon answers: no owner renews while it does not.
        """
        refusal = self._taken(found.owner)
        pause, rested, looked_at = min(_LOOK, self._void / 10), 0.0, time.monotonic()
        while rested < self._void:
            alive = found.owner.alive(self._owner, self._client)
            if alive is False:
                return
            if self._refusal is None and alive is None:
                awaited = f"waits up to {self._void:g} s for a sign of it"
                log.warning("the name %s is claimed %s: %s", self._service, found.owner, awaited)
            self._refusal, self._known = refusal, _uptime()
            if alive or self._ended.wait(pause):
                raise refusal
            again = self._record.find()
            if again is None or again.id != found.id:  # its owner has let go
                return
            if again.renewal != found.renewal:
                raise refusal
            self._known = _uptime()
            before, looked_at = looked_at, time.monotonic()
            rested += min(looked_at - before, 2 * pause)

    def _note(self) -> None:
        """Note that the record is ours now, and have its removal noticed at once."""
        if self._refusal is not None or self._complaint:
            log.warning("the name %s is held by this service", self._service)
        self._known, self._refusal, self._complaint = _uptime(), None, ""
        if self._guard is None or not self._guard.is_alive():
            self._guard = threading.Thread(
                target=self._watch, args=[self._id], name="docker-claim-removal", daemon=True
            )
            self._guard.start()

    def _watch(self, id: str) -> None:
        """Make a renewal due when the record is removed, as by `docker container prune`."""
        try:
            self._record.wait_for_removal(id)
        except UNAVAILABLE:
            return  # the next renewal begins another watch
        self._due.set()

    def _complain(self, complaint: str) -> None:
        if complaint != self._complaint and not self._ended.is_set():
            log.error("%s", complaint)
        self._complaint = complaint

    def _remove(self) -> None:
        try:
            if self._id:
                self._record.remove(self._id)
                self._record.remove_image()
        except UNAVAILABLE as error:
            log.debug("the record of the claim on %s is left: %s", self._service, error)

    def _taken(self, owner: Owner) -> NameTaken:
        return NameTaken(
            f"a service named {self._service} uses this Docker daemon already, {owner}; "
            f"{identity.ADVICE}"
        )


def _question() -> Future[None]:
    """Return a future that a thread can answer even when nobody waits for it any more."""
    future: Future[None] = Future()
    future.set_running_or_notify_cancel()
    return future


def _cause(error: Exception) -> str:
    return explanation(error) if isinstance(error, APIError) else str(error)


def _uptime() -> float:
    """Return the seconds since some moment, with those in which the machine slept."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()
