"""What the library of Go does by itself: it retries, and checks health."""

from __future__ import annotations

from pathlib import Path

import pytest

from inference_service.v1 import model_service_pb2 as pb
from tests.field.catalogs import UNREACHABLE
from tests.grpc.programs import ROOT, run
from tests.service import free_ports, serving

pytestmark = pytest.mark.grpc

CONFIG = str(ROOT / "protos/inference_service/v1/service_config.json")


@pytest.mark.parametrize("method", ["Generate", "GenerateStream"])
@pytest.mark.parametrize(
    ("model_id", "printed"), [("broken", "4 Unavailable"), ("nobody", "1 NotFound")]
)
async def test_go_tries_a_call_again_where_a_retry_helps(
    tmp_path: Path, method: str, model_id: str, printed: str
) -> None:
    catalog = tmp_path / "models.toml"
    catalog.write_text(UNREACHABLE)
    async with serving(catalog=catalog, ports=free_ports(4)) as service:
        ended = await run("client", service.service.target, "attempts", CONFIG, method, model_id)

    assert ended.out.strip() == printed, ended.err


async def test_go_starts_a_model_whose_own_health_it_checks() -> None:
    async with serving(ports=free_ports(4)) as service:
        for _ in range(2):
            ended = await run("client", service.service.target, "health", "story-mini")
            assert ended.out.startswith("Once upon a time"), ended.err
            await service.stub.StopModel(pb.StopModelRequest(model_id="story-mini"))
