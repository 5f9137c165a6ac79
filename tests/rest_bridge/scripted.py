"""A small stateful ModelService whose generations follow a script."""

import asyncio
import itertools
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, NoReturn, TypeAlias

import grpc.aio
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from inference_service.api.methods import accept
from inference_service.v1 import model_service_pb2 as pb
from inference_service.v1.errors_pb2 import ErrorReason, error_rule
from inference_service.v1.model_service_pb2_grpc import ModelServiceServicer

Context = grpc.aio.ServicerContext[Message, Message]
Step: TypeAlias = "pb.GenerateStreamResponse | Status | asyncio.Event"


class ScriptedService(ModelServiceServicer):
    """A service whose models start and stop at once, and whose generations follow `steps`.

    Each step of a stream is a message to send, a status to end with, or an event to wait for. A
    unary generation answers with the text of the chunks among the steps. `failure` ends any call.
    `received` has all requests, and `metadata` what came along with each. `entered` is set when a
    stream or a generation begins, `cancelled` when one is cancelled. Watches and logs wait for
    `may_go_on` once they are accepted.
    """

    def __init__(self) -> None:
        self.models = {"gpt-2": "gpt2", "tiny-llama": "TinyLlama/TinyLlama-1.1B-Chat-v1.0"}
        self.ports: dict[str, int] = {}
        self.steps: list[Step] = [chunk(", in a land far away...", 7), summary("gpt-2")]
        self.failure: Status | None = None
        self.received: list[Any] = []
        self.metadata: list[dict[str, str | bytes]] = []
        self.entered = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()
        self._free_ports = itertools.count(8080)

    async def GetInfo(self, request: pb.GetInfoRequest, context: Context) -> pb.GetInfoResponse:
        await self._record(request, context)
        return pb.GetInfoResponse(
            message="LLM Inference API",
            models=self.models,
            running_containers=[model for model in self.models if model in self.ports],
            version="9.9",
            runtime="docker",
        )

    async def ListModels(
        self, request: pb.ListModelsRequest, context: Context
    ) -> pb.ListModelsResponse:
        await self._record(request, context)
        return pb.ListModelsResponse(models=[self._model(model) for model in self.models])

    async def Forward(self, request: pb.ForwardRequest, context: Context) -> None:  # type: ignore[override]
        await self._record(request, context)

    async def WatchModels(  # type: ignore[override]
        self, request: pb.WatchModelsRequest, context: Context
    ) -> None:
        await self._record(request, context)
        if request.model_id:
            await self._require(request.model_id, context)
        await accept(context)
        await self._go_on()
        for model in self.models:
            await context.write(pb.WatchModelsResponse(revision=7, model=self._model(model)))
        await context.write(pb.WatchModelsResponse(revision=7, snapshot_done=pb.SnapshotDone()))
        await context.write(pb.WatchModelsResponse(revision=8, removed_model_id="mistral-7b"))

    async def StreamLogs(  # type: ignore[override]
        self, request: pb.StreamLogsRequest, context: Context
    ) -> None:
        await self._record(request, context)
        await self._require(request.model_id, context)
        await accept(context)
        await self._go_on()
        await context.write(pb.StreamLogsResponse(line="Connected"))

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        await self._record(request, context)
        await self._require(request.model_id, context)
        return pb.GetModelResponse(model=self._model(request.model_id))

    async def StartModel(
        self, request: pb.StartModelRequest, context: Context
    ) -> pb.StartModelResponse:
        await self._record(request, context)
        await self._require(request.model_id, context)
        port = self.ports.setdefault(request.model_id, next(self._free_ports))
        return pb.StartModelResponse(
            message=f"Container for {request.model_id} started",
            port=port,
            container_name=f"tgi-{request.model_id}",
            model=self._model(request.model_id),
        )

    async def StopModel(
        self, request: pb.StopModelRequest, context: Context
    ) -> pb.StopModelResponse:
        await self._record(request, context)
        await self._require(request.model_id, context)
        if request.model_id not in self.ports:
            detail = f"{request.model_id} is not running"
            await end(context, failure("CONTAINER_NOT_RUNNING", detail))
        del self.ports[request.model_id]
        return pb.StopModelResponse(message=f"Container for {request.model_id} stopped")

    async def ReloadCatalog(
        self, request: pb.ReloadCatalogRequest, context: Context
    ) -> pb.ReloadCatalogResponse:
        await self._record(request, context)
        return pb.ReloadCatalogResponse(added_model_ids=["my-model"], restarted_model_ids=["gpt-2"])

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> pb.GenerateResponse:
        text = request.prompt
        async for message in self._generation(request, context):
            text += message.chunk.text
        return pb.GenerateResponse(generated_text=text, model_id=request.model_id)

    async def GenerateStream(  # type: ignore[override]
        self, request: pb.GenerateStreamRequest, context: Context
    ) -> None:
        async with aclosing(self._generation(request, context)) as messages:
            async for message in messages:
                await context.write(message)

    async def _generation(
        self, request: pb.GenerateRequest | pb.GenerateStreamRequest, context: Context
    ) -> AsyncGenerator[pb.GenerateStreamResponse]:
        await self._record(request, context)
        await self._require(request.model_id, context)
        if isinstance(request, pb.GenerateStreamRequest):
            await accept(context)
        self.entered.set()
        try:
            for step in self.steps:
                match step:
                    case asyncio.Event():
                        await step.wait()
                    case pb.GenerateStreamResponse():
                        yield step
                    case _:
                        await end(context, step)
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled.set()
            raise

    async def _record(self, request: Message, context: Context) -> None:
        self.received.append(request)
        self.metadata.append(dict(context.invocation_metadata() or ()))
        if self.failure is not None:
            await end(context, self.failure)

    async def _go_on(self) -> None:
        self.entered.set()
        try:
            await self.may_go_on.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def _require(self, model_id: str, context: Context) -> None:
        if model_id not in self.models:
            await end(context, failure("MODEL_NOT_FOUND", f'no model "{model_id[:40]}"'))

    def _model(self, model_id: str) -> pb.Model:
        running = model_id in self.ports
        return pb.Model(
            id=model_id,
            name=model_id,
            hf_name=self.models[model_id],
            running=running,
            state=pb.MODEL_STATE_READY if running else pb.MODEL_STATE_STOPPED,
            engine="tgi",
        )


