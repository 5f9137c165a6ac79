"""The catalog's section `openai`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from inference_service.engines.openai.section import OpenaiNeeds, fill
from inference_service.mistakes import Mistake

IMAGE: dict[str, Any] = {"image": "vllm", "args": ["--port", "{port}"], "memory": "4GB"}
COMMAND: dict[str, Any] = {"command": ["llama-server", "--port", "{port}"], "memory": "4GB"}
URL: dict[str, Any] = {"url": "https://host/base"}


@pytest.mark.parametrize(
    "section",
    [
        IMAGE,
        COMMAND,
        URL,
        IMAGE | {"args": [], "port": 8000},
        IMAGE | {"args": ["--json", '{"a": {"b": 1}}', "{host}:{port}"]},
        COMMAND | {"command": ["serve"], "env": {"LLAMA_ARG_PORT": "{port}"}},
        COMMAND
        | {"command": ["serve", "{weights}", "{port}"], "weights": {"path": "models/a.gguf"}},
        IMAGE | {"gpus": "all", "gpu_memory": "20GB", "container": {"ipc": "host"}, "slots": 128},
        URL | {"key_file": "key", "served_name": "org/name", "health": "/health?deep=1"},
        URL | {"options": {"top_k": "top_k", "seed": False}, "body": {"min_p": 0.0}},
        COMMAND | {"drops": ["n", "response_format"]},
    ],
)
def test_a_section_may_be(section: dict[str, Any]) -> None:
    OpenaiNeeds.model_validate(section)


@pytest.mark.parametrize(
    ("section", "key", "message"),
    [
        ({}, "", "must have exactly one of `image`, `command` and `url`"),
        (IMAGE | URL, "", "must have exactly one of"),
        (COMMAND | {"args": ["a"]}, "", "has `args`, which goes with `image`"),
        (COMMAND | {"gpus": "all"}, "", "has `gpus`, which goes with `image`"),
        (URL | {"memory": "4GB"}, "", "has `memory`, which goes with `image` or `command`"),
        (IMAGE | {"key_file": "key"}, "", "has `key_file`, which goes with `url`"),
        ({"image": "a", "port": 80}, "", 'must have `memory`, such as "4GB"'),
        (IMAGE | {"args": []}, "", "must pass {port} on, in `args` or `env`, or `port`"),
        (COMMAND | {"command": ["serve"]}, "", "must pass {port} on, in `command` or `env`"),
        (
            COMMAND | {"command": ["serve", "{prot}"]},
            "command",
            "has the placeholder {prot}; known are {host}, {port}, {served_name}",
        ),
        (COMMAND | {"env": {"A": "{x}"}}, "env", "has the placeholder {x}"),
        (COMMAND | {"command": []}, "command", "at least 1 item"),
        (IMAGE | {"args": ["{weights}", "{port}"]}, "", "has {weights}, but no `weights.path`"),
        (IMAGE | {"gpus": "none", "gpu_memory": "1GB"}, "", 'also `gpus = "none"`'),
        (URL | {"drops": ["n", "messages"]}, "drops", "has 'messages', without which there is no"),
        ({"url": "host:8000"}, "url", "must begin with http:// or https:// and a host"),
        ({"url": "ftp://host"}, "url", "must begin with http:// or https:// and a host"),
        ({"url": "https://"}, "url", "must begin with http:// or https:// and a host"),
        ({"url": "https://me:key@host"}, "url", "a key goes into `key_file`"),
        ({"url": "https://host?a=1"}, "url", "no `?`"),
        (URL | {"health": "health"}, "health", "match"),
        (URL | {"slots": 0}, "slots", "greater than or equal to 1"),
        (URL | {"options": {"top_K": "k"}}, "options", "has 'top_K'; known are max_new_tokens"),
        (URL | {"options": {"temperature": False}}, "options", "a name for temperature"),
        (URL | {"options": {"top_k": ""}}, "options", "must have a name for top_k"),
        (URL | {"options": {"top_k": True}}, "options.top_k", "Input should be False"),
        (URL | {"body": {"stream": False}}, "", "has `stream` in `body`"),
        (URL | {"body": {"max_tokens": 3}}, "", "has `max_tokens` in `body`"),
        (URL | {"port_": 3}, "port_", "Extra inputs"),
    ],
)
def test_a_section_must_not_be(section: dict[str, Any], key: str, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        OpenaiNeeds.model_validate(section)

    mistakes = {".".join(map(str, e["loc"])): e["msg"] for e in caught.value.errors()}
    (said,) = [said for where, said in mistakes.items() if where.startswith(key)][-1:]
    assert message in said


@pytest.mark.parametrize(
    "url",
    ["https://host/base", "https://host/base/", "https://host/base/v1", "https://host/base/v1/"],
)
def test_a_url_may_end_with_the_version_as_many_write_it(url: str) -> None:
    assert OpenaiNeeds(url=url).url == "https://host/base"


@pytest.mark.parametrize("url", ["http://host:8000", "https://[::1]:8000/v1beta", "http://h/av1"])
def test_other_urls_are_as_they_are(url: str) -> None:
    assert OpenaiNeeds(url=url).url == url


def test_placeholders_are_replaced_and_the_braces_of_json_are_not() -> None:
    values = {"host": "127.0.0.1", "port": "80"}

    assert fill("{host}:{port}", values) == "127.0.0.1:80"
    assert fill('{"a": {"port": "{port}"}}', values) == '{"a": {"port": "80"}}'


def test_the_names_of_options_are_openais_and_those_of_the_section() -> None:
    needs = OpenaiNeeds(url="http://h", options={"repetition_penalty": "repeat", "stop": False})

    assert needs.names == {
        "max_new_tokens": "max_tokens",
        "temperature": "temperature",
        "top_p": "top_p",
        "seed": "seed",
        "repetition_penalty": "repeat",
    }


def test_the_key_of_a_url_is_read_from_its_file(tmp_path: Path) -> None:
    needs = OpenaiNeeds.model_validate(URL | {"key_file": "key"})
    (tmp_path / "key").write_text("sk-123\n")

    assert needs.anchored(tmp_path).headers == {"authorization": "Bearer sk-123"}
    assert "sk-123" not in repr(needs.anchored(tmp_path))


@pytest.mark.parametrize("content", ["", "two\nlines", "a b", "schlüssel"])
def test_a_key_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "key").write_text(content)

    with pytest.raises(Mistake, match="one line of ASCII without spaces"):
        OpenaiNeeds.model_validate(URL | {"key_file": "key"}).anchored(tmp_path)
