"""An engine that sends what no engine should, in another way each time."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.attack.conftest import Attacked
from tests.attack.target import Target
from tests.field import hostile_engine
from tests.field.hostile_engine import FAULTS

pytestmark = pytest.mark.attack

# A request can come while the engine is being replaced.
_FITTING = {"ENGINE_FAILED", "ENGINE_DIED", "GENERATION_TIMEOUT", "ENGINE_OVERLOADED"}


async def test_an_engine_that_breaks_the_rules(attack: Attacked, tmp_path: Path) -> None:
    program = json.dumps([sys.executable, "-P", hostile_engine.__file__])
    env = {"HOST": "{host}", "PORT": "{port}", "NAME": "mine", "PROBE": str(tmp_path / "probe")}
    words = ", ".join(f"{name} = {json.dumps(value)}" for name, value in env.items())
    entry = (
        '[[models]]\nid = "mine"\nhf_name = "x"\ncontext_length = 512\n'
        f'[models.openai]\nslots = 16\ncommand = {program}\nenv = {{ {words} }}\nmemory = "100MB"\n'
    )
    await attack(
        "an engine that breaks the rules", _ask, workers=8, more=entry, generation_timeout=3
    )


async def _ask(target: Target, dice: random.Random) -> None:
    name = dice.choice([*FAULTS])
    target.row.tried[name] += 1
    body: dict[str, Any] = {"model_id": "mine", "prompt": name, "max_new_tokens": 20}
    path = dice.choice(["/generate", "/generate_stream"])
    async with httpx.AsyncClient(base_url=target.command.url, timeout=60, trust_env=False) as http:
        answer = await http.post(path, json=body)
    if answer.status_code != 200:
        reasons = [answer.headers.get("x-error-reason", "no reason")]
    else:
        events = [line for line in answer.text.splitlines() if line.startswith("data: ")]
        reasons = [json.loads(events[-1][6:]).get("reason", "a text")] if events else ["a text"]
    for reason in reasons:
        if reason not in _FITTING:
            target.found(f"{name} at {path}: {reason} {answer.text[:200]!r}")
