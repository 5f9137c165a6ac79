"""Files that llama.cpp cannot load: the error of a caller names llama.cpp's own first reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.service import free_ports, serving
from tests.worker.gguf import UNKNOWN_ARCHITECTURE

STORY = Path(__file__).parents[1] / "inference_service" / "story_mini" / "story-mini.gguf"


def changed(old: bytes, new: bytes) -> bytes:
    """Return the story model with other bytes in one place of its metadata."""
    content = STORY.read_bytes()
    assert (content.count(old), len(old)) == (1, len(new))
    return content.replace(old, new)


LAYERS = b"llama.block_count\4\0\0\0"


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        pytest.param(
            STORY.read_bytes()[: STORY.stat().st_size // 2],
            "llama.cpp could not load {file}: error loading model: tensor 'blk.2.ffn_gate.weight' "
            "data is not within the file bounds, model is corrupted or incomplete.",
            id="a file that was cut off",
        ),
        pytest.param(
            changed(b"model\b\0\0\0\4\0\0\0\0\0\0\0gpt2", b"model\b\0\0\0\4\0\0\0\0\0\0\0gp~2"),
            "llama.cpp could not load {file}: error loading model: error loading model vocabulary: "
            "unknown tokenizer: 'gp~2'.",
            id="a damaged file",
        ),
        pytest.param(
            UNKNOWN_ARCHITECTURE,
            "llama.cpp could not load {file}: error loading model: unknown model architecture: "
            "'martian'.",
            id="an unknown architecture",
        ),
        pytest.param(b"<html>Sign in</html>", "{file} is not a GGUF file.", id="a web page"),
        pytest.param(
            changed(LAYERS + b"\6\0", LAYERS + b"\xe8\3"),
            "GGML_ASSERT(hparams.n_layer_all > 0 && hparams.n_layer_all <= LLAMA_MAX_LAYERS) "
            "failed",
            id="an abort",
        ),
    ],
)
async def test_a_caller_gets_the_first_reason_of_llamacpp(
    tmp_path: Path, content: bytes, cause: str
) -> None:
    file = tmp_path / "bad.gguf"
    file.write_bytes(content)
    catalog = tmp_path / "models.toml"
    catalog.write_text(
        '[[models]]\nid = "bad"\nhf_name = "x"\ncontext_length = 512\n'
        f'[models.llamacpp]\nmemory = "256MiB"\nweights = {{ path = "{file}" }}\n'
    )
    async with serving(ports=free_ports(2), catalog=catalog) as service:
        answer = await service.http.post("/models/bad/start")

    assert (answer.status_code, answer.headers["x-error-reason"]) == (503, "START_FAILED")
    assert answer.json()["detail"].endswith(cause.format(file=file))
