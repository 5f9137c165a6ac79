"""Callers of a model over every protocol of the service, which note their answers."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import grpc
import httpx
from google.rpc import error_details_pb2

from inference_service.v1 import model_service_pb2 as pb
from inference_service.v1 import model_service_pb2_grpc as pb_grpc
from tests.service import failure
from tests.waiting import within

Kind = Literal["Generate", "GenerateStream", "/generate", "/generate_stream"]

STREAMS: tuple[Kind, ...] = ("GenerateStream", "/generate_stream")
ALL: tuple[Kind, ...] = ("Generate", "/generate", *STREAMS)

TEXT = "a text"
LOST = "a broken connection"

_PATIENCE = 90  # seconds, on a machine that others keep busy too


class Caller:
    """One call. `answers` has a reason, `TEXT` or `LOST` for each end of the call.

    There has to be one. `message` is that of the last error.
    """

    def __init__(
        self, kind: Kind, stub: pb_grpc.ModelServiceAsyncStub, http: httpx.AsyncClient, body: Any
    ) -> None:
        self.answers: list[str] = []
        self.message = ""
        self.reading = asyncio.Event()  # the first token has come
        self.retry_after = 0.0
        self._stub, self._http, self._body = stub, http, body
        kinds: dict[Kind, Callable[[], Awaitable[None]]] = {
            "Generate": self._generate,
            "GenerateStream": self._generate_stream,
            "/generate": self._rest_generate,
            "/generate_stream": self._rest_generate_stream,
        }
        self.task = asyncio.ensure_future(kinds[kind]())

    async def vanish(self) -> None:
        """Break the call off, unless it has ended."""
        self.task.cancel()
        await asyncio.wait([self.task])

    async def read(self) -> None:
        """Return when the first token has come."""
        async with within(_PATIENCE, "a stream had no first token"):
            await self.reading.wait()

    async def _generate(self) -> None:
        try:
            response = await self._stub.Generate(pb.GenerateRequest(**self._body))
        except grpc.aio.AioRpcError as error:
            self._refused(error)
        else:
            self._answer(TEXT if response.generated_text else "an empty text")

    async def _generate_stream(self) -> None:
        call = self._stub.GenerateStream(pb.GenerateStreamRequest(**self._body))
        try:
            async for event in call:
                if event.WhichOneof("event") == "chunk":
                    self.reading.set()
                elif event.WhichOneof("event") == "summary":
                    self._answer(TEXT if self.reading.is_set() else "an empty text")
        except grpc.aio.AioRpcError as error:
            self._refused(error)
        finally:
            call.cancel()

    async def _rest_generate(self) -> None:
        try:
            response = await self._http.post("/generate", json=self._body)
        except httpx.TransportError:
            return self._answer(LOST)
        if response.status_code != 200:
            return self._failed(response)
        self._answer(TEXT if response.json()["generated_text"] else "an empty text")

    async def _rest_generate_stream(self) -> None:
        try:
            stream = self._http.stream("POST", "/generate_stream", json=self._body)
            async with stream as response:
                if response.status_code != 200:
                    await response.aread()
                    return self._failed(response)
                event = ""
                async for line in response.aiter_lines():
                    name, _, value = line.partition(": ")
                    event = value if name == "event" else event
                    if name == "data":
                        self._event(event, json.loads(value))
        except httpx.TransportError:
            self._answer(LOST)

    def _event(self, event: str, data: dict[str, Any]) -> None:
        if event == "chunk":
            self.reading.set()
        elif event == "summary":
            self._answer(TEXT if self.reading.is_set() else "an empty text")
        elif event == "error":
            self.message = data["detail"]
            self._answer(data["reason"])

    def _failed(self, response: httpx.Response) -> None:
        self.message = response.json()["detail"]
        self._answer(response.headers["x-error-reason"])

    def _refused(self, error: grpc.aio.AioRpcError) -> None:
        if not error.trailing_metadata() and error.code() is grpc.StatusCode.UNAVAILABLE:
            return self._answer(LOST)  # a status of gRPC itself: the service did not answer
        failed = failure(error)
        self.message = failed.message
        retry = failed.details.get("RetryInfo")
        if isinstance(retry, error_details_pb2.RetryInfo):
            self.retry_after = retry.retry_delay.ToTimedelta().total_seconds()
        self._answer(failed.reason)

    def _answer(self, answer: str) -> None:
        self.answers.append(answer)


class Crowd:
    """Callers that call at once, one of each kind after the other."""

    def __init__(
        self,
        stub: pb_grpc.ModelServiceAsyncStub,
        http: httpx.AsyncClient,
        count: int,
        body: Any,
        kinds: tuple[Kind, ...],
    ) -> None:
        each = itertools.islice(itertools.cycle(kinds), count)
        self.callers = [Caller(kind, stub, http, body) for kind in each]

    async def reading(self) -> None:
        """Return when each caller has its first token."""
        async with within(_PATIENCE, "not each stream had a first token"):
            for caller in self.callers:
                await caller.reading.wait()

    async def answered(self) -> None:
        """Return when every call has ended, or after the time in which each has to end."""
        await asyncio.wait([caller.task for caller in self.callers], timeout=_PATIENCE)

    async def vanish(self) -> None:
        """Break all calls off at once."""
        await asyncio.gather(*(caller.vanish() for caller in self.callers))
