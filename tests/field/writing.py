"""A service whose model `mine` is an engine that writes what a test wants."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

import httpx

from inference_service.v1 import model_service_pb2 as pb
from tests.field import writing_engine
from tests.service import Serving, free_ports, serving
from tests.waiting import SLOWLY, within


def entry(tmp_path: Path, writes: bytes, exits: str) -> Path:
    """Write a catalog whose model `mine` is the engine that writes these bytes."""
    (tmp_path / "writes").write_bytes(writes)
    program = json.dumps([sys.executable, "-P", writing_engine.__file__])
    env = {
        "HOST": "{host}",
        "PORT": "{port}",
        "NAME": "mine",
        "EXITS": exits,
        "WRITES": str(tmp_path / "writes"),
    }
    words = ", ".join(f"{name} = {json.dumps(value)}" for name, value in env.items())
    path = tmp_path / "catalog.toml"
    path.write_text(
        '[[models]]\nid = "mine"\nhf_name = "x"\ncontext_length = 512\n[models.openai]\n'
        f'command = {program}\nenv = {{ {words} }}\nmemory = "100MB"\n'
    )
    return path


@asynccontextmanager
async def writing(tmp_path: Path, writes: bytes, exits: str = "0") -> AsyncGenerator[Serving]:
    catalog = entry(tmp_path, writes, exits)
    async with serving(ports=free_ports(4), catalog=catalog) as service:
        yield service


async def start(service: Serving) -> None:
    async with within(SLOWLY, "the model did not start"):
        await service.stub.StartModel(pb.StartModelRequest(model_id="mine"))


async def write(service: Serving, data: bytes) -> None:
    """Have the engine write more, and return when that is done."""
    model = (await service.stub.GetModel(pb.GetModelRequest(model_id="mine"))).model
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.get(f"{model.instances[0].address}/write/{quote(data, safe='')}")
        assert answer.status_code == 200
