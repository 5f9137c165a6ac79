"""The real ghz, which knows the contract by reflection."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.grpc.programs import DESCRIPTORS, run
from tests.service import PROMPT, free_ports, serving

pytestmark = pytest.mark.grpc

BODY = json.dumps({"model_id": "story-mini", "prompt": PROMPT, "max_new_tokens": 4})


async def measured(target: str, method: str, *flags: str) -> dict[str, Any]:
    """Return the report of 40 calls, 8 at once."""
    call = ("--call", f"inference_service.v1.ModelService.{method}")
    how = ("--insecure", "-n", "40", "-c", "8", "-d", BODY, "-O", "json")
    ended = await run("ghz", *how, *call, *flags, target)
    assert ended.code == 0, ended.err
    report: dict[str, Any] = json.loads(ended.out)
    return report


@pytest.mark.parametrize("method", ["Generate", "GenerateStream"])
@pytest.mark.parametrize(
    "flags",
    [pytest.param((), id="reflection"), pytest.param(("--protoset", DESCRIPTORS), id="set")],
)
async def test_every_call_succeeds(method: str, flags: tuple[str, ...]) -> None:
    async with serving(ports=free_ports(4)) as service:
        report = await measured(service.service.target, method, *flags)

    assert report["count"] == 40
    assert report["statusCodeDistribution"] == {"OK": 40}
