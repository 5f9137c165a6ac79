"""What a token costs between the engine's bytes and the client's, in instructions, without a clock.

`python -m benchmarks.gate` counts with Valgrind and compares with gate.toml; with `--write` it
writes that file anew. The path is the real one, from the bytes of an engine's answer through
`engines/tgi/engine.py`, the message of the proto and its serialization to the bridge's event. The
code of others is left out: the loop, the sockets, llhttp and gRPC.
"""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from inference_service.api import replies
from inference_service.catalog import ModelSpec
from inference_service.engines import kinds, sse
from inference_service.engines.base import Prompt
from inference_service.engines.http import Connections
from inference_service.engines.tgi.engine import Tgi
from inference_service.runtimes.base import Instance
from inference_service.v1 import model_service_pb2 as pb
from rest_bridge.sse import event

FIGURES = Path(__file__).with_name("gate.toml")
TOLERANCE = 0.05  # of the instructions; two counts of the same code differ by a thousandth of that

SHAPES = {"one_by_one": 1, "fifty_at_once": 50}  # tokens that have come when the service looks

_TOKENS = 1000  # of one text
_TEXTS = 5


class Cost(msgspec.Struct, frozen=True):
    """What a text costs, streamed."""

    instructions_per_token: float
    messages_per_1000_tokens: float


def python() -> str:
    """The version for which figures hold: instructions differ from one to the next."""
    return ".".join(platform.python_version_tuple()[:2])


def figures() -> dict[str, Cost]:
    """The figures of gate.toml for this Python, by shape; empty when it has none."""
    known: dict[str, Any] = tomllib.loads(FIGURES.read_text())
    return msgspec.convert(known.get(f"python-{python()}", {}), dict[str, Cost])


def count() -> dict[str, Cost]:
    """Count each shape, as the difference to a shorter run. Takes half a minute."""
    short = dict.fromkeys(SHAPES, 1)
    runs = [short, *(short | {shape: 1 + _TEXTS} for shape in SHAPES)]
    with ThreadPoolExecutor() as threads:
        (start, messages), *longer = threads.map(_counted, runs)
    return {
        shape: Cost(round((more - start) / (_TEXTS * _TOKENS)), messages[shape] * 1000 / _TOKENS)
        for shape, (more, _) in zip(SHAPES, longer, strict=True)
    }


def _counted(texts: dict[str, int]) -> tuple[int, dict[str, int]]:
    """The instructions of a process that makes so many texts, and the messages of one of each."""
    valgrind = shutil.which("valgrind")
    assert valgrind is not None, "whoever calls this has looked"
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out")
        # Callgrind counts the same, and takes twice as long to say where.
        tool = ["--tool=cachegrind", "--cache-sim=no", f"--cachegrind-out-file={out}"]
        make = ["-m", "benchmarks.gate", "--make", msgspec.json.encode(texts).decode()]
        done = subprocess.run(
            [valgrind, *tool, sys.executable, *make],
            env={**os.environ, "PYTHONHASHSEED": "0"},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=True,
        )
        summary = out.read_text().rpartition("summary:")[2]
    return int(summary), msgspec.json.decode(done.stdout, type=dict[str, int])


async def _make(texts: dict[str, int]) -> dict[str, int]:
    """Make the texts; returns the messages of the last one of each shape."""
    # Once: to read the catalog costs as much as some thousand tokens.
    engine, spec = Tgi(""), next(iter(kinds.catalog()))
    messages = {}
    try:
        for shape, number in texts.items():
            for _ in range(number):
                messages[shape] = await _text(engine, spec, SHAPES[shape])
    finally:
        await engine.aclose()
    return messages


async def _text(engine: Tgi, spec: ModelSpec, together: int) -> int:
    """Stream one text as the servicer and the bridge do; returns its messages."""
    blocks = _blocks(together)

    async def post(
        connections: Connections, instance: Instance, path: str, body: Any
    ) -> AsyncGenerator[bytes]:
        parser = sse.EventParser()
        for block in blocks:
            if lines := parser.feed(block):
                yield lines

    sse.post = post
    messages = 0
    async for chunk in engine.generate(Instance("", ""), spec, Prompt("Once upon a time", _TOKENS)):
        if chunk.text:
            wire = replies.chunk(chunk).SerializeToString()
            event(pb.GenerateStreamResponse.FromString(wire))
            messages += 1
    return messages


def _blocks(together: int) -> list[bytes]:
    """The events of a text as TGI writes them, so many in each read."""
    events = [
        b'data: {"index":%d,"token":{"id":%d,"text":" word","logprob":-0.5,"special":false},'
        b'"generated_text":null,"details":null}\n\n' % (number, number)
        for number in range(1, _TOKENS)
    ]
    events.append(
        b'data: {"index":1000,"token":{"id":2,"text":" end","logprob":-0.5,"special":false},'
        b'"generated_text":"","details":{"finish_reason":"length","generated_tokens":%d,'
        b'"seed":null,"input_length":4}}\n\n' % _TOKENS
    )
    return [b"".join(events[i : i + together]) for i in range(0, _TOKENS, together)]


def main(arguments: list[str]) -> None:
    """Count and compare, write, or (`--make`) be what is counted."""
    if arguments[:1] == ["--make"]:
        texts = msgspec.json.decode(arguments[1], type=dict[str, int])
        print(msgspec.json.encode(asyncio.run(_make(texts))).decode())
        return
    if shutil.which("valgrind") is None:
        sys.exit("valgrind is not installed: apt-get install valgrind")
    costs, known = count(), figures()
    for shape, cost in costs.items():
        print(f"{shape}: {cost}; gate.toml: {known.get(shape)}")
    if arguments == ["--write"]:
        _write(costs)


def _write(costs: dict[str, Cost]) -> None:
    """Put the figures of this Python in place of those that the file has."""
    tables: dict[str, Any] = tomllib.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    tables[f"python-{python()}"] = msgspec.to_builtins(costs)
    lines = ["# What a token costs; `python -m benchmarks.gate --write` writes it."]
    for version in sorted(tables):
        for shape, cost in tables[version].items():
            lines += ["", f'["{version}".{shape}]', *(f"{k} = {v:.0f}" for k, v in cost.items())]
    FIGURES.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
