"""A client of inference-service with grpcio."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

# Written by `python -m grpc_tools.protoc`; the package has to be in the path of modules.
from inference_service.v1 import model_service_pb2 as pb
from inference_service.v1 import model_service_pb2_grpc as pb_grpc

USAGE = "usage: example.py TARGET [QUIET_SECONDS=600] [CALLS=1200] [PING_SECONDS=10]"
MODEL = "story-mini"
TEXT = {"model_id": MODEL, "prompt": "Once upon a time"}
# It repeats itself, and so it ends at no earlier token.
LONG = TEXT | {"max_new_tokens": 500, "temperature": 0, "repetition_penalty": 0.1}
PATIENCE = 60  # seconds; a call that waits for a service and a cold model needs a deadline

# Retries, and calls that wait for a service that is not there yet.
CONFIG = Path(__file__).with_name("service_config.json").read_text()


def channel_to(target: str, *options: tuple[str, object]) -> grpc.Channel:
    return grpc.insecure_channel(target, options=[("grpc.service_config", CONFIG), *options])


def keepalive(seconds: float) -> list[tuple[str, object]]:
    """Return the options with which a quiet call lives behind a NAT, and a dead peer is noticed."""
    return [
        ("grpc.keepalive_time_ms", int(seconds * 1000)),
        ("grpc.keepalive_timeout_ms", 20_000),
        # Trap: that alone closes nothing in grpcio 1.85.
        ("grpc.http2.ping_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        # Trap: by default there are two pings, then none until the next data.
        ("grpc.http2.max_pings_without_data", 0),
    ]


def details(error: grpc.RpcError) -> tuple[str, list[str]]:
    """Return the reason of an error, or "" for one of the library's own, and the wrong fields."""
    reason, fields = "", []
    status = rpc_status.from_call(error)  # None where there are no details
    for packed in status.details if status is not None else ():
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        if packed.Unpack(info):
            reason = info.reason
        elif packed.Unpack(bad):
            fields = [violation.field for violation in bad.field_violations]
    return reason, fields


def stop(stub: pb_grpc.ModelServiceStub) -> None:
    """Stop the model; one that does not run is stopped."""
    try:
        stub.StopModel(pb.StopModelRequest(model_id=MODEL), timeout=PATIENCE)
    except grpc.RpcError as error:
        if details(error)[0] != "CONTAINER_NOT_RUNNING":
            raise


def streamed(stub: pb_grpc.ModelServiceStub) -> dict[str, Any]:
    """Read a whole stream: statuses while the model starts, chunks, one summary."""
    began = time.monotonic()
    statuses: list[str] = []
    texts: list[str] = []
    first, summary = 0.0, None
    request = pb.GenerateStreamRequest(**TEXT, max_new_tokens=60, status_events=True)
    for response in stub.GenerateStream(request, timeout=PATIENCE):
        match response.WhichOneof("event"):
            case "status":
                state = pb.ModelState.Name(response.status.model_state)
                if statuses[-1:] != [state]:
                    statuses.append(state)
            case "chunk":
                first = first or time.monotonic() - began
                texts.append(response.chunk.text)
            case "summary":
                summary = response.summary
            case _:
                pass  # an event of a later version: None here, to be skipped
    assert summary is not None, "a stream without a summary has failed"
    return {
        "statuses": statuses,
        "chunks": len(texts),
        "text": "".join(texts),
        "finish_reason": pb.FinishReason.Name(summary.finish_reason),
        "first_chunk_seconds": round(first, 3),
    }


def cold_start(stub: pb_grpc.ModelServiceStub) -> dict[str, Any]:
    stop(stub)
    seen = streamed(stub)
    assert "MODEL_STATE_STARTING" in seen["statuses"], seen
    return {name: seen[name] for name in ("statuses", "chunks", "text", "finish_reason")}


def stream(stub: pb_grpc.ModelServiceStub) -> dict[str, Any]:
    seen = streamed(stub)
    return {name: seen[name] for name in ("chunks", "first_chunk_seconds")}


