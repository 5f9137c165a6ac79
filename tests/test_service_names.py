"""A model by each of its names, on each RPC and path."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from urllib.parse import quote

import pytest

from inference_service.engines import kinds
from inference_service.engines.llamacpp.section import LlamacppNeeds
from inference_service.v1 import model_service_pb2 as pb
from tests.service import PROMPT, Serving, free_ports, serving

ALIAS, HF_NAME = "gpt-4o-mini:latest", "org/Mini-Story"
NAMES = ["mine", ALIAS, HF_NAME]


def write(path: Path, aliases: str) -> None:
    weights = kinds.catalog().find("story-mini").needs(LlamacppNeeds).weights.path
    path.write_text(
        f'[[models]]\nid = "mine"\nhf_name = "{HF_NAME}"\naliases = [{aliases}]\n'
        "context_length = 512\n[models.llamacpp]\n"
        f'memory = "256MiB"\nweights.path = "{weights}"\n'
    )


@pytest.fixture
async def service(tmp_path: Path) -> AsyncGenerator[Serving]:
    write(tmp_path / "catalog.toml", f'"{ALIAS}"')
    async with serving(catalog=tmp_path / "catalog.toml", ports=free_ports(4)) as service:
        yield service


@pytest.mark.parametrize("name", NAMES)
async def test_every_call_takes_every_name(service: Serving, name: str) -> None:
    stub = service.stub
    await stub.StartModel(pb.StartModelRequest(model_id=name))
    model = (await stub.GetModel(pb.GetModelRequest(model_id=name))).model
    assert (model.id, model.hf_name, list(model.aliases)) == ("mine", HF_NAME, [ALIAS])
    request = pb.GenerateRequest(model_id=name, prompt=PROMPT, max_new_tokens=3)
    assert (await stub.Generate(request)).model_id == "mine"
    streamed = pb.GenerateStreamRequest(model_id=name, prompt=PROMPT, max_new_tokens=3)
    events = [event async for event in stub.GenerateStream(streamed)]
    assert events[-1].summary.model_id == "mine"
    assert [line async for line in stub.StreamLogs(pb.StreamLogsRequest(model_id=name))]
    watch = stub.WatchModels(pb.WatchModelsRequest(model_id=name))
    assert [(await anext(aiter(watch))).model.id] == ["mine"]
    watch.cancel()

    path = f"/models/{quote(name)}"
    body = {"model_id": name, "prompt": PROMPT, "max_new_tokens": 3}
    assert (await service.http.post("/generate", json=body)).json()["model_id"] == "mine"
    assert (await service.http.get(path)).json()["id"] == "mine"
    assert (await service.http.get(f"{path}/logs")).text.startswith("data: ")
    assert (await service.http.post(f"{path}/stop")).status_code == 200
    assert (await service.http.post(f"{path}/start")).status_code == 200


async def test_a_reload_gives_a_running_model_another_name(
    service: Serving, tmp_path: Path
) -> None:
    await service.stub.StartModel(pb.StartModelRequest(model_id=ALIAS))
    write(tmp_path / "catalog.toml", '"other"')

    reloaded = await service.stub.ReloadCatalog(pb.ReloadCatalogRequest())

    assert list(reloaded.changed_model_ids) == ["mine"]
    assert (await service.stub.GetModel(pb.GetModelRequest(model_id="other"))).model.running
    assert (await service.http.get(f"/models/{ALIAS}")).status_code == 404
