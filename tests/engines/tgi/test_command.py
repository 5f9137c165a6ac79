"""The command of the engine `tgi` and the reading of its log, with TGI's double.

Each fault is one that people reported of TGI, or that the real one showed on a CPU.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import aiohttp
import pytest

from inference_service.catalog import ModelSpec
from inference_service.engines import kinds
from inference_service.engines.base import FinishReason, Prompt
from inference_service.engines.tgi.engine import Tgi
from inference_service.engines.tgi.section import TgiNeeds
from inference_service.errors import EngineFailed, EngineLost, PromptTooLong
from tests.doubles.tgi.process import TgiProcess, started
from tests.engines import beds
from tests.engines.beds import GPU_SEAT, SEAT, Bed, TgiBed, double_variables, tgi_spec
from tests.engines.waiting import until

GPU = pytest.mark.parametrize("gpu", [False, True], ids=["without a GPU", "on a GPU"])


@asynccontextmanager
async def launched(
    entry: ModelSpec, *, gpu: bool = False, ready: bool = True
) -> AsyncGenerator[TgiProcess]:
    """Start the double as a container of the entry is started."""
    command = Tgi("").command(entry, GPU_SEAT if gpu else SEAT)
    async with started(double_variables(command), ready=ready) as double:
        yield double


def entry(context_length: int = 2048, **env: str) -> ModelSpec:
    found = tgi_spec(context_length)
    needs = found.needs(TgiNeeds).model_copy(update={"env": env})
    return found.model_copy(update={"sections": {"tgi": needs}})


async def contexts(double: TgiProcess) -> tuple[int, int]:
    async with aiohttp.request("GET", f"{double.url}/info") as answer:
        info: dict[str, Any] = await answer.json()
    return info["max_total_tokens"], info["max_input_tokens"]


async def failed(double: TgiProcess, status: int = 1) -> str:
    """Wait for the end, and return the cause that a person reads."""
    assert await double.exit_status() == status
    return Tgi("").cause([*double.lines, *double.errors.splitlines()])


@GPU
async def test_each_entry_of_the_package_has_its_context(
    subtests: pytest.Subtests, gpu: bool
) -> None:
    for spec in kinds.catalog():
        if "tgi" in spec.sections:
            with subtests.test(spec.id):
                async with launched(spec, gpu=gpu) as double:
                    total = spec.context_length
                    assert await contexts(double) == (total, total - 1)


@GPU
@pytest.mark.parametrize("context", [512, 4096], ids=["shorter", "longer"])
async def test_the_context_of_the_entry_replaces_that_of_the_model(gpu: bool, context: int) -> None:
    async with beds.tgi(context_length=context, gpu=gpu) as bed:
        text = await bed.read(Prompt("[[no_eos]]", max_new_tokens=context, temperature=0))
        with pytest.raises(PromptTooLong) as too_long:
            await bed.read(Prompt("the " * context, max_new_tokens=1))

    finish = text.finish
    assert finish.reason is FinishReason.LENGTH
    assert finish.prompt_token_count + finish.completion_token_count == context
    assert too_long.value.metadata == {"context_length": str(context)}


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"MAX_TOTAL_TOKENS": "300"}, (300, 299)),
        ({"MAX_INPUT_LENGTH": "300"}, (2048, 300)),
        ({"MAX_INPUT_TOKENS": "3000"}, (3001, 3000)),
    ],
    ids=str,
)
async def test_an_entry_with_half_of_a_pair_starts(
    env: dict[str, str], expected: tuple[int, int]
) -> None:
    async with launched(entry(2048, **env)) as double:
        assert await contexts(double) == expected


FILE = "https://huggingface.co/some/model/resolve/main/config.json"
NOT_FOUND = f"HfHubHTTPError: 404 Client Error: Not Found for url: {FILE}; 404: Not Found"
GATED = (
    f"Cannot access gated repo for url {FILE}. Access to model some/model is restricted. You must "
    "have access to it and be authenticated to access it. Please log in."
)


@pytest.mark.parametrize(
    ("env", "cause"),
    [
        (
            {"MAX_BATCH_PREFILL_TOKENS": "100"},
            "`max_batch_prefill_tokens` must be >= `max_input_tokens`. Given: 100 and 2047",
        ),
        ({"MAX_TOTAL_TOKENS": "90", "MAX_INPUT_TOKENS": "100"}, "must be < `max_total_tokens`(90)"),
        (
            {"MAX_BATCH_TOTAL_TOKENS": "1000"},
            "`max_total_tokens` must be <= `max_batch_total_tokens`. Given: 2048 and 1000",
        ),
        ({"MAX_BATCH_SIZE": "0"}, "`max_batch_size` must be > 0"),
        ({"NUM_SHARD": "2"}, "NotImplementedError: Sharded Llama requires Flash Attention"),
        ({"DOUBLE_FAULT": "gated"}, GATED),
        ({"DOUBLE_FAULT": "not_found"}, NOT_FOUND),
        ({"DOUBLE_FAULT": "cuda_oom"}, "torch.OutOfMemoryError: CUDA out of memory."),
        ({"DOUBLE_FAULT": "oom_kill"}, "Shard process was signaled to shutdown with signal 9"),
    ],
)
async def test_a_start_that_fails_names_its_cause(env: dict[str, str], cause: str) -> None:
    async with launched(entry(2048, **env), ready=False) as double:
        assert cause in await failed(double)


async def test_a_context_beyond_the_memory_of_a_gpu_names_its_cause() -> None:
    async with launched(entry(200_000), gpu=True, ready=False) as double:
        assert await failed(double) == "Error: Backend(NotEnoughMemory(200000))"


async def test_without_a_gpu_an_entry_with_batches_fails_requests_and_not_tgi() -> None:
    async with beds.tgi(MAX_BATCH_SIZE="2", DOUBLE_TOKENS_PER_SECOND="100") as bed:
        texts = [bed.read(Prompt(f"{n} [[no_eos]]", max_new_tokens=100)) for n in range(2)]
        for end in await asyncio.gather(*texts, return_exceptions=True):
            assert type(end) is EngineFailed
            assert "`past_key_values` should be" in str(end)

        assert await bed.read(Prompt("[[no_eos]]", max_new_tokens=5))


async def test_a_gpu_without_flash_attention_answers_two_at_once() -> None:
    async with launched(entry(2048, USE_FLASH_ATTENTION="false"), gpu=True) as double:
        bed = TgiBed(Tgi(""), tgi_spec(), double)
        texts = (bed.read(Prompt("[[no_eos]]", max_new_tokens=9)) for _ in range(9))
        assert len(await asyncio.gather(*texts)) == 9
        await bed.engine.aclose()


@asynccontextmanager
async def served(gpu: bool) -> AsyncGenerator[TgiBed]:
    """Run an engine that has failed a request, and can be given up within a second."""
    async with beds.tgi(gpu=gpu, GRACEFUL_TERMINATION_TIMEOUT="1") as bed:
        with pytest.raises(EngineFailed, match="not finite"):
            await bed.read(Prompt("[[fault:error_after=2]]"))
        yield bed


async def lost_by(bed: Bed, pid: int) -> None:
    """Lose a text by the kill of a process."""
    async with aclosing(bed.generate(Prompt("[[no_eos]] [[fault:slow_first=20]]"))) as chunks:
        waiting = asyncio.ensure_future(anext(chunks))

        async def busy() -> bool:
            return bool(await bed.busy())

        await until(busy, "the engine has the request")
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(EngineLost):
            async with asyncio.timeout(5):
                await waiting


@GPU
async def test_the_death_of_a_shard_is_not_that_of_an_old_request(gpu: bool) -> None:
    async with served(gpu) as bed:
        (shard,) = bed.double.children("shard.py")
        await lost_by(bed, shard)

        assert await failed(bed.double) == "Shard process was signaled to shutdown with signal 9"


@GPU
async def test_the_death_of_the_router_is_not_that_of_an_old_request(gpu: bool) -> None:
    async with served(gpu) as bed:
        (router,) = bed.double.children("text-generation-router")
        await lost_by(bed, router)

        assert await failed(bed.double) == "Webserver Crashed"


async def test_a_shard_that_ends_by_itself_names_its_error() -> None:
    async with beds.tgi() as bed:
        with pytest.raises(EngineLost):
            await bed.read(Prompt("[[fault:crash_after=2]]"))

        assert "CUDA out of memory" in await failed(bed.double)
