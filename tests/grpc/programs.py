"""The programs of `make test-grpc`, and the ways in which they learn the contract."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.needs import give_up

ROOT = Path(__file__).parents[2]
_BUILT = ROOT / "build" / "grpc"

PROTO = "inference_service/v1/model_service.proto"
DESCRIPTORS = str(ROOT / "inference_service" / "v1" / "descriptors.binpb")

# Of grpcurl; ghz has the same ways by other flags.
MODES = {
    "reflection": (),
    "proto": ("-import-path", str(ROOT / "protos"), "-proto", PROTO),
    "protoset": ("-protoset", DESCRIPTORS),
}


@dataclass(frozen=True)
class Ended:
    """What a program has left."""

    code: int | None
    out: str
    err: str


async def run(name: str, *arguments: str) -> Ended:
    """Run a program until its end."""
    program = _BUILT / name
    if not program.exists():
        give_up(f"{name} is not there: make test-grpc installs it")
    process = await asyncio.create_subprocess_exec(
        program, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    return Ended(process.returncode, out.decode(), err.decode())


async def grpcurl(
    mode: str, target: str, *arguments: str, data: str = "", flags: Sequence[str] = ()
) -> Ended:
    """Ask a service, or with `describe` and `list` the contract, as this mode knows it."""
    body = ("-d", data) if data else ()
    return await run("grpcurl", "-plaintext", *flags, *MODES[mode], *body, target, *arguments)
