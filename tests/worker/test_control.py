"""The control tokens that a worker reports."""

import struct
from pathlib import Path

import aiohttp
import pytest

from inference_service.worker.control import control_tokens

from .conftest import Start

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 1, 2, 3, 4, 5


@pytest.mark.parametrize(
    ("token", "kind", "found"),
    [
        ("<|im_start|>", CONTROL, True),
        ("[INST]", CONTROL, True),
        ("<|im_start|>", USER_DEFINED, True),
        ("<｜User｜>", USER_DEFINED, True),
        ("<think>", USER_DEFINED, False),
        ("<table>", USER_DEFINED, False),
        ("\n\n", USER_DEFINED, False),
        ("<|im_end|>", NORMAL, True),
        ("</s>", NORMAL, True),
        ("<|other|>", NORMAL, False),
        ("<unk>", UNKNOWN, False),
        ("<unused>", UNUSED, False),
        ("<", CONTROL, False),
    ],
)
def test_which_tokens_are_control_tokens(token: str, kind: int, found: bool) -> None:
    assert control_tokens([(token, kind)]) == ((token,) if found else ())


def test_many_that_differ_in_a_number_are_one() -> None:
    many = [(f"<|reserved_special_token_{n}|>", CONTROL) for n in range(250)]
    few = [(f"<|image_{n}|>", CONTROL) for n in range(3)]
    times = [(f"<|{n}.00|>", CONTROL) for n in range(20)]
    found = control_tokens([*many, *few, *times, ("<|eot_id|>", CONTROL)])
    assert found is not None
    assert set(found) > {"<|reserved_special_token_", "<|image_0|>", "<|eot_id|>", "<|7.00|>"}
    assert len(found) == 25


def test_a_list_too_long_for_the_log_is_none() -> None:
    assert control_tokens((f"<|{'x' * n}|>", CONTROL) for n in range(300)) is None


@pytest.mark.parametrize(
    ("kind", "parsed"), [(CONTROL, True), (USER_DEFINED, True), (NORMAL, False)]
)
async def test_llama_cpp_parses_those_that_are_reported(
    start: Start,
    http: aiohttp.ClientSession,
    tmp_path: Path,
    story: bytes,
    kind: int,
    parsed: bool,
) -> None:
    key = b"tokenizer.ggml.token_type"
    place = story.index(key) + len(key) + 16  # after the kind, that of its items, and their count
    types = list(struct.unpack_from("<4i", story, place))
    assert types == [CONTROL] * 4
    types[2] = kind
    file = tmp_path / "model.gguf"
    file.write_bytes(story[:place] + struct.pack("<4i", *types) + story[place + 16 :])
    worker = await start(LLAMACPP_FILE=str(file))
    url = await worker.url()
    assert ("<|user|>" in worker.events[-1]["control_tokens"]) == parsed
    counts = {}
    for text in ("ab", "a<|user|>b"):
        body = {"messages": [{"role": "user", "content": text}]}
        async with http.post(f"{url}/v1/messages/count_tokens", json=body) as response:
            counts[text] = (await response.json())["input_tokens"]
    assert (counts["a<|user|>b"] - counts["ab"] <= 2) == parsed
