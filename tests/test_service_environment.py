"""What stands in the environment and in the current folder by chance does not reach the worker."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.service import PROMPT, free_ports, serving

STRAY = {
    "LLAMACPP_FILE": "/no/such/file.gguf",
    "LLAMACPP_REPO": "no-such/repo",
    "LLAMACPP_SLOTS": "many",
    "LLAMACPP_API_KEY": "of somebody else",
    "LLAMACPP_PORT": "tcp://10.96.0.12:8000",  # as Kubernetes sets it for a service of that name
    "LLAMACPP_CHAT_TEMPLATE": "nonsense",
}


async def test_stray_variables_and_modules_do_not_reach_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "was-run"
    for module in ("tempfile", "json", "huggingface_hub", "xllamacpp"):
        (tmp_path / f"{module}.py").write_text(f"open({str(mark)!r}, 'w')\nraise SystemExit(9)\n")
    monkeypatch.chdir(tmp_path)
    for name, text in STRAY.items():
        monkeypatch.setenv(name, text)
    async with serving(ports=free_ports(4)) as service:
        body = {"model_id": "story-mini", "prompt": PROMPT, "max_new_tokens": 5}
        answer = await service.http.post("/generate", json=body)

    assert answer.status_code == 200, answer.text
    assert not mark.exists()
