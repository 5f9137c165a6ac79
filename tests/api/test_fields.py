"""The fields of a message, without the parser."""

from __future__ import annotations

from typing import Any

import pytest

from inference_service.api import fields
from inference_service.v1 import model_service_pb2 as pb


@pytest.mark.parametrize("count", [0, 1, 9, 10, 11, 1000])
def test_each_item_of_a_list_is_a_field(count: int) -> None:
    data = pb.GenerateRequest(stop=["", "x" * 200] * count).SerializeToString()

    assert fields.has_more(data, 20) is (2 * count > 20)


def test_every_kind_of_field_is_passed_over() -> None:
    request = pb.GenerateRequest(
        model_id="m" * 300, prompt="é", top_k=1000, seed=0, temperature=0.5
    )
    request.idle_timeout.seconds = 1
    data = request.SerializeToString()

    assert not fields.has_more(data, 6)
    assert fields.has_more(data, 5)
    assert not fields.has_more(b"\x0d0123" + data, 7)  # 32 bits


@pytest.mark.parametrize("data", [b"\x08", b"\x08\xff", b"\x0b\x0c", b"\xff" * 20])
def test_what_is_no_message_has_too_many(data: bytes) -> None:
    assert fields.has_more(data, 100)


def cut(message: Any, good: bytes, bad: bytes) -> bytes:
    data: bytes = message.SerializeToString()
    assert (data.count(good), len(good)) == (1, len(bad))
    return data.replace(good, bad)


REQUEST = pb.GenerateRequest(model_id="mine", prompt="llama abc", stop=["x", "yz"], seed=7)


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (cut(REQUEST, b"abc", b"\xed\xa0\xbe"), "prompt"),  # what grpc-js makes of a lone surrogate
        (cut(REQUEST, b"bc", b"\xf0\x9f"), "prompt"),
        (cut(REQUEST, b"yz", b"\xff\xff"), "stop[1]"),
        (cut(REQUEST, b"mine", b"\xc0\x80ab"), "model_id"),
        (REQUEST.SerializeToString(), None),
        (REQUEST.SerializeToString()[:-1], None),
        (b"\x0b\x0c", None),
    ],
)
def test_a_text_that_is_not_utf8_is_found(data: bytes, field: str | None) -> None:
    assert fields.malformed_text(data, pb.GenerateRequest.DESCRIPTOR) == field


def test_a_text_within_a_message_is_found() -> None:
    message = pb.ListModelsResponse(models=[pb.Model(id="a"), pb.Model(aliases=["x", "abc"])])
    data = cut(message, b"abc", b"\xed\xa0\xbe")

    found = fields.malformed_text(data, pb.ListModelsResponse.DESCRIPTOR)
    assert found == "models[1].aliases[1]"


def test_bytes_are_no_text() -> None:
    data = pb.ForwardRequest(path="/x", body=b"\xff").SerializeToString()

    assert fields.malformed_text(data, pb.ForwardRequest.DESCRIPTOR) is None


def test_only_the_first_fields_are_looked_at() -> None:
    data = cut(pb.GenerateRequest(stop=["a"] * 1001 + ["bcd"]), b"bcd", b"\xed\xa0\xbe")

    assert fields.malformed_text(data, pb.GenerateRequest.DESCRIPTOR) is None
