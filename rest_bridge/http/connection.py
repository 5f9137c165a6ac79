"""One connection: its bytes, and how it ends."""

from __future__ import annotations

import asyncio

from rest_bridge.http import sign_of_life
from rest_bridge.http.answer import date
from rest_bridge.http.deadlines import Deadlines
from rest_bridge.http.exchange import Exchange
from rest_bridge.http.intake import Intake
from rest_bridge.http.outlet import Outlet
from rest_bridge.http.pipeline import Pipeline
from rest_bridge.http.refusal import Refusal
from rest_bridge.http.shared import Shared


class Connection(asyncio.BufferedProtocol):
    """The protocol of one client.

    When nothing more is read as a request, the intake is deaf: it drops what comes, until the
    client has closed or the time is over. To close at once would reset the connection, which
    takes the answer from a client that still sends (RFC 9112, 9.6).
    """

    def __init__(self, shared: Shared, welcome: bool = True) -> None:
        """Begin; a client that is not `welcome` is one too many."""
        self._shared = shared
        self._welcome = welcome
        self._limits = shared.limits
        self._deadlines = Deadlines(shared.loop, shared.limits, self._late, self._stuck)
        self._outlet = Outlet(self._deadlines)
        self._pipeline = Pipeline(self, self._outlet, shared)
        self._intake = Intake(self._pipeline, self._outlet, shared, self.refuse, self._settle)
        self._refusal: Refusal | None = None  # follows the answers to what came before it
        self._made = self._eof = False
        shared.open.add(self)

    # The transport calls these.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for a head, or refuse one client too many."""
        assert isinstance(transport, asyncio.Transport)
        self._made = True
        self._outlet.open(transport)
        self._deadlines.expect_head()
        if self._shared.ending:  # accepted at the end: its request can be on the way
            self._deadlines.expect_end(hurry=True)
        elif self._welcome:
            self._shared.idle[self] = None
        else:
            self.refuse(Refusal(503, "the server has as many connections as it can; try again"))

    def connection_lost(self, error: Exception | None) -> None:
        """Report to all handlers that the client has left."""
        self._outlet.gone = True
        self._shared.remove(self)
        self._deadlines.cancel()
        for exchange in self._pipeline.clear():
            exchange.leave()
        self._intake.release()
        del self._pipeline  # a cycle would wait for the collector

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the buffer of all connections."""
        return self._shared.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take what was read."""
        if not self._intake.deaf:
            self._shared.idle.pop(self, None)
            self._intake.feed(self._shared.buffer[:nbytes])
            self._settle()
        elif self._refusal is None:
            self._deadlines.expect_end(self._shared.ending)

    def eof_received(self) -> bool:
        """Close, unless there is a whole request to answer."""
        self._eof = True
        if self._pipeline.empty or self._pipeline.reading is not None:
            return False
        if self._pipeline.now is not None:
            sign_of_life.ask(self._outlet.transport, self._pipeline.now)
        return True

    def pause_writing(self) -> None:
        """Note that the client is slow."""
        self._outlet.slow = True
        self._outlet.watch()

    def resume_writing(self) -> None:
        """Let the handler write on."""
        self._outlet.slow = False
        self._deadlines.expect_no_reading()
        # A transport of asyncio that is closed within this call reports its end twice.
        self._shared.loop.call_soon(self._drained)

    # The pipeline calls these.

    def read_on(self) -> None:
        """Read more, if this was paused."""
        if self._intake.read_on():
            self._deadlines.restart()  # the client need not make up for the time
        self._settle()

    def stepped(self) -> None:
        """Read what can be read, now that a request less waits."""
        if self._outlet.gone or (self._intake.deaf and self._refusal is None):
            return
        if self._intake.waits:
            self._intake.go_on()
        elif not self._pipeline.empty:
            return
        elif self._refusal is not None:
            self._send(self._refusal)
        elif self._eof or self._pipeline.last or self._shared.ending:
            self.finish()
        else:
            self.read_on()

    def finish(self) -> None:
        """End, for the last answer is out."""
        self._intake.end()
        self._shared.bodies.forget(self)
        pipeline = self._pipeline
        sends = pipeline.reading is not None or pipeline.behind or self._intake.paused
        pipeline.last = True
        pipeline.clear()
        if sends:
            self._linger()
        else:
            self._outlet.close()

    def refuse(self, refusal: Refusal) -> None:
        """Refuse what is read, behind the answers to what was read before."""
        if self._outlet.gone or self._intake.deaf:
            return
        self._shared.log.refused(self._outlet.name, refusal.status, refusal.detail)
        self._shared.bodies.forget(self)
        self._shared.idle.pop(self, None)
        self._intake.end()
        reading = self._pipeline.reading
        if reading is not None:
            sent = reading.sent
            reading.leave()
            if sent:
                self.cut("the request broke off within its answer")
                return
            self._pipeline.remove(reading)
        if self._pipeline.empty:
            self._send(refusal)
        else:
            self._refusal = refusal
            self._deadlines.expect_nothing()

    def cut(self, why: str) -> None:
        """Close in a way that no client takes for the end of an answer."""
        self._shared.log.cut(self._outlet.name, why)
        now = self._pipeline.now
        self._outlet.cut(reset=now is not None and now.answer.ends_by_close)

    # Other connections and the server call these.

    def close_idle(self) -> None:
        """Close, for no request runs."""
        self._intake.end()
        self._outlet.close()

    def refuse_body(self) -> None:
        """Give up the request whose body is not whole."""
        self.refuse(Refusal(503, "too many bodies come at once; try again"))

    def end(self) -> None:
        """Take no more requests, and close as soon as those that have come are answered."""
        if self._intake.deaf and self._refusal is None:
            self._deadlines.expect_end(hurry=True)
        elif self._pipeline.empty and self._made:
            self.close_idle()

    def cancel(self) -> None:
        """Have the request that is answered ended by its handler, now."""
        if self._pipeline.now is not None:
            self._pipeline.now.leave(by_server=True)

    def abort(self) -> None:
        """Close, whatever runs."""
        if self._made:
            self._outlet.cut()

    def _drained(self) -> None:
        if self._outlet.gone or self._outlet.slow:
            return
        now = self._pipeline.now
        if now is None:
            self._pipeline.step()
        elif now.handler is not None:
            now.handler.on_drained()

    def _settle(self) -> None:
        """Set the time by which something must come."""
        if self._outlet.gone or self._intake.deaf:
            return
        pipeline = self._pipeline
        if pipeline.reading is not None:
            self._settle_body(pipeline.reading)
            return
        self._shared.bodies.forget(self)
        if pipeline.now is not None or pipeline.queue:
            self._deadlines.expect_nothing()
        elif self._intake.begun:
            self._deadlines.expect_head()
        else:
            self._shared.idle[self] = None
            self._deadlines.expect_request()

    def _settle_body(self, reading: Exchange) -> None:
        if self._pipeline.waiting > self._limits.body_buffer:
            self._intake.pause()
        if self._intake.paused:
            self._deadlines.expect_nothing()
        else:
            self._deadlines.expect_body(reading.received)
        if reading.answer.done:
            self._shared.bodies.forget(self)
        else:
            self._shared.bodies.note(self, reading.received)

    # Ends.

    def _late(self) -> None:
        reading = self._pipeline.reading
        if self._intake.deaf:
            self._outlet.cut()
        elif reading is not None and reading.answer.done:
            self.cut("the rest of a body did not come")
        elif reading is not None:
            self.refuse(Refusal(408, "the body of the request did not come in time"))
        elif self._intake.begun:
            self.refuse(Refusal(408, "the head of the request did not come in time"))
        else:
            self.close_idle()

    def _stuck(self) -> None:
        if self._outlet.stuck:
            self.cut(f"it read nothing for {self._limits.write_seconds:g} s")
        else:
            self._outlet.watch()

    def _send(self, refusal: Refusal) -> None:
        self._refusal = None
        self._outlet.write(refusal.encoded(date()))
        self._linger()

    def _linger(self) -> None:
        """Close when the client has, or has sent nothing for a while."""
        if self._eof:
            self._outlet.close()
            return
        self._outlet.end()
        self.read_on()
        self._deadlines.restart()
        self._deadlines.expect_end(self._shared.ending)
