"""The origins whose pages may call this API."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rest_bridge.hosts import Authority
from rest_bridge.origins import allowed_origin, is_own

SERVED = Authority("localhost", 8000)


@given(st.text() | st.text().map("http://{}".format))
def test_no_text_makes_a_fault(text: str) -> None:
    assert isinstance(is_own(text, SERVED), bool)
    try:
        kept = allowed_origin(text)
    except ValueError as error:
        assert str(error)[0].islower()
    else:
        assert allowed_origin(kept) == kept


@pytest.mark.parametrize(
    "origin",
    [
        *("", "null", "localhost:8000", "http://", "http:///", "://localhost:8000"),
        *("http://localhost:8000/", "ftp://localhost:8000", "http://localhost:8000:8000"),
        *("http://localhost:8000, http://localhost:8000", "http://localhost:80000"),
    ],
)
def test_what_is_no_origin_is_not_the_own_one(origin: str) -> None:
    assert not is_own(origin, SERVED)
