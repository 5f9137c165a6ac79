"""Tests of the systems in front of the engine: they relay, or say what is missing."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import proxies, systems
from benchmarks.load import Work, ask
from benchmarks.rounds import BURST, PACED, UNARY
from benchmarks.systems import Running, System

FEW = replace(BURST, callers=3, tokens=20)
SLOW = replace(PACED, callers=2, tokens=6, pace=10)


@contextmanager
def one(engine: Running, name: str) -> Iterator[Running]:
    """Run a system in front of the engine."""
    [system] = [each for each in (*proxies.chat(), *proxies.typed()) if each.name == name]
    with systems.running(engine.port, [system]) as (found, absent):
        assert not absent
        yield found[name]


@pytest.mark.parametrize("work", [UNARY, FEW, SLOW], ids=lambda work: work.name)
@pytest.mark.parametrize("name", ["splice", "chat"])
def test_a_chat_passes(engine: Running, name: str, work: Work) -> None:
    with one(engine, name) as running:
        reading = ask(running, work, 6)

    assert (reading.requests, reading.tokens) == (6, 6 * work.tokens)


@pytest.mark.parametrize("work", [FEW, SLOW], ids=lambda work: work.name)
def test_a_typed_stream_passes_the_floor(engine: Running, work: Work) -> None:
    with one(engine, "grpc-floor") as running:
        reading = ask(running, work, 6)

    assert (reading.requests, reading.tokens) == (6, 6 * work.tokens)
    assert reading.messages >= reading.tokens, "one message for each token, and a summary"


def test_the_splice_looks_at_the_model_and_keeps_the_connection(engine: Running) -> None:
    with one(engine, "splice") as running:
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=10)
        statuses = []
        for model in ("other", "bench"):
            connection.request("POST", "/v1/chat/completions", json.dumps({"model": model}))
            response = connection.getresponse()
            response.read()
            statuses.append(response.status)
        connection.close()

    assert statuses == [404, 200]


def test_the_splice_closes_the_connection_of_a_client_that_leaves(engine: Running) -> None:
    body = json.dumps({"model": "bench", "prompt": "pace=1", "max_tokens": 100_000, "stream": True})
    with one(engine, "splice") as running:
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=10)
        connection.request("POST", "/v1/chat/completions", body)
        connection.getresponse().read(100)
        connection.close()

        assert ask(running, UNARY, 3).requests == 3


@pytest.mark.parametrize("name", ["vllm-router", "sglang-router", "splice-uvloop"])
def test_a_peer_that_is_not_installed_is_absent(
    engine: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(proxies, "BUILD", tmp_path)
    monkeypatch.setattr(proxies, "UVLOOP", tmp_path)
    [system] = [each for each in proxies.chat() if each.name == name]

    with systems.running(engine.port, [system]) as (found, absent):
        assert not found
        assert absent[name].endswith("could not be installed; `make bench` says why")
    assert not system.version


def test_a_system_is_measured_when_it_says_that_it_is_ready(engine: Running) -> None:
    program = [str(systems.BUILD / "engine")]
    ready = System("twin", "chat", "", lambda port, *_: [*program, str(port)], ready="/v1/models")

    with systems.running(engine.port, [ready]) as (found, _):
        assert ask(found["twin"], UNARY, 2).requests == 2


def test_a_system_that_is_never_ready_is_absent(
    engine: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systems, "_START_PATIENCE", 0.5)
    program = [str(systems.BUILD / "engine")]
    no_path = "a path with spaces"
    system = System("twin", "chat", "", lambda port, *_: [*program, str(port)], ready=no_path)

    with systems.running(engine.port, [system]) as (_, absent):
        assert absent["twin"].startswith("twin does not come up")
