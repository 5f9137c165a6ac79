"""A worker that serves vectors or scores, and no text."""

import base64
import math
import struct
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from .bert import WIDTH, bert
from .conftest import Start

EMBEDDINGS = {"LLAMACPP_SERVES": "embeddings", "LLAMACPP_POOLING": "mean"}
STORY_WIDTH = 192


async def post(http: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> tuple[int, Any]:
    async with http.post(url, json=body) as response:
        return response.status, await response.json()


async def vectors(http: aiohttp.ClientSession, url: str, given: Any) -> list[list[float]]:
    """Return the vectors of these inputs, in the order of their indices."""
    status, answer = await post(http, f"{url}/v1/embeddings", {"input": given})
    assert status == 200, answer
    data = answer["data"]
    assert [item["index"] for item in data] == list(range(len(data)))
    return [item["embedding"] for item in data]


def cosine(a: list[float], b: list[float]) -> float:
    product = sum(x * y for x, y in zip(a, b, strict=True))
    return product / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def saved(tmp_path: Path, content: bytes) -> str:
    file = tmp_path / "model.gguf"
    file.write_bytes(content)
    return str(file)


async def test_sentences_that_are_alike_have_vectors_that_are_near(
    start: Start, http: aiohttp.ClientSession
) -> None:
    url = await (await start(**EMBEDDINGS)).url()
    clever, kind, sum_ = await vectors(
        http,
        url,
        [
            "Once upon a time, there was a clever dog named Tom.",
            "Once upon a time, there was a kind dog named Tom.",
            "What is 2 + 2?",
        ],
    )
    assert len(clever) == STORY_WIDTH
    assert math.isclose(sum(number * number for number in clever), 1, rel_tol=1e-5)
    assert cosine(clever, kind) > 0.99  # 0.9999
    assert cosine(clever, sum_) < 0.5  # 0.15


async def test_the_forms_of_an_input_and_of_a_vector(
    start: Start, http: aiohttp.ClientSession
) -> None:
    url = await (await start(**EMBEDDINGS)).url()
    [vector] = await vectors(http, url, "a cat")
    _, answer = await post(http, f"{url}/tokenize", {"content": "a cat", "add_special": True})
    tokens = answer["tokens"]
    for given in (tokens, [tokens]):
        assert await vectors(http, url, given) == [pytest.approx(vector, abs=1e-6)]
    body = {"input": "a cat", "encoding_format": "base64"}
    _, answer = await post(http, f"{url}/v1/embeddings", body)
    data = base64.b64decode(answer["data"][0]["embedding"])
    assert struct.unpack(f"<{STORY_WIDTH}f", data) == pytest.approx(vector, abs=1e-6)


async def test_many_inputs_come_in_their_order(start: Start, http: aiohttp.ClientSession) -> None:
    url = await (await start(**EMBEDDINGS)).url()
    many = await vectors(http, url, [f"Once upon a time {n}" for n in range(1000)])
    assert len(many) == 1000
    [last] = await vectors(http, url, "Once upon a time 999")
    assert cosine(many[-1], last) > 0.9999
    assert cosine(many[0], last) < 0.9999


@pytest.mark.parametrize("context", [512, 100])
async def test_an_input_may_fill_the_context_and_is_never_cut(
    start: Start, http: aiohttp.ClientSession, context: int
) -> None:
    url = await (await start(**EMBEDDINGS, LLAMACPP_CONTEXT=str(context))).url()
    body: dict[str, Any] = {"input": [5] * context}
    status, answer = await post(http, f"{url}/v1/embeddings", body)
    assert (status, answer["usage"]["prompt_tokens"]) == (200, context)
    status, answer = await post(http, f"{url}/v1/embeddings", {"input": [5] * 513})
    assert "513 tokens" in answer["error"]["message"]
    assert status in (400, 500)


async def test_an_encoder_names_its_pooling(
    start: Start, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    file = saved(tmp_path, bert("cls"))
    url = await (await start(LLAMACPP_FILE=file, LLAMACPP_SERVES="embeddings")).url()
    [cat, same, _] = await vectors(http, url, ["a cat", "a cat", "market"])
    assert len(cat) == WIDTH
    assert cosine(cat, same) > 0.9999


async def test_documents_are_ranked(
    start: Start, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    file = saved(tmp_path, bert(None, head=True))
    url = await (await start(LLAMACPP_FILE=file, LLAMACPP_SERVES="rerank")).url()
    body = {"query": "cat", "documents": ["a cat sat", "the dog", "a cat"]}
    status, answer = await post(http, f"{url}/v1/rerank", body)
    assert status == 200
    results = answer["results"]
    assert {result["index"] for result in results} == {0, 1, 2}
    scores = [result["relevance_score"] for result in results]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == 3
    status, answer = await post(http, f"{url}/v1/rerank", body | {"top_n": 1})
    assert answer["results"] == results[:1]


@pytest.mark.parametrize(
    ("content", "serves", "words"),
    [
        (None, "embeddings", "names no pooling for embeddings: set LLAMACPP_POOLING"),
        (bert(None), "embeddings", "names no pooling for embeddings: set LLAMACPP_POOLING"),
        (None, "rerank", "cannot rerank: it has no tensors `cls.*`"),
        (bert(), "rerank", "cannot rerank: it has no tensors `cls.*`"),
        (bert(), "text", "makes no text: set LLAMACPP_SERVES"),
    ],
)
async def test_a_model_that_cannot_do_it_is_refused(
    start: Start, tmp_path: Path, content: bytes | None, serves: str, words: str
) -> None:
    file = {} if content is None else {"LLAMACPP_FILE": saved(tmp_path, content)}
    worker = await start(LLAMACPP_SERVES=serves, **file)
    failed = await worker.until("failed")
    assert failed["reason"] == "MODEL_UNUSABLE"
    assert words in str(failed["message"])
    assert await worker.exit() == 4
