"""Test of the gate: a change that makes each token dearer fails, without a clock."""

import shutil

import pytest

from benchmarks import gate


@pytest.fixture(scope="module")
def counted() -> dict[str, gate.Cost]:
    if shutil.which("valgrind") is None:
        pytest.skip("no valgrind (apt-get install valgrind)")
    if not gate.figures():
        pytest.skip(f"gate.toml has no figures for Python {gate.python()}")
    return gate.count()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("shape", gate.SHAPES)
def test_a_token_costs_as_much_as_the_file_has(counted: dict[str, gate.Cost], shape: str) -> None:
    known, cost = gate.figures()[shape], counted[shape]

    advice = "if that is meant, run `python -m benchmarks.gate --write`"
    assert cost.messages_per_1000_tokens == known.messages_per_1000_tokens, advice
    assert cost.instructions_per_token == pytest.approx(
        known.instructions_per_token, rel=gate.TOLERANCE
    ), advice
