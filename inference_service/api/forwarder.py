"""Forward: requests that are passed on as they are, for callers by gRPC and in this process."""

from __future__ import annotations

import logging
import time
from collections.abc import Coroutine
from typing import Any, Protocol

import grpc
from grpc_status import rpc_status

from inference_service.api import forwards, replies, requests
from inference_service.api.callers import caller
from inference_service.api.methods import Context
from inference_service.api.prompts import Prompts
from inference_service.api.requests import Limits
from inference_service.api.statuses import status_of
from inference_service.api.texts import LARGEST
from inference_service.api.writer import Writer
from inference_service.engines.exchange import Request, Sink
from inference_service.errors import ServiceError
from inference_service.lifecycle import Status
from inference_service.serving.attempts import Attempts, Lost
from inference_service.serving.changes import Notify
from inference_service.serving.forwarding import forward
from inference_service.serving.model import Model
from inference_service.serving.models import Models
from inference_service.serving.passing import Passing
from inference_service.serving.reading import Readers
from inference_service.v1 import model_service_pb2 as pb

log = logging.getLogger(__name__)


class Waiting(Sink, Protocol):
    """A sink that is also told what its request waits for."""

    def waits(self, status: pb.GenerateStatus) -> None:
        """Note that the request still waits, at first and at each change."""


class Forwarder:
    """The way of a request from its caller to an engine of `models`, and back."""

    def __init__(self, models: Models, limits: Limits, readers: Readers, prompts: Prompts) -> None:
        self._models = models
        self._limits = limits
        self._readers = readers
        self._prompts = prompts

    async def stream(self, asked: pb.ForwardRequest, context: Context) -> None:
        """Write the answer as messages."""
        model, request = await forwards.request(asked, self._models)
        idle_timeout = requests.idle_timeout(asked, self._limits.idle_timeout)
        attempts = self._attempts(model, context, idle_timeout)
        held = self._prompts.held(len(request.body), context)
        with held, self._readers.reading(model) as reading:
            writer = Writer(context)

            async def notify(status: Status, queue_position: int) -> None:
                waits = replies.waits(status, queue_position, time.time())
                await reading.write(writer.write, pb.ForwardResponse(status=waits))

            await forward(
                attempts,
                request,
                reading,
                lambda head: writer.write(forwards.head(head)),
                lambda data: writer.write(pb.ForwardResponse(data=data)),
                notify if asked.status_events else None,
            )

    def begin(self, asked: forwards.Forwarded, context: Context, sink: Waiting) -> Passing:
        """Have the sink get the answer, straight from the loop that reads the engine.

        Its end comes with an error where there is one, for `status`.
        """
        passing = Passing(self._readers, sink, self._limits.answer)
        try:
            if len(asked.body) > LARGEST:
                passing.wait(self._begin_large(passing, asked, context, sink))
            else:
                found = forwards.request_now(asked, self._models)
                self._pass(passing, *found, context, sink)
        except Exception as error:
            passing.fail(error)
        return passing

    @staticmethod
    def status(error: Exception) -> grpc.Status:
        """Return the status of an error, and log one that is a fault."""
        if not isinstance(error, ServiceError):
            log.exception("fault in a request that is passed on", exc_info=error)
            error = ServiceError()
        status: grpc.Status = rpc_status.to_status(status_of(error))
        return status

    def _pass(
        self, passing: Passing, model: Model, request: Request, context: Context, sink: Waiting
    ) -> None:
        def ask(lost: Lost | None) -> Coroutine[Any, Any, None]:
            attempts = self._attempts(model, context)
            return attempts.ask(request, passing, _notify(sink), passing, lost)

        release = self._prompts.hold(len(request.body), context)
        passing.begin(model, request, ask, release)

    async def _begin_large(
        self, passing: Passing, asked: forwards.Forwarded, context: Context, sink: Waiting
    ) -> None:
        model, request = await forwards.request(asked, self._models)
        with self._prompts.held(len(request.body), context):
            attempts = self._attempts(model, context)
            await attempts.ask(request, passing, _notify(sink), passing)

    def _attempts(
        self, model: Model, context: Context, idle_timeout: float | None = None
    ) -> Attempts:
        return Attempts(
            model,
            self._limits.answer,
            idle_timeout,
            caller(context, self._limits.proxies),
            requests.deadline(context),
        )


def _notify(sink: Waiting) -> Notify:
    async def notify(status: Status, queue_position: int) -> None:
        sink.waits(replies.waits(status, queue_position, time.time()))

    return notify
