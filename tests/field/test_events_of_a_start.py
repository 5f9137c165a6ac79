"""A start that a page follows: begun without a wait, looked at, and planned before."""

from __future__ import annotations

from pathlib import Path

from tests.field.writing import writing
from tests.service import free_ports, serving
from tests.waiting import SLOWLY, until, within


async def test_a_start_can_be_planned_begun_and_followed_by_rest_alone() -> None:
    async with serving(ports=free_ports(4)) as service:
        planned = await service.http.post("/models/story-mini/start?validate_only=true")
        before = await service.http.get("/models/story-mini")
        begun = await service.http.post("/models/story-mini/start?no_wait=true")
        async with within(SLOWLY, "the model did not start"):
            after = before.json()
            while not after["running"]:
                after = (await service.http.get("/models/story-mini")).json()

    assert planned.json()["message"] == "story-mini could be started"
    assert int(planned.json()["plan"]["required_memory_bytes"]) > 0
    assert before.json()["state"] == "MODEL_STATE_STOPPED"
    assert begun.json()["message"] == "Container for story-mini is being started"
    assert begun.json()["model"]["state"] == "MODEL_STATE_STARTING"
    assert "phase" in begun.json()["model"]["start_progress"]
    assert after["running"] is True
    assert after["port"] > 0


async def test_a_failed_start_is_explained_by_the_model(tmp_path: Path) -> None:
    async with writing(tmp_path, b"ValueError: no such layer\n", exits="1") as service:
        await service.http.post("/models/mine/start?no_wait=true")
        state = service.service.models.find("mine")
        await until(lambda: state.status.failure, "the start did not fail", SLOWLY)
        model = (await service.http.get("/models/mine")).json()

    assert model["state"] == "MODEL_STATE_FAILED"
    assert "ValueError: no such layer" in model["last_error"]["message"]
    assert model["last_error"]["reason"] == "ERROR_REASON_START_FAILED"
    assert model["retry_time"].startswith("20")
