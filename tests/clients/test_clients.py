"""Clients of other people, unchanged, before a service as an operator runs it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from inference_service.engines import kinds
from inference_service.engines.llamacpp.section import LlamacppNeeds
from tests.clients.cold import cold
from tests.clients.programs import PROGRAMS, Program
from tests.clients.running import CHAT, EMBEDDER, Served, run
from tests.command import command
from tests.service import free_ports

SECONDS = 100  # for a program; the largest take 10 s on a busy machine, for their imports alone

# By client; a fault that is mended fails its test, until it is taken from here.
FAULTS: dict[str, str] = {}

CATALOG = """
[[models]]
id = "{chat}"
hf_name = "org/chat"
context_length = 512
[models.llamacpp]
memory = "256MiB"
weights.path = "{path}"
chat_template = "{template}"

[[models]]
id = "{embedder}"
hf_name = "org/embedder"
context_length = 512
[models.llamacpp]
memory = "256MiB"
weights.path = "{path}"
serves = "embeddings"
pooling = "mean"
"""

pytestmark = [pytest.mark.clients, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Served]:
    """Run a service, and a server before it whose models always start."""
    path = kinds.catalog().find("story-mini").needs(LlamacppNeeds).weights.path
    template = Path(__file__).with_name("chat.jinja")
    catalog = tmp_path_factory.mktemp("catalog") / "catalog.toml"
    catalog.write_text(CATALOG.format(chat=CHAT, embedder=EMBEDDER, path=path, template=template))
    async with (
        command(catalog=catalog, runtime="process", ports=free_ports(8)) as service,
        cold(service.url) as cold_url,
    ):
        yield Served("llama.cpp", service.url, cold_url, SECONDS)


def marked(program: Program) -> Any:
    """Return a program as a parameter, with the fault that it meets."""
    fault = FAULTS.get(program.client)
    return pytest.param(program, marks=[pytest.mark.xfail(reason=fault)] if fault else [])


@pytest.mark.parametrize("program", [marked(each) for each in PROGRAMS], ids=str)
async def test_a_client(
    program: Program, served: Served, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    await run(program, served, tmp_path, pytestconfig)
