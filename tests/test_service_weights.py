"""Files that llama.cpp cannot load: the error of a caller names llama.cpp's own first reason."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from inference_service.v1 import model_service_pb2 as pb
from tests.doubles.hub import Hub
from tests.service import failure, free_ports, serving
from tests.waiting import SLOWLY, within
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
    async with serving(ports=free_ports(2), catalog=catalog(tmp_path, file)) as service:
        answer = await service.http.post("/models/bad/start")

    assert (answer.status_code, answer.headers["x-error-reason"]) == (503, "MODEL_UNUSABLE")
    assert answer.headers["x-should-retry"] == "false"
    assert answer.json()["detail"].endswith(cause.format(file=file))


def catalog(folder: Path, file: Path) -> Path:
    path = folder / "models.toml"
    path.write_text(
        '[[models]]\nid = "bad"\nhf_name = "x"\ncontext_length = 512\n'
        f'[models.llamacpp]\nmemory = "256MiB"\nweights = {{ path = "{file}" }}\n'
    )
    return path


async def test_a_start_that_asks_a_silent_hub_is_in_the_phase_of_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "models.toml"
    path.write_text(
        '[[models]]\nid = "m"\nhf_name = "x"\ncontext_length = 512\n[models.llamacpp]\n'
        'memory = "256MiB"\nweights = { repo = "a/b", file = "m.gguf" }\n'
    )
    async with Hub() as hub:
        hub.add("a/b", "m.gguf", STORY.read_bytes())
        hub.silent = True
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
        async with serving(ports=free_ports(2), catalog=path) as service:
            await service.stub.StartModel(pb.StartModelRequest(model_id="m", no_wait=True))
            watch = service.stub.WatchModels(pb.WatchModelsRequest(model_id="m"))
            async with within(SLOWLY, "the start did not come to its weights"):
                async for event in watch:
                    progress = event.model.start_progress
                    if progress.phase == pb.START_PHASE_DOWNLOADING_WEIGHTS:
                        break
            watch.cancel()
            asked = progress.message
            hub.release()
            await service.stub.StartModel(pb.StartModelRequest(model_id="m"))

    assert asked == "asking the hub for m.gguf"


async def test_an_entry_of_an_id_and_a_file_makes_text(tmp_path: Path) -> None:
    (tmp_path / "mine.gguf").write_bytes(STORY.read_bytes())
    path = tmp_path / "models.toml"
    path.write_text('[[models]]\nid = "mine"\nllamacpp.weights.path = "mine.gguf"\n')
    async with serving(ports=free_ports(2), catalog=path) as service:
        request = pb.GenerateRequest(model_id="mine", prompt="Once", max_new_tokens=3)
        answer = await service.stub.Generate(request)
        shown = (await service.stub.GetModel(pb.GetModelRequest(model_id="mine"))).model

    assert answer.summary.completion_token_count == 3
    assert (shown.hf_name, shown.context_length) == ("mine", 512)


async def test_a_file_that_is_gone_is_no_reason_to_retry(tmp_path: Path) -> None:
    """Each call gets the same reason, until somebody has mended the cause and stops the model."""
    file = tmp_path / "bad.gguf"
    file.write_bytes(b"GGUF")
    request = pb.GenerateRequest(model_id="bad", prompt="Once", max_new_tokens=3)
    async with serving(ports=free_ports(2), catalog=catalog(tmp_path, file)) as service:
        file.unlink()
        for _ in range(3):
            for call in (
                service.stub.Generate(request),
                service.stub.StartModel(pb.StartModelRequest(model_id="bad")),
                anext(aiter(service.stub.GenerateStream(streamed(request)))),
            ):
                with pytest.raises(grpc.aio.AioRpcError) as error:
                    await call
                failed = failure(error.value)
                assert failed.code is grpc.StatusCode.FAILED_PRECONDITION
                assert failed.reason == "MODEL_UNUSABLE"
                assert f"{file} cannot be read: No such file or directory." in failed.message
                assert "RetryInfo" not in failed.details
        file.write_bytes(STORY.read_bytes())
        stop = await service.http.post("/models/bad/stop")
        assert (stop.status_code, stop.headers["x-error-reason"]) == (404, "CONTAINER_NOT_RUNNING")
        assert (await service.stub.Generate(request)).summary.completion_token_count == 3


def streamed(request: pb.GenerateRequest) -> pb.GenerateStreamRequest:
    return pb.GenerateStreamRequest(model_id=request.model_id, prompt=request.prompt)


async def test_an_entry_that_names_tgi_is_not_run_by_another_engine(tmp_path: Path) -> None:
    path = tmp_path / "models.toml"
    path.write_text(
        '[[models]]\nid = "m"\nhf_name = "x"\ncontext_length = 512\nengine = "tgi"\n'
        '[models.tgi]\nmemory = "1GB"\nweights = { repo = "a/b" }\n'
        f'[models.llamacpp]\nmemory = "256MiB"\nweights = {{ path = "{STORY}" }}\n'
    )
    async with serving(ports=free_ports(2), catalog=path) as service:
        answer = await service.http.post("/models/m/start")

    assert (answer.status_code, answer.headers["x-error-reason"]) == (503, "MODEL_UNUSABLE")
    assert "runs in a container only, by the engine that its entry has or names" in answer.text
