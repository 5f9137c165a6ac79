"""A service whose engine does what no engine should, with other callers beside it."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from inference_service.v1 import model_service_pb2 as pb
from tests.field import hostile_engine
from tests.field.hostile_engine import FAULTS, PROBES
from tests.service import Serving, failure, free_ports, serving
from tests.waiting import SLOWLY, within

MIB = 2**20

Ask = Callable[[Serving, str], Awaitable[str]]


def write_catalog(tmp_path: Path, probe: Path) -> Path:
    """Write a catalog whose model `mine` is the hostile engine."""
    program = json.dumps([sys.executable, "-P", hostile_engine.__file__])
    env = {"HOST": "{host}", "PORT": "{port}", "NAME": "mine", "PROBE": str(probe)}
    words = ", ".join(f"{name} = {json.dumps(value)}" for name, value in env.items())
    path = tmp_path / "catalog.toml"
    path.write_text(
        '[[models]]\nid = "mine"\nhf_name = "x"\ncontext_length = 512\n[models.openai]\n'
        f'command = {program}\nenv = {{ {words} }}\nmemory = "100MB"\n'
    )
    return path


@asynccontextmanager
async def hostile(tmp_path: Path, **changes: Any) -> AsyncGenerator[Serving]:
    catalog = write_catalog(tmp_path, tmp_path / "probe")
    async with serving(
        generation_timeout=2, ports=free_ports(4), catalog=catalog, **changes
    ) as service:
        yield service


@contextmanager
def memory() -> Iterator[None]:
    """Fail when this process, with the service in it, takes much more memory in the block."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from now on
    before = _kilobytes("VmRSS")
    yield
    assert (_kilobytes("VmHWM") - before) * 1024 < 64 * MIB


def _kilobytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


async def whole(service: Serving, prompt: str) -> str:
    request = pb.GenerateRequest(model_id="mine", prompt=prompt, max_new_tokens=20)
    request.return_full_text = False
    return (await service.stub.Generate(request)).generated_text


async def streamed(service: Serving, prompt: str) -> str:
    request = pb.GenerateStreamRequest(model_id="mine", prompt=prompt, max_new_tokens=20)
    return "".join([part.chunk.text async for part in service.stub.GenerateStream(request)])


@pytest.mark.parametrize("ask", [whole, streamed])
async def test_each_fault_is_an_error_of_its_own_request(tmp_path: Path, ask: Ask) -> None:
    async with hostile(tmp_path) as service, within(SLOWLY, "the faults did not end"):
        assert await ask(service, "good") == " good"
        others = asyncio.create_task(_others(service))

        async def fails(name: str) -> tuple[str, str, str]:
            with pytest.raises(grpc.RpcError) as error:
                await ask(service, name)
            status = failure(error.value)
            return name, status.reason, status.message

        with memory():
            failed = await asyncio.gather(*map(fails, FAULTS))

        assert not others.done(), "another caller got an error"
        others.cancel()
        for name, reason, message in failed:
            assert (name, reason) == (name, FAULTS[name].reason), message
            assert FAULTS[name].words in message, name
        assert await ask(service, "good") == " good"
        model = (await service.stub.GetModel(pb.GetModelRequest(model_id="mine"))).model
        assert model.state == pb.MODEL_STATE_READY


async def _others(service: Serving) -> None:
    """Ask story-mini for texts, each of which must come in time."""
    request = pb.GenerateRequest(model_id="story-mini", prompt="Once", max_new_tokens=5)
    while True:
        await service.stub.Generate(request, timeout=20)


@pytest.mark.parametrize("name", PROBES)
async def test_a_probe_that_is_answered_without_end_is_no_answer(tmp_path: Path, name: str) -> None:
    """The model is not READY, and its start stalls, with bounded memory."""
    (tmp_path / "probe").write_text(name)
    async with hostile(tmp_path, start_stall_timeout=1) as service:
        with memory(), pytest.raises(grpc.RpcError) as error:
            await service.stub.StartModel(pb.StartModelRequest(model_id="mine"))
        assert failure(error.value).reason == "START_STALLED"
