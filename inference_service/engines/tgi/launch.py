"""The variables of TGI's launcher, each of which has a flag of the same name."""

from __future__ import annotations

from collections.abc import Mapping

from inference_service.capacity.claims import USUAL_COUNTS, GpuNeed
from inference_service.engines.tgi.section import TgiNeeds
from inference_service.runtimes.command import Seat

# At SIGTERM the router finishes its requests, then the shards theirs, in up to this time each. It
# seldom takes a second, because the service has drained the model before. When the router dies, TGI
# waits for its shards so long before it exits, and texts to be resumed wait 10 s for the exit.
DRAIN_SECONDS = 5

# The variables of an engine that gets no GPU.
_CPU = {"DISABLE_CUSTOM_KERNELS": "true", "CUDA_GRAPHS": "0"}


def number(env: Mapping[str, str], *names: str) -> int | None:
    """Return the first of these variables that is a number above 0."""
    values = (env.get(name, "") for name in names)
    return next((int(value) for value in values if value.isdecimal() and int(value)), None)


def concurrency(needs: TgiNeeds, *, flash: bool) -> int:
    """Return the number of requests that TGI works on at once: a batch, or all with flash.

    TGI takes 128 by default, and answers 429 to those above.
    """
    most = number(needs.env, "MAX_CONCURRENT_REQUESTS") or 128
    return most if flash else min(most, number(needs.env, "MAX_BATCH_SIZE") or 1)


def gpu_need(needs: TgiNeeds) -> GpuNeed:
    """Return the need for GPUs, among which TGI divides the heads of the model.

    Without a number of the entry, those are possible that divide most models.
    """
    shards, memory = number(needs.env, "NUM_SHARD"), needs.gpu_memory
    usual = USUAL_COUNTS if memory is None and shards is None else ()
    return GpuNeed(memory, shards, needs.gpu_counts or usual)


def variables(needs: TgiNeeds, context: int, seat: Seat, *, gpu: bool) -> dict[str, str]:
    """Return all variables of the engine in a seat; those of the entry win but for the address."""
    flash = gpu and has_flash(needs.env)
    on_gpu = _CPU if not gpu else _share(needs, seat)
    env = _of_model(needs, context, flash=flash) | on_gpu | _key(seat)
    return env | needs.env | {"HOSTNAME": seat.host, "PORT": str(seat.port)}


def _of_model(needs: TgiNeeds, context: int, *, flash: bool) -> dict[str, str]:
    """Return the variables of the engine, which those of the entry replace.

    `flash` tells whether the model has flash attention, which needs a GPU.
    """
    total = _total_tokens(needs.env, context)
    env = {
        "MODEL_ID": needs.weights.repo,
        "REVISION": needs.weights.revision,
        "HF_HOME": "/data",
        "JSON_OUTPUT": "true",
        "USAGE_STATS": "off",
        "GRACEFUL_TERMINATION_TIMEOUT": str(DRAIN_SECONDS),
        # Without it, TGI takes the context of the model's config.json.
        "MAX_TOTAL_TOKENS": str(total),
    }
    if "MAX_INPUT_LENGTH" not in needs.env:  # the old name; TGI refuses both
        # Without it, the warm-up's prompt can be longer than the total, and TGI subtracts one from
        # the other without a sign (`warmup` in backends/v3/src/client/grpc_client.rs).
        env["MAX_INPUT_TOKENS"] = str(total - 1)
    if not flash:
        # A batch of two fails at its first decode step, with all its requests: transformers 4.51
        # refuses the caches that TGI's `models/causal_lm.py` merges.
        env["MAX_BATCH_SIZE"] = "1"
    if not (flash and _splits_prompts(needs.env)):
        env["MAX_BATCH_PREFILL_TOKENS"] = str(total)
    return env


def _total_tokens(env: Mapping[str, str], context: int) -> int:
    """Return the context in tokens: the entry's variable, or its length with room for its input."""
    longest = number(env, "MAX_INPUT_TOKENS", "MAX_INPUT_LENGTH") or 0
    return number(env, "MAX_TOTAL_TOKENS") or max(context, longest + 1)


def has_flash(env: Mapping[str, str]) -> bool:
    return env.get("USE_FLASH_ATTENTION", "true").lower() != "false"


def _splits_prompts(env: Mapping[str, str]) -> bool:
    """Tell whether TGI with flash attention prefills a long prompt in parts, as by default.

    Where TGI does not, the router refuses a budget below the longest prompt. Where TGI does, it
    finds a budget by the speed and the memory of the GPU, which is better than one from here
    (`support_chunking` in server/text_generation_server/models/model.py).
    """
    attention, speculate = env.get("ATTENTION", "flashinfer"), env.get("SPECULATE", "0")
    splits = env.get("PREFILL_CHUNKING", "1").lower() in ("1", "true")
    return splits and attention != "paged" and speculate == "0"


def _key(seat: Seat) -> dict[str, str]:
    # The launcher passes it to its router as an argument, and prints it (launcher/src/main.rs).
    return {"API_KEY": seat.key} if seat.key else {}


def _share(needs: TgiNeeds, seat: Seat) -> dict[str, str]:
    """Return the GPUs of the seat, as TGI is told of them.

    TGI's cache takes this fraction of a GPU, less the memory that anybody uses there
    (`get_cuda_free_memory` in server/text_generation_server/utils/import_utils.py).
    """
    if seat.gpus is None:  # nobody counts them, and TGI takes all that it sees
        return {"NUM_SHARD": "1"} if needs.gpu_counts == (1,) else {}
    count, fraction = len(seat.gpus.ids), seat.gpus.rounded
    return {"NUM_SHARD": str(count), "CUDA_MEMORY_FRACTION": str(fraction)}
