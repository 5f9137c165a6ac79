"""The GPUs of this machine, and how far models may fill each.

The GPUs are those that `nvidia-smi` reports, in one call when the service starts. It comes with the
driver; a library would have to fit the driver. MIG slices are not seen, only their whole GPUs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

log = logging.getLogger(__name__)

_QUERY = ("nvidia-smi", "--query-gpu=uuid,memory.total", "--format=csv,noheader,nounits")
_TIMEOUT = 20.0  # seconds: without persistence mode the driver first wakes every GPU


class GpuError(Exception):
    """A setting `gpu_memory` that does not suit the GPUs of this machine."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU, by the `id` that Docker uses too. Models may fill it up to `limit_bytes`."""

    id: str
    memory_bytes: int
    limit_bytes: int


async def find(
    limits: Sequence[int] = (), timeout: float = _TIMEOUT, *, driver: bool = True
) -> tuple[Gpu, ...]:
    """Find the GPUs, in the driver's order; none where the driver does not answer.

    Without `driver` it is not asked, because the GPUs are those of another machine.

    `limits` are the sizes of the setting `gpu_memory`: one for all GPUs, or one for each. Where the
    driver does not answer, each size stands for a GPU of that size, with the ids 0, 1 and so on.
    `timeout` is in seconds. Raises GpuError where there are several sizes, but not one for each
    GPU.
    """
    answer = await _ask_driver(timeout) if driver else []
    found = answer or [(str(n), size) for n, size in enumerate(limits)]
    if len(limits) > 1 and len(limits) != len(found):
        raise GpuError(
            f"`gpu_memory` has {len(limits)} sizes, and the GPUs of this machine are {len(found)}; "
            "give one size for each, or one for all"
        )
    log.info(
        "GPUs: %s", ", ".join(f"{id} with {size / 1e9:.1f} GB" for id, size in found) or "none"
    )
    each = limits if len(limits) > 1 else [*limits] * len(found) or [size for _, size in found]
    return tuple(
        Gpu(id, size, min(size, limit)) for (id, size), limit in zip(found, each, strict=True)
    )


async def _ask_driver(timeout: float) -> list[tuple[str, int]]:
    """Ask `nvidia-smi` for the id and the bytes of each GPU."""
    try:
        process = await asyncio.create_subprocess_exec(
            *_QUERY,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
    except OSError:
        return []  # no driver
    try:
        async with asyncio.timeout(timeout):
            answer = (await process.communicate())[0].decode(errors="replace").strip()
    except TimeoutError:
        process.kill()
        await process.wait()
        log.warning("nvidia-smi has not answered within %g s: GPU memory is not counted", timeout)
        return []
    try:
        return [_gpu(line) for line in answer.splitlines()]
    except ValueError:
        log.warning(
            "nvidia-smi does not report the memory of GPUs, which is not counted: %s", answer
        )
        return []


def _gpu(line: str) -> tuple[str, int]:
    """Parse one line, such as `GPU-1f4c..., 24564`; the size is in MiB."""
    id, size = line.split(",")
    return id.strip(), int(size) * 2**20
