"""The environment and the current folder, as they are by chance."""

from __future__ import annotations

import shutil
from pathlib import Path

import httpx
import pytest

from tests.command import command
from tests.service import PROMPT, free_ports, serving

STORY = Path(__file__).parents[1] / "inference_service" / "story_mini" / "story-mini.gguf"

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


async def test_a_path_that_the_locale_cannot_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "b\u00fccher \u65e5"
    folder.mkdir()
    shutil.copy(STORY, folder / "m\u00e4rchen.gguf")
    entry = '[[models]]\nid = "mine"\n[models.llamacpp]\nweights.path = "m\u00e4rchen.gguf"\n'
    (folder / "models.toml").write_text(entry, encoding="utf-8")
    for name, text in (("LC_ALL", "POSIX"), ("PYTHONUTF8", "0"), ("PYTHONCOERCECLOCALE", "0")):
        monkeypatch.setenv(name, text)
    catalog = folder / "models.toml"
    async with (
        command(runtime="process", ports=free_ports(4), catalog=catalog) as service,
        httpx.AsyncClient(base_url=service.url, timeout=60, trust_env=False) as http,
    ):
        body = {"model_id": "mine", "prompt": PROMPT, "max_new_tokens": 5}
        answer = await http.post("/generate", json=body)

    assert answer.status_code == 200, answer.text
