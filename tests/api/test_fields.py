"""The count of fields before a message is parsed."""

from __future__ import annotations

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
