"""What docs/engines.md says that real engines drop (`drops` of an entry), on the engines."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from inference_service.engines.openai.section import OpenaiNeeds
from inference_service.errors import InvalidParameter
from tests.engines.beds import Bed, posted
from tests.engines.real.beds import opened
from tests.sinks import Kept

CHAT = "/v1/chat/completions"
SCHEMA = {"type": "object", "properties": {"a": {"enum": [1]}}, "required": ["a"]}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
VALUES: dict[str, Any] = {
    "grammar": 'root ::= "yes"',
    "json_schema": SCHEMA,
    "n_predict": 2,
    "repeat_penalty": 2.0,
    "mirostat": 2,
    "typical_p": 0.1,
    "n": 2,
    "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}},
    "tool_choice": "required",
    "logprobs": True,
    "top_logprobs": 2,
}


@pytest.mark.engines
@pytest.mark.parametrize("name", ["vllm", "transformers"])
async def test_what_an_engine_drops(name: str, subtests: pytest.Subtests) -> None:
    """One that fails here is honoured by this version: take it off the list."""
    async with opened(name, "test_what_an_engine_drops") as bed:
        for option in bed.spec.needs(OpenaiNeeds).drops:
            with subtests.test(option):
                asked = {
                    "messages": [{"role": "user", "content": "Tell a story about a dog."}],
                    "temperature": 0,
                    "max_tokens": 12,
                    "model": bed.instance.model,
                    **({"tools": [TOOL]} if option == "tool_choice" else {}),
                }
                wanted = asked | {option: VALUES[option]}
                assert await choices(bed, wanted) == await choices(bed, asked)
                body = msgspec.json.decode(json.dumps(wanted), type=dict[str, msgspec.Raw])
                with pytest.raises(InvalidParameter):
                    bed.engine.check(bed.spec, CHAT, body)


async def choices(bed: Bed, body: dict[str, Any]) -> Any:
    sink = Kept()
    await bed.engine.ask(bed.instance, posted(CHAT, body), sink)
    assert sink.heads[0].status == 200, sink.body
    return json.loads(sink.body)["choices"]
