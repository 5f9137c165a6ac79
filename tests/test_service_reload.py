"""ReloadCatalog over loopback, with story-mini in a real engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import inference_service
from inference_service.v1 import model_service_pb2 as pb
from tests.service import PROMPT, engines, failure, free_ports, serving
from tests.waiting import PROMPTLY, SLOWLY, within


async def test_a_reload_restarts_the_models_that_have_changed_after_their_drain(
    tmp_path: Path,
) -> None:
    path = tmp_path / "models.toml"
    weights = Path(inference_service.__file__).parent / "story_mini" / "story-mini.gguf"

    def write(*entries: tuple[str, str]) -> None:
        path.write_text(
            "".join(
                f'[[models]]\nid = "{model_id}"\nhf_name = "x"\ncontext_length = 512\n'
                f'[models.llamacpp]\nmemory = "{memory}"\nweights = {{ path = "{weights}" }}\n'
                "threads = 1\n"
                for model_id, memory in entries
            )
        )

    write(("one", "256MiB"), ("two", "256MiB"))
    async with serving(ports=free_ports(8), catalog=path) as service:
        reload = pb.ReloadCatalogRequest()
        for model_id in ("one", "two"):
            await service.stub.StartModel(pb.StartModelRequest(model_id=model_id))
        kept, changed = engines()
        request = pb.GenerateStreamRequest(model_id="two", prompt=PROMPT, max_new_tokens=300)
        stream = aiter(service.stub.GenerateStream(request))
        await anext(stream)

        write(("one", "256MiB"), ("two", "257MiB"), ("three", "256MiB"))
        answer = await service.stub.ReloadCatalog(reload)
        assert (list(answer.added_model_ids), list(answer.restarted_model_ids)) == (
            ["three"],
            ["two"],
        )
        assert [event async for event in stream][-1].WhichOneof("event") == "summary"
        await service.stub.StartModel(pb.StartModelRequest(model_id="two"))
        assert kept in engines()
        assert changed not in engines()

        path.write_text("[[models]]\nid = 7\n")
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await service.stub.ReloadCatalog(reload)
        assert failure(error.value).reason == "CATALOG_INVALID"
        assert failure(error.value).code is grpc.StatusCode.FAILED_PRECONDITION
        response = await service.http.post("/catalog:reload")
        assert response.status_code == 409
        assert "key hf_name: is missing" in response.json()["detail"]

        write(("one", "256MiB"))
        watcher = service.stub.WatchModels(pb.WatchModelsRequest())
        async with within(PROMPTLY, "the snapshot did not end"):
            async for change in watcher:
                if change.WhichOneof("event") == "snapshot_done":
                    break
        response = await service.http.post("/catalog:reload")
        assert response.json()["removed_model_ids"] == ["two", "three"]
        stub: Any = health_pb2_grpc.HealthStub(service.channel)
        with pytest.raises(grpc.aio.AioRpcError) as unknown:
            await stub.Check(health_pb2.HealthCheckRequest(service="three"))
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
        refused = await service.http.post("/models/two/start")
        assert refused.status_code == 404
        removed: set[str] = set()
        async with within(SLOWLY, "the watch did not show the removed models"):
            while removed != {"two", "three"}:
                change = await anext(aiter(watcher))
                removed |= {change.removed_model_id} - {""}
        watcher.cancel()
        assert engines() == [kept]
