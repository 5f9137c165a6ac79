"""REST does what its own description says, by all checks of schemathesis."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from inference_service.engines import kinds
from inference_service.engines.llamacpp.section import LlamacppNeeds
from tests.needs import give_up
from tests.service import Serving, free_ports, serving

PROGRAM = Path(__file__).parents[2] / "build" / "schemathesis" / "bin" / "schemathesis"
SECONDS = 600
CONTEXT = 512  # tokens


def write_catalog(path: Path) -> None:
    """Give the weights of story-mini to each model, since a model without a network cannot start.

    A server error is a mistake to schemathesis, whatever its cause.
    """
    weights = kinds.catalog().find("story-mini").needs(LlamacppNeeds).weights.path
    entries = [
        f'[[models]]\nid = "{spec.id}"\nhf_name = "{spec.hf_name}"\ncontext_length = {CONTEXT}\n'
        f'[models.llamacpp]\nmemory = "256MiB"\nweights.path = "{weights}"\n'
        for spec in kinds.catalog()
    ]
    path.write_text("".join(entries))


async def write_description(service: Serving, path: Path) -> None:
    """Write the description, with the bound that it cannot know: the context of the models here."""
    description = (await service.http.get("/openapi.json")).json()
    for route in ("/generate", "/generate_stream"):
        operation = description["paths"][route]["post"]
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        schema["properties"]["max_new_tokens"]["maximum"] = CONTEXT
    path.write_text(json.dumps(description))


@pytest.mark.schemathesis
@pytest.mark.timeout(SECONDS)
async def test_every_answer_is_as_described(tmp_path: Path) -> None:
    if not PROGRAM.exists():
        give_up("`make test-schema` installs schemathesis")
    write_catalog(tmp_path / "catalog.toml")
    async with serving(catalog=tmp_path / "catalog.toml", ports=free_ports(10)) as service:
        await write_description(service, tmp_path / "openapi.json")
        run = await asyncio.create_subprocess_exec(
            *(PROGRAM, "run", tmp_path / "openapi.json", "--url", str(service.service.rest_url)),
            *("--checks", "all", "--seed", "1", "--max-examples", "50", "--no-color"),
            *("--exclude-path", "/models:watch"),  # it has no end
            *("--exclude-path", "/detokenize"),  # which tokens there are is the model's affair
            *("--request-timeout", "60"),
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            out, _ = await run.communicate()
        finally:
            if run.returncode is None:
                run.kill()
                await run.wait()

    print(out.decode())
    assert run.returncode == 0
