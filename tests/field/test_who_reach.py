"""The warning of a service that others on the network can reach."""

from __future__ import annotations

import asyncio
import sys

import pytest

from tests.waiting import SLOWLY, within


async def said(module: str, *flags: str) -> list[str]:
    """Start a program on free ports; return the lines on standard error at its start."""
    ports = ["--port=0"] if module == "rest_bridge" else ["--grpc-port=0", "--rest-port=0"]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *ports, *flags),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    lines: list[str] = []
    try:
        async with within(SLOWLY, "the program did not start"):
            while not any(mark in "".join(lines) for mark in ("documentation:", "running on")):
                line = (await process.stdout.readline()).decode()
                assert line, lines
                lines.append(line)
    finally:
        process.terminate()
        await process.communicate()
    return [line for line in lines if "warning" in line]


@pytest.mark.parametrize("module", ["inference_service", "rest_bridge"])
@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
async def test_a_service_for_the_network_warns_its_operator(module: str, host: str) -> None:
    [warning] = await said(module, f"--host={host}")

    program = module.replace("_", "-")
    faces = "gRPC and REST ask" if module == "inference_service" else "REST asks"
    assert warning == (
        f"{program}: warning: --host {host} lets everyone who reaches this machine over a network "
        f"start, stop and use models: {faces} for no password; listen on 127.0.0.1 behind a proxy "
        "that asks for one (docs/proxies.md), or keep strangers away by a firewall\n"
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_service_of_this_machine_alone_does_not_warn(host: str) -> None:
    assert await said("inference_service", f"--host={host}") == []
