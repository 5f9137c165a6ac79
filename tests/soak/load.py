"""Everything that callers and operators do with a service, at random and at once."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import grpc
import httpx

from inference_service.v1 import model_service_pb2 as pb
from inference_service.v1 import model_service_pb2_grpc as pb_grpc
from tests.chaos.callers import ALL, STREAMS, TEXT, Caller, Kind
from tests.service import failure

PROMPT = "Once upon a time"

# A stop may cut any text.
_FITTING = {TEXT, "MODEL_STOPPED"}

_SHIFT = 4.0  # seconds for which one of the models has all the work


class Load:
    """The work and its answers, for one model after the other, since they do not all fit."""

    def __init__(self, stub: pb_grpc.ModelServiceStub, url: str, models: Sequence[str]) -> None:
        self.requests = 0
        self.done: Counter[str] = Counter()
        self.wrong: Counter[str] = Counter()
        self._stub: pb_grpc.ModelServiceAsyncStub = stub  # type: ignore[assignment]
        self._url = url
        self._http: httpx.AsyncClient
        self._models = models
        self._model = models[0]
        self._dice = random.Random(1)
        self._kinds: dict[str, tuple[int, Callable[[], Awaitable[None]]]] = {
            "texts": (10, self._text),
            "vanishing": (6, self._vanish),
            "bad": (3, self._bad),
            "looks": (3, self._look),
            "watches": (1, self._watch),
            "REST watches": (1, self._rest_watch),
            "logs": (1, self._logs),
        }

    async def run(self, workers: int) -> None:
        """Work until cancelled."""
        async with self._client() as self._http, asyncio.TaskGroup() as group:
            group.create_task(self._operate())
            for _ in range(workers):
                group.create_task(self._work())

    async def warm_up(self) -> None:
        """Start and stop each model, so that all is open that is opened once and kept.

        That is mainly the pool of 25 connections to Docker.
        """
        for model in (model for model in self._models for _ in range(6)):
            await self._stub.StartModel(pb.StartModelRequest(model_id=model))
            await self.stop_all()

    async def stop_all(self) -> None:
        """Stop every model that runs."""
        for model in self._models:
            request = pb.StopModelRequest(model_id=model)
            await self._fits("CONTAINER_NOT_RUNNING", self._stub.StopModel(request))

    async def _work(self) -> None:
        weights = [weight for weight, _ in self._kinds.values()]
        while True:
            (name,) = self._dice.choices(list(self._kinds), weights)
            await self._kinds[name][1]()
            self.requests += 1
            self.done[name] += 1

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self._url, timeout=60, trust_env=False, verify=False)

    async def _operate(self) -> None:
        """Give the work to the next model; every third time, stop the one that has it first."""
        for count in range(1, 10**9):
            await asyncio.sleep(_SHIFT)
            if count % 3 == 0:
                request = pb.StopModelRequest(model_id=self._model)
                request.drain_timeout.FromMilliseconds(self._dice.choice([0, 500]))
                await self._fits("CONTAINER_NOT_RUNNING", self._stub.StopModel(request))
            self._model = self._models[count % len(self._models)]
            request_start = pb.StartModelRequest(model_id=self._model)
            await self._fits("MODEL_STOPPED", self._stub.StartModel(request_start))
            self.done["shifts"] += 1

    def _caller(self, http: httpx.AsyncClient, kinds: Sequence[Kind]) -> Caller:
        body = {"model_id": self._model, "prompt": PROMPT}
        count = self._dice.choice([1, 4, 16, 64])
        kind = self._dice.choice(kinds)
        return Caller(kind, self._stub, http, body | {"max_new_tokens": count})

    async def _text(self) -> None:
        caller = self._caller(self._http, ALL)
        await caller.task
        (answer,) = caller.answers
        self._judge(answer, _FITTING)

    async def _vanish(self) -> None:
        """Break off a stream while it runs, or while the model starts."""
        async with self._client() as http:
            caller = self._caller(http, STREAMS)
            try:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._dice.choice([0.01, 0.1, 1])):
                        await caller.reading.wait()
            finally:
                await caller.vanish()
        for answer in caller.answers:
            self._judge(answer, _FITTING)

    async def _bad(self) -> None:
        body = {"model_id": self._model, "prompt": PROMPT, "temperature": 9}
        if self._dice.random() < 0.5:
            body |= {"model_id": "no-such-model", "temperature": 1}
        reason = "INVALID_PARAMETER" if body["temperature"] == 9 else "MODEL_NOT_FOUND"
        if self._dice.random() < 0.5:
            await self._fits(reason, self._stub.Generate(pb.GenerateRequest(**body)))  # type: ignore[arg-type]
        else:
            response = await self._http.post("/generate", json=body)
            self._judge(response.headers.get("x-error-reason", TEXT), {reason})

    async def _look(self) -> None:
        await self._stub.GetModel(pb.GetModelRequest(model_id=self._model))
        await self._stub.ListModels(pb.ListModelsRequest())
        response = await self._http.get("/models")
        self._judge(str(response.status_code), {"200"})

    async def _watch(self) -> None:
        call = self._stub.WatchModels(pb.WatchModelsRequest())
        try:
            await self._for_a_while(call.read, 10)
        finally:
            call.cancel()

    async def _rest_watch(self) -> None:
        async with self._http.stream("GET", "/models:watch") as response:
            lines = response.aiter_lines()
            await self._for_a_while(lambda: anext(lines), 20)

    async def _logs(self) -> None:
        request = pb.StreamLogsRequest(model_id=self._model, follow=True)
        call = self._stub.StreamLogs(request)
        try:
            await self._for_a_while(call.read, 50)
        except grpc.aio.AioRpcError as error:  # not started yet
            self._judge(failure(error).reason, {"CONTAINER_NOT_RUNNING"})
        finally:
            call.cancel()

    async def _for_a_while(self, read: Callable[[], Awaitable[object]], most: int) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                for _ in range(most):
                    await read()

    async def _fits(self, reason: str, call: Awaitable[object]) -> None:
        try:
            await call
        except grpc.aio.AioRpcError as error:
            self._judge(failure(error).reason, {reason})

    def _judge(self, answer: str, fitting: set[str]) -> None:
        if answer not in fitting:
            self.wrong[answer] += 1
