"""The RPCs of `ModelService`: convert, call, convert. The proto says what each promises."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing

from inference_service import __version__
from inference_service.api import replies, requests
from inference_service.api.forwarder import Forwarder
from inference_service.api.methods import Context
from inference_service.api.prompts import Prompts
from inference_service.api.requests import Limits
from inference_service.api.writer import Writer
from inference_service.key import Key
from inference_service.lifecycle import State, Status
from inference_service.serving.generation import Generation
from inference_service.serving.models import Models, Reload
from inference_service.serving.placement import RuntimeChoice
from inference_service.serving.reading import Readers
from inference_service.v1 import model_service_pb2 as pb
from inference_service.v1 import model_service_pb2_grpc as pb_grpc


class ModelService(pb_grpc.ModelServiceServicer):
    """The service on all models of a catalog."""

    def __init__(
        self,
        models: Models,
        choice: Callable[[], RuntimeChoice],
        limits: Limits,
        reload: Callable[[], Awaitable[Reload]],
        readers: Readers,
        prompts: Prompts,
    ) -> None:
        self._models = models
        self._choice = choice
        self._limits = limits
        self._reload = reload
        self._readers = readers
        self._prompts = prompts
        self.forwarder = Forwarder(models, limits, readers, prompts)

    async def GetInfo(self, request: pb.GetInfoRequest, context: Context) -> pb.GetInfoResponse:
        choice = self._choice()
        return pb.GetInfoResponse(
            message="LLM Inference API",
            models=[model.id for model in self._models],
            running_containers=[m.id for m in self._models if m.status.state is State.READY],
            version=__version__,
            runtime=choice.name,
            runtime_choice=choice.reason,
        )

    async def ListModels(
        self, request: pb.ListModelsRequest, context: Context
    ) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(models=[replies.model(m.view()) for m in self._models])

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        model = self._models.find(request.model_id)
        return pb.GetModelResponse(model=replies.model(model.view()))

    async def StartModel(
        self, request: pb.StartModelRequest, context: Context
    ) -> pb.StartModelResponse:
        model = self._models.find(request.model_id)
        idle_timeout = requests.idle_timeout(request, self._limits.idle_timeout)
        if request.validate_only:
            return pb.StartModelResponse(
                message=f"{model.id} could be started",
                model=replies.model(model.view()),
                plan=replies.plan(model.quote(), model.usual_start),
            )
        if request.no_wait:
            await model.seek()
            model.begin()
        else:
            await model.start(idle_timeout)
        entry, status = model.entry, model.status
        done = "started" if status.state is State.READY else "is being started"
        return pb.StartModelResponse(
            message=f"Container for {model.id} {done}",
            port=status.port,
            container_name=status.container or entry.runtime.container_name(Key(model.id)),
            model=replies.model(model.view()),
        )

    async def StopModel(
        self, request: pb.StopModelRequest, context: Context
    ) -> pb.StopModelResponse:
        model = self._models.find(request.model_id)
        await model.stop(requests.drain(request))
        return pb.StopModelResponse(
            message=f"Container for {model.id} stopped", model=replies.model(model.view())
        )

    async def ReloadCatalog(
        self, request: pb.ReloadCatalogRequest, context: Context
    ) -> pb.ReloadCatalogResponse:
        return replies.reload(await self._reload())

    async def WatchModels(  # type: ignore[override]
        self, request: pb.WatchModelsRequest, context: Context
    ) -> None:
        model_id = self._models.find(request.model_id).id if request.model_id else ""
        writer = Writer(context)
        await writer.open()
        watch = self._models.watch(request.after_revision, model_id)
        with self._readers.reading(bounded=_bounded(context)) as reading:
            async with aclosing(watch) as changes:
                async for change in changes:
                    await reading.write(writer.write, replies.change(change))

    async def StreamLogs(  # type: ignore[override]
        self, request: pb.StreamLogsRequest, context: Context
    ) -> None:
        model = self._models.find(request.model_id)
        count = requests.tail_line_count(request)
        async for _ in model.logs(0, follow=False):  # raises NotRunning before the call is accepted
            pass
        writer = Writer(context)
        if request.follow:
            await writer.open()
        lines = model.logs(count, request.follow)
        with self._readers.reading(bounded=_bounded(context)) as reading:
            async with aclosing(lines):
                async for line in lines:
                    await reading.write(writer.write, pb.StreamLogsResponse(line=line))

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> pb.GenerateResponse:
        model = self._models.find(request.model_id)
        order = requests.order(request, context, model.entry, self._limits)
        generation = Generation(model, order)
        with self._prompts.held(len(order.prompt.text), context):
            text = await generation.whole()
        if requests.full_text(request):
            text = request.prompt + text
        summary = replies.summary(model.id, generation.outcome())
        return pb.GenerateResponse(generated_text=text, model_id=model.id, summary=summary)

    # Streams write where they could yield: a time limit or a cut that falls into the wait for a
    # slow reader is then raised here, and not in the library above.
    async def GenerateStream(  # type: ignore[override]
        self, request: pb.GenerateStreamRequest, context: Context
    ) -> None:
        model = self._models.find(request.model_id)
        order = requests.order(request, context, model.entry, self._limits)
        held = self._prompts.held(len(order.prompt.text), context)
        with held, self._readers.reading(model, bounded=_bounded(context)) as reading:
            writer = Writer(context)
            generation = Generation(model, order, reading)

            async def notify(status: Status, queue_position: int) -> None:
                event = replies.status(status, queue_position, time.time())
                await reading.write(writer.write, event)

            await generation.stream(
                lambda chunk: writer.write(replies.chunk(chunk)),
                lambda resumption: reading.write(writer.write, replies.resumption(resumption)),
                notify if request.status_events else None,
            )
            reading.let_go()
            summary = replies.summary(model.id, generation.outcome())
            event = pb.GenerateStreamResponse(summary=summary)
            await reading.write(writer.write, event)

    async def Forward(  # type: ignore[override]
        self, request: pb.ForwardRequest, context: Context
    ) -> None:
        await self.forwarder.stream(request, context)


def _bounded(context: Context) -> bool:
    """Return whether a writer of HTTP is behind the call, which ends who takes no byte."""
    return getattr(context, "bounded", False)