def chunk(text: str, tokens: int = 1) -> pb.GenerateStreamResponse:
    return pb.GenerateStreamResponse(chunk=pb.GenerateChunk(text=text, token_count=tokens))


def status(phase: "pb.StartPhase.ValueType") -> pb.GenerateStreamResponse:
    progress = pb.StartProgress(phase=phase, completed_count=5, total_count=2**40, unit="bytes")
    return pb.GenerateStreamResponse(
        status=pb.GenerateStatus(model_state=pb.MODEL_STATE_STARTING, start_progress=progress)
    )


def summary(model_id: str) -> pb.GenerateStreamResponse:
    return pb.GenerateStreamResponse(
        summary=pb.GenerateSummary(
            finish_reason=pb.FINISH_REASON_LENGTH,
            prompt_token_count=4,
            completion_token_count=7,
            start_duration=Duration(),
            first_token_duration=Duration(nanos=210_000_000),
            total_duration=Duration(seconds=1, nanos=930_000_000),
            model_id=model_id,
        )
    )


def failure(reason: str, message: str, *, retry_after: float | None = None) -> Status:
    """Build the status with which the service reports an error of the contract."""
    value = ErrorReason.DESCRIPTOR.values_by_name[f"ERROR_REASON_{reason}"]
    status = Status(code=value.GetOptions().Extensions[error_rule].code, message=message)
    status.details.add().Pack(ErrorInfo(reason=reason, domain="inference-service"))
    if retry_after is not None:
        retry = RetryInfo()
        retry.retry_delay.FromNanoseconds(int(retry_after * 1e9))
        status.details.add().Pack(retry)
    return status


async def end(context: Context, status: Status) -> NoReturn:
    """End a call with a status and its details."""
    trailers = [("grpc-status-details-bin", status.SerializeToString())] if status.details else ()
    codes = {code.value[0]: code for code in grpc.StatusCode}
    await context.abort(codes[status.code], status.message, tuple(trailers))
