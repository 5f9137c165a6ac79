"""The worker's configuration, read from its environment."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from .failure import ExitCode, WorkerError


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one worker; the package's docstring describes each variable."""

    file: str
    name: str | None
    repo: str | None
    revision: str
    sha256: str | None
    host: str
    ports: tuple[int, ...]
    api_key: str | None
    context: int
    slots: int
    threads: int | None
    serves: str
    pooling: str | None
    chat_template: str | None
    exit_with_parent: bool

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Settings":
        """Read and check the environment; an empty variable counts as unset.

        Raises WorkerError, code 2.
        """
        values = {name: value for name, value in environment.items() if value.strip()}
        file = values.get("LLAMACPP_FILE")
        if file is None:
            raise _invalid("LLAMACPP_FILE must name a GGUF file")
        repo = values.get("LLAMACPP_REPO")
        if repo is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
            raise _invalid(f"LLAMACPP_REPO must look like owner/name, not {repo!r}")
        if repo is not None and (file.startswith("/") or ".." in file.split("/")):
            raise _invalid(f"LLAMACPP_FILE must be a path inside {repo}, not {file!r}")
        sha256 = values.get("LLAMACPP_SHA256", "").lower()
        if not re.fullmatch(r"([0-9a-f]{64})?", sha256):
            raise _invalid("LLAMACPP_SHA256 must be 64 hexadecimal digits")
        threads = _integer(values, "LLAMACPP_THREADS", 0, least=1, most=512)
        return cls(
            file=file,
            name=values.get("LLAMACPP_NAME"),
            repo=repo,
            revision=values.get("LLAMACPP_REVISION", "main"),
            sha256=sha256 or None,
            host=values.get("LLAMACPP_HOST", "127.0.0.1"),
            ports=_ports(values),
            api_key=values.get("LLAMACPP_API_KEY"),
            context=_integer(values, "LLAMACPP_CONTEXT", 4096, least=1, most=2**31 - 1),
            # llama.cpp has room for 256 sequences.
            slots=_integer(values, "LLAMACPP_SLOTS", 4, least=1, most=256),
            threads=threads or None,
            serves=_one_of(values, "LLAMACPP_SERVES", ("text", "embeddings", "rerank")) or "text",
            pooling=_one_of(values, "LLAMACPP_POOLING", ("mean", "cls", "last")),
            chat_template=_template(values.get("LLAMACPP_CHAT_TEMPLATE")),
            exit_with_parent=values.get("LLAMACPP_EXIT_WITH_PARENT") == "1",
        )


def _integer(values: Mapping[str, str], name: str, default: int, *, least: int, most: int) -> int:
    text = values.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"\s*[0-9]{1,10}\s*", text) or not least <= int(text) <= most:
        raise _invalid(f"{name} must be an integer from {least} to {most}, not {text!r}")
    return int(text)


def _one_of(values: Mapping[str, str], name: str, known: tuple[str, ...]) -> str | None:
    text = values.get(name)
    if text is not None and text not in known:
        raise _invalid(f"{name} must be one of {', '.join(known)}, not {text[:40]!r}")
    return text


def _template(text: str | None) -> str | None:
    # llama.cpp would take the name of any other of its templates for a text without a message.
    if text is not None and text != "chatml" and not re.search(r"\{[{%]", text):
        raise _invalid(f"LLAMACPP_CHAT_TEMPLATE must be Jinja, or chatml, not {text[:40]!r}")
    return text


def _ports(values: Mapping[str, str]) -> tuple[int, ...]:
    """Return the ports to try: the first, then those after it in the range, which is a ring."""
    first = _integer(values, "LLAMACPP_PORT", 0, least=0, most=65535)
    text = values.get("LLAMACPP_PORTS")
    if text is None:
        return (first,)
    match = re.fullmatch(r"([0-9]{1,5})-([0-9]{1,5})", text)
    if match is None or not 0 < int(match[1]) <= int(match[2]) < 65536:
        raise _invalid(f"LLAMACPP_PORTS must be two ports, such as 8080-8179, not {text!r}")
    others = [port for port in range(int(match[1]), int(match[2]) + 1) if port != first]
    return (first, *(p for p in others if p > first), *(p for p in others if p < first))


def _invalid(message: str) -> WorkerError:
    return WorkerError(ExitCode.CONFIGURATION, "CONFIGURATION", f"{message}.")
