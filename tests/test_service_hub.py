"""Documented models on the embedded engine, with weights from a hub of the test."""

from __future__ import annotations

from pathlib import Path

import pytest

from inference_service.v1 import model_service_pb2 as pb
from tests.doubles.hub import Hub
from tests.service import free_ports, serving

REPO, FILE = "QuantFactory/gpt2-GGUF", "gpt2.Q8_0.gguf"
WEIGHTS = Path(__file__).parents[1] / "inference_service" / "story_mini" / "story-mini.gguf"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    return tmp_path


async def test_the_download_of_gpt_2_is_reported(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Hub() as hub, serving(ports=free_ports(4)) as service:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.add(REPO, FILE, WEIGHTS.read_bytes())
        hub.bytes_per_second = 3_000_000
        request = pb.GenerateStreamRequest(
            model_id="gpt-2", prompt="Once upon a time", max_new_tokens=5, status_events=True
        )
        events = [event async for event in service.stub.GenerateStream(request)]

        reports = [e.status.start_progress for e in events if e.WhichOneof("event") == "status"]
        downloads = [
            p for p in reports if p.phase == pb.START_PHASE_DOWNLOADING_WEIGHTS and p.total_count
        ]
        assert downloads[-1].completed_count == downloads[-1].total_count == WEIGHTS.stat().st_size
        assert len({p.completed_count for p in downloads}) > 2
        assert [p.fraction for p in downloads] == sorted(p.fraction for p in downloads)
        assert downloads[0].unit == "bytes"
        assert events[-1].WhichOneof("event") == "summary"

        await service.http.post("/models/gpt-2/stop")
        await hub.refuse()
        again = await service.http.post("/generate", json={"model_id": "gpt-2", "prompt": "Once"})
        assert again.status_code == 200


async def test_the_error_of_a_gated_model_names_the_token(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo, file = "tensorblock/Llama-2-7b-chat-hf-GGUF", "Llama-2-7b-chat-hf-Q4_K_M.gguf"
    async with Hub() as hub, serving(ports=free_ports(4)) as service:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.add(repo, file, b"GGUF")
        hub.repositories[repo].gated = True

        answer = await service.http.post("/models/llama-2-7b/start")

    assert (answer.status_code, answer.headers["x-error-reason"]) == (503, "MODEL_UNUSABLE")
    assert "HF_TOKEN" in answer.json()["detail"]
    assert "llama-2-7b cannot be started (downloading weights): " in answer.json()["detail"]


async def test_the_error_of_a_hub_that_does_not_answer_names_its_address(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Hub() as hub, serving(ports=free_ports(4)) as service:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        await hub.refuse()

        answer = await service.http.post("/generate", json={"model_id": "phi-2", "prompt": "x"})

    assert (answer.status_code, answer.headers["x-error-reason"]) == (503, "START_FAILED")
    assert hub.url in answer.json()["detail"]
    assert "phi-2 exited with code 3 (downloading weights): " in answer.json()["detail"]


async def test_weights_that_were_damaged_in_the_download_are_not_used(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Hub() as hub, serving(ports=free_ports(4)) as service:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.add(REPO, FILE, WEIGHTS.read_bytes())
        hub.corrupt = True

        answer = await service.http.post("/models/gpt-2/start")

    assert answer.status_code == 503
    assert "SHA-256" in answer.json()["detail"]
    assert not [p for p in cache.rglob("*") if p.is_file() and p.stat().st_size > 10_000]
