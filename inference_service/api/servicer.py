"""The RPCs: convert, call, convert. What each promises is written in the proto."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import grpc

from inference_service import __version__
from inference_service.api import convert
from inference_service.api.convert import Limits
from inference_service.lifecycle import State, Status
from inference_service.serving.generation import Generation
from inference_service.serving.models import Manager, Reload
from inference_service.v1 import model_service_pb2 as pb
from inference_service.v1 import model_service_pb2_grpc as pb_grpc

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class RuntimeChoice:
    """Which runtime was chosen, and why, in one sentence."""

    name: str
    reason: str


class ModelService(pb_grpc.ModelServiceServicer):
    """The service on a manager."""

    def __init__(
        self,
        manager: Manager,
        choice: RuntimeChoice,
        limits: Limits,
        reload: Callable[[], Reload],
    ) -> None:
        self._manager = manager
        self._choice = choice
        self._limits = limits
        self._reload = reload

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

    async def ReloadCatalog(
        self, request: pb.ReloadCatalogRequest, context: Context
    ) -> pb.ReloadCatalogResponse:
        return convert.reload(self._reload())

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
        model = self._manager.find(request.model_id)
        generation = Generation(model, convert.order(request, context, model.spec, self._limits))
        text = await generation.whole()
        if convert.full_text(request):
            text = request.prompt + text
        summary = convert.summary(model.spec, generation.outcome())
        return pb.GenerateResponse(generated_text=text, model_id=model.spec.id, summary=summary)

    # Writes, where it could yield: so a time limit or a cut that falls into the wait for a slow
    # reader is raised here, and not in the library above.
    async def GenerateStream(  # type: ignore[override]
        self, request: pb.GenerateStreamRequest, context: Context
    ) -> None:
        model = self._manager.find(request.model_id)
        generation = Generation(model, convert.order(request, context, model.spec, self._limits))

        async def tell(status: Status, place: int) -> None:
            await context.write(convert.status(status, place, time.time()))

        await generation.stream(
            lambda chunk: context.write(convert.chunk(chunk)),
            lambda seam: context.write(convert.seam(seam)),
            tell if request.status_events else None,
        )
        summary = convert.summary(model.spec, generation.outcome())
        await context.write(pb.GenerateStreamResponse(summary=summary))
