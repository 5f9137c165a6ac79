"""The work that systems do, and the load generator `load.c` that asks for it."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from typing import Any

import msgspec

from benchmarks.systems import BUILD, Running, pinned
from inference_service.v1 import model_service_pb2 as pb

_SERVICE = "/inference_service.v1.ModelService"
_CONNECTIONS = 4  # of a gRPC load; HTTP/1.1 has one for each caller


class WrongAnswer(Exception):
    """A wrong answer of a system, which makes all its figures worthless."""


@dataclass(frozen=True, slots=True)
class Work:
    """A kind of work: `callers` at once ask for texts of `tokens`, whole or streamed.

    `pace` is the milliseconds between two tokens of a stream, 0 for none; the first `skip` tokens
    of a paced stream are not timed. `step` is the number of tokens in one write of the engine.
    """

    name: str
    callers: int
    tokens: int
    streamed: bool
    pace: int = 0
    step: int = 1
    skip: int = 0

    @property
    def prompt(self) -> str:
        """Prompt that sets how the engine writes."""
        return f"pace={self.pace} step={self.step}"


class Reading(msgspec.Struct, frozen=True):
    """The output of load.c; times in microseconds."""

    seconds: float
    requests: int
    tokens: int
    bytes: int
    messages: int
    request_p50_us: int
    request_p99_us: int
    token_p50_us: int
    token_p99_us: int


def ask(running: Running, work: Work, requests: int) -> Reading:
    """Ask a system for the work, `requests` times. Raises WrongAnswer."""
    protocol, path, body, ending = _FACES[running.system.face](work)
    file = BUILD / "body"
    file.write_bytes(body)
    numbers = map(str, (_CONNECTIONS, work.callers, requests, work.tokens))
    command = [str(BUILD / "load"), protocol, str(running.port), path, str(file), *numbers]
    command += [ending, str(work.skip)]
    done = subprocess.run(pinned(1, command), capture_output=True, text=True, check=False)
    if done.returncode:
        raise WrongAnswer(f"{running.system.name}, {work.name}: {done.stderr.strip()}")
    return msgspec.json.decode(done.stdout, type=Reading)


_Asked = tuple[str, str, bytes, str]


def _tgi(work: Work) -> _Asked:
    # With details the answer of a whole text would repeat each token.
    parameters = {"max_new_tokens": work.tokens, "details": work.streamed}
    body = _json(inputs=work.prompt, parameters=parameters)
    if work.streamed:
        return "http", "/generate_stream", body, "finish_reason"
    return "http", "/generate", body, "generated_text"


def _openai(work: Work) -> _Asked:
    body = _json(model="bench", prompt=work.prompt, max_tokens=work.tokens, stream=work.streamed)
    return "http", "/v1/completions", body, "[DONE]" if work.streamed else "finish_reason"


def _chat(work: Work) -> _Asked:
    messages = [{"role": "user", "content": work.prompt}]
    body = _json(model="bench", messages=messages, max_tokens=work.tokens, stream=work.streamed)
    return "http", "/v1/chat/completions", body, "[DONE]" if work.streamed else "finish_reason"


def _rest(work: Work) -> _Asked:
    body = _json(model_id="bench", prompt=work.prompt, max_new_tokens=work.tokens)
    if work.streamed:
        return "http", "/generate_stream", body, "event: summary"
    return "http", "/generate", body, '"model_id":"bench"'


def _grpc(work: Work) -> _Asked:
    fields: dict[str, Any] = {
        "model_id": "bench",
        "prompt": work.prompt,
        "max_new_tokens": work.tokens,
    }
    if work.streamed:
        message = pb.GenerateStreamRequest(**fields).SerializeToString()
        return "grpc", f"{_SERVICE}/GenerateStream", message, "bench"  # the summary's model_id
    return "grpc", f"{_SERVICE}/Generate", pb.GenerateRequest(**fields).SerializeToString(), "bench"


def _json(**fields: Any) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()


_FACES = {"tgi": _tgi, "openai": _openai, "chat": _chat, "rest": _rest, "grpc": _grpc}
