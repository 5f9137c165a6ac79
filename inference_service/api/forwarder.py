"""Forward: requests that are passed on as they are, for callers by gRPC and in this process."""

from __future__ import annotations

import time
from typing import Protocol

from inference_service.api import forwards, replies, requests
from inference_service.api.callers import caller
from inference_service.api.methods import Context, accept
from inference_service.api.prompts import Prompts
from inference_service.api.requests import Limits
from inference_service.engines.exchange import Sink
from inference_service.lifecycle import Status
from inference_service.serving.attempts import Attempts
from inference_service.serving.changes import Notify
from inference_service.serving.forwarding import forward
from inference_service.serving.model import Model
from inference_service.serving.models import Models
from inference_service.serving.reading import Readers
from inference_service.v1 import model_service_pb2 as pb


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
        model.begin()
        held = self._prompts.held(len(request.body), context)
        with held, self._readers.reading(model) as reading:
            await accept(context)

            async def notify(status: Status, queue_position: int) -> None:
                waits = replies.waits(status, queue_position, time.time())
                await reading.write(context.write, pb.ForwardResponse(status=waits))

            await forward(
                attempts,
                request,
                reading,
                lambda head: context.write(forwards.head(head)),
                lambda data: context.write(pb.ForwardResponse(data=data)),
                notify if asked.status_events else None,
            )

    async def pass_on(self, passed: tuple[forwards.Forwarded, Waiting], context: Context) -> None:
        """Have the sink get the answer, straight from the loop that reads the engine.

        The sink has a limit of its own for a client that takes no byte.
        """
        asked, sink = passed
        model, request = await forwards.request(asked, self._models)
        attempts = self._attempts(model, context)
        with (
            self._prompts.held(len(request.body), context),
            self._readers.reading(model, bounded=True) as reading,
        ):
            await attempts.ask(request, sink, _notify(sink), reading)

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