def cancel(stub: pb_grpc.ModelServiceStub) -> dict[str, Any]:
    # Trap: a stream that is only left runs on, until nobody holds the call any more.
    call = stub.GenerateStream(pb.GenerateStreamRequest(**LONG), timeout=PATIENCE)
    next(response for response in call if response.WhichOneof("event") == "chunk")
    call.cancel()
    began = time.monotonic()
    while stub.GetModel(pb.GetModelRequest(model_id=MODEL)).model.active_request_count:
        assert time.monotonic() - began < 2, "the request runs on"
    free_after = round(time.monotonic() - began, 3)
    assert call.code() is grpc.StatusCode.CANCELLED, call.code()
    return {"code": call.code().name, "free_after_seconds": free_after}


def deadline(stub: pb_grpc.ModelServiceStub) -> dict[str, Any]:
    try:
        stub.Generate(pb.GenerateRequest(**LONG), timeout=0.05)
    except grpc.RpcError as error:
        # DEADLINE_PASSED of the service comes first, or else the library's own, without details.
        return {"code": error.code().name, "reason": details(error)[0]}
    raise AssertionError("the text came before the deadline")


def violations(stub: pb_grpc.ModelServiceStub) -> dict[str, Any]:
    try:
        stub.Generate(pb.GenerateRequest(**TEXT, temperature=9, top_p=7), timeout=PATIENCE)
    except grpc.RpcError as error:
        reason, fields = details(error)
        return {"code": error.code().name, "reason": reason, "fields": fields}
    raise AssertionError("the service took the parameters")


def quiet_watch(
    stub: pb_grpc.ModelServiceStub, target: str, quiet: float, interval: float
) -> dict[str, Any]:
    stub.StartModel(pb.StartModelRequest(model_id=MODEL), timeout=PATIENCE)
    with channel_to(target, *keepalive(interval)) as channel:
        # A watch has no end, so it has no deadline.
        watch = pb_grpc.ModelServiceStub(channel).WatchModels(pb.WatchModelsRequest(model_id=MODEL))
        next(response for response in watch if response.WhichOneof("event") == "snapshot_done")
        time.sleep(quiet)
        assert watch.is_active(), f"the watch has ended: {watch.code()} {watch.details()}"
        stop(stub)
        for response in watch:
            if response.model.state == pb.MODEL_STATE_STOPPED:
                return {"alive": True}
    raise AssertionError("the watch has ended")


def many(target: str, calls: int) -> dict[str, Any]:
    request = pb.GenerateRequest(**TEXT, max_new_tokens=1)
    refused: Counter[str] = Counter()
    # Without retries, which would hide most refusals: the calls would take turns.
    with channel_to(target, ("grpc.enable_retries", 0)) as channel:
        stub = pb_grpc.ModelServiceStub(channel)
        for call in [stub.Generate.future(request, timeout=PATIENCE) for _ in range(calls)]:
            if (error := call.exception()) is not None:
                refused[details(error)[0]] += 1
    untyped = refused.pop("", 0)
    assert not untyped, f"{untyped} calls failed without a reason"
    return {"ok": calls - refused.total(), "refused": refused, "untyped": untyped}


def report(step: Callable[..., dict[str, Any]], *arguments: Any) -> None:
    began = time.monotonic()
    seen = step(*arguments)
    seconds = round(time.monotonic() - began, 3)
    print(json.dumps({"step": step.__name__, **seen, "seconds": seconds}), flush=True)


def main() -> None:
    if not 2 <= len(sys.argv) <= 5:
        sys.exit(USAGE)
    target, quiet, calls, interval = [*sys.argv[1:], *("600", "1200", "10")[len(sys.argv) - 2 :]]
    with channel_to(target) as channel:
        stub = pb_grpc.ModelServiceStub(channel)
        for step in (cold_start, stream, cancel, deadline, violations):
            report(step, stub)
        report(quiet_watch, stub, target, float(quiet), float(interval))
        report(many, target, int(calls))


if __name__ == "__main__":
    main()
