"""The RPCs: convert, call, convert. What each promises is written in the proto."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc

from inference_service import __version__, convert
from inference_service.catalog import ModelSpec
from inference_service.engines.base import Chunk, Finish
from inference_service.errors import GenerationTimeout, ServiceError
from inference_service.lifecycle import State
from inference_service.manager import Manager
from inference_service.v1 import model_service_pb2 as pb
from inference_service.v1 import model_service_pb2_grpc as pb_grpc

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class RuntimeChoice:
    """Which runtime was chosen, and why, in one sentence."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Limits:
    """What requests may take, in seconds."""

    generation: float = 60.0
    idle_timeout: float = 3600.0  # the longest that a request may ask for


class ModelService(pb_grpc.ModelServiceServicer):
    """The service on a manager."""

    def __init__(self, manager: Manager, choice: RuntimeChoice, limits: Limits) -> None:
        self._manager = manager
        self._choice = choice
        self._limits = limits
        self._timeout = limits.generation

    async def GetInfo(self, request: pb.GetInfoRequest, context: Context) -> pb.GetInfoResponse:
        models = self._manager.models()
        return pb.GetInfoResponse(
            message="LLM Inference API",
            models=[model.spec.id for model in models],
            running_containers=[m.spec.id for m in models if m.status.state is State.READY],
            version=__version__,
            runtime=self._choice.name,
            runtime_choice=self._choice.reason,
        )

    async def ListModels(
        self, request: pb.ListModelsRequest, context: Context
    ) -> pb.ListModelsResponse:
        now = time.time()
        return pb.ListModelsResponse(
            models=[convert.model(model, now) for model in self._manager.models()]
        )

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        model = self._manager.find(request.model_id)
        return pb.GetModelResponse(model=convert.model(model, time.time()))

    async def StartModel(
        self, request: pb.StartModelRequest, context: Context
    ) -> pb.StartModelResponse:
        model = self._manager.find(request.model_id)
        idle_timeout = convert.idle_timeout(request, self._limits.idle_timeout)
        if request.validate_only:
            plan = convert.plan(self._manager.admission, model)
            described = convert.model(model, time.time())
            message = f"{model.spec.id} could be started"
            return pb.StartModelResponse(message=message, model=described, plan=plan)
        if request.no_wait:
            model.begin()
        else:
            await model.start(idle_timeout)
        return pb.StartModelResponse(
            message=f"Container for {model.spec.id} started",
            port=model.status.port,
            container_name=model.status.container or model.runtime.container_name(model.launch),
            model=convert.model(model, time.time()),
        )

    async def StopModel(
        self, request: pb.StopModelRequest, context: Context
    ) -> pb.StopModelResponse:
        model = self._manager.find(request.model_id)
        await model.stop(convert.drain(request))
        return pb.StopModelResponse(
            message=f"Container for {model.spec.id} stopped",
            model=convert.model(model, time.time()),
        )

    async def WatchModels(  # type: ignore[override]
        self, request: pb.WatchModelsRequest, context: Context
    ) -> None:
        if request.model_id:
            self._manager.find(request.model_id)
        async with aclosing(self._manager.watch(request.after_revision)) as changes:
            async for change in changes:
                if request.model_id and change.item and change.item[0].model_id != request.model_id:
                    continue
                await context.write(convert.change(change, time.time()))

    async def StreamLogs(  # type: ignore[override]
        self, request: pb.StreamLogsRequest, context: Context
    ) -> None:
        model = self._manager.find(request.model_id)
        lines = model.logs(convert.tail_line_count(request), request.follow)
        async with aclosing(lines):
            async for line in lines:
                await context.write(pb.StreamLogsResponse(line=line))

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> pb.GenerateResponse:
        watch = _Watch()
        spec = self._manager.find(request.model_id).spec
        prompt = convert.prompt(request, spec)
        idle_timeout = convert.idle_timeout(request, self._limits.idle_timeout)
        texts = [prompt.text] if convert.full_text(request) else []
        lease = self._manager.lease(spec.id, idle_timeout, convert.caller(context))
        async with lease as model, self._limit(spec):
            watch.leased()
            async with aclosing(model.generate(prompt)) as chunks:
                async for chunk in chunks:
                    watch.saw(chunk)
                    texts.append(chunk.text)
        return pb.GenerateResponse(
            generated_text="".join(texts), model_id=spec.id, summary=watch.summary(spec)
        )

    # Writes, where it could yield: so a time limit or a cut that falls into the wait for a slow
    # reader is raised here, and not in the library above.
    async def GenerateStream(  # type: ignore[override]
        self, request: pb.GenerateStreamRequest, context: Context
    ) -> None:
        watch = _Watch()
        spec = self._manager.find(request.model_id).spec
        prompt = convert.prompt(request, spec)
        idle_timeout = convert.idle_timeout(request, self._limits.idle_timeout)
        lease = self._manager.lease(spec.id, idle_timeout, convert.caller(context))
        if request.status_events:
            async with aclosing(self._manager.starting(spec.id)) as statuses:
                async for status in statuses:
                    await context.write(convert.status(status, time.time()))
        try:
            async with lease as model, self._limit(spec) as limit:
                watch.leased()
                async with aclosing(model.generate(prompt)) as chunks:
                    async for chunk in chunks:
                        watch.saw(chunk)
                        if chunk.text:
                            limit.reschedule(None)  # a slow reader is no silence of the engine
                            await context.write(convert.chunk(chunk))
                        limit.reschedule(self._deadline())
        except ServiceError as error:
            if watch.written:
                error.metadata["sent_token_count"] = str(watch.written)
            raise
        await context.write(pb.GenerateStreamResponse(summary=watch.summary(spec)))

    @asynccontextmanager
    async def _limit(self, spec: ModelSpec) -> AsyncGenerator[asyncio.Timeout]:
        """End the block with GenerationTimeout when its time is over."""
        limit = asyncio.timeout(self._timeout)
        try:
            async with limit:
                yield limit
        except TimeoutError:
            if not limit.expired():
                raise
            raise GenerationTimeout(
                f"{spec.id} did not finish within {self._timeout:g} s; ask for fewer tokens, or "
                "stream them",
                metadata={"model_id": spec.id, "timeout_seconds": f"{self._timeout:g}"},
            ) from None

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._timeout


class _Watch:
    """The times and counts of one generation."""

    def __init__(self) -> None:
        self._arrived = self._ready = time.monotonic()
        self._first: float | None = None
        self._finish: Finish | None = None
        self.written = 0

    def leased(self) -> None:
        self._ready = time.monotonic()

    def saw(self, chunk: Chunk) -> None:
        if self._first is None:
            self._first = time.monotonic()
        self.written += chunk.token_count
        self._finish = chunk.finish

    def summary(self, spec: ModelSpec) -> pb.GenerateSummary:
        assert self._finish is not None, "an engine ends with a finish or raises"
        now = time.monotonic()
        first = now if self._first is None else self._first
        return convert.summary(
            spec,
            self._finish,
            start=self._ready - self._arrived,
            first_token=first - self._ready,
            total=now - self._arrived,
        )
