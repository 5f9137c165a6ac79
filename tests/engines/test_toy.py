"""A kind of engine that the service does not know: a line in the table is all that it takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from inference_service.engines.kinds import KINDS, Kind
from inference_service.errors import CatalogInvalid
from inference_service.v1 import model_service_pb2 as pb
from tests.engines import toy
from tests.service import free_ports, serving

ENTRY = """
[[models]]
id = "parrot"
hf_name = "parrot"
context_length = 64
[models.toy]
memory = "64MiB"
"""


@pytest.fixture(autouse=True)
def kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "toy", Kind(toy.ToyNeeds, toy.Toy))


async def test_a_new_kind_of_engine_serves(tmp_path: Path) -> None:
    path = tmp_path / "catalog.toml"
    path.write_text(ENTRY + 'words = ["polly", "wants"]')
    async with serving(catalog=path, ports=free_ports(2)) as service:
        request = pb.GenerateRequest(model_id="parrot", prompt="Hi", max_new_tokens=3)
        answer = await service.stub.Generate(request)
        stream = service.stub.GenerateStream(
            pb.GenerateStreamRequest(model_id="parrot", prompt="Hi", max_new_tokens=3)
        )
        chunks = [m.chunk.text async for m in stream if m.WhichOneof("event") == "chunk"]
        model = (await service.stub.GetModel(pb.GetModelRequest(model_id="parrot"))).model

        assert answer.generated_text == "Hi polly wants polly"
        assert "".join(chunks) == " polly wants polly"
        assert (model.engine, model.runtime, len(model.instances)) == ("toy", "process", 1)
        await service.stub.StopModel(pb.StopModelRequest(model_id="parrot"))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("", "key toy.words: is missing"),
        ('word = "x"', "key toy.word: is not known; known are memory, env, container, words"),
        ('words = ["x"]\n[models.toi]', "key toi: is not known; known are id, hf_name"),
    ],
)
async def test_a_mistake_in_the_section_of_a_kind_is_named(
    tmp_path: Path, lines: str, message: str
) -> None:
    path = tmp_path / "catalog.toml"
    path.write_text(ENTRY + lines)
    with pytest.raises(CatalogInvalid) as refused:
        async with serving(catalog=path):
            pass
    assert message in str(refused.value)
