"""The worker's configuration, read from its environment."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from .failure import ExitCode, WorkerError


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one worker; the package's docstring describes each variable."""

    file: str
    repo: str | None
    revision: str
    sha256: str | None
    host: str
    port: int
    context: int
    slots: int
    threads: int | None
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
            repo=repo,
            revision=values.get("LLAMACPP_REVISION", "main"),
            sha256=sha256 or None,
            host=values.get("LLAMACPP_HOST", "127.0.0.1"),
            port=_integer(values, "LLAMACPP_PORT", 0, least=0, most=65535),
            context=_integer(values, "LLAMACPP_CONTEXT", 4096, least=1, most=2**31 - 1),
            # llama.cpp has room for 256 sequences.
            slots=_integer(values, "LLAMACPP_SLOTS", 4, least=1, most=256),
            threads=threads or None,
            chat_template=values.get("LLAMACPP_CHAT_TEMPLATE"),
            exit_with_parent=values.get("LLAMACPP_EXIT_WITH_PARENT") == "1",
        )


def _integer(values: Mapping[str, str], name: str, default: int, *, least: int, most: int) -> int:
    text = values.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"\s*[0-9]{1,10}\s*", text) or not least <= int(text) <= most:
        raise _invalid(f"{name} must be an integer from {least} to {most}, not {text!r}")
    return int(text)


def _invalid(message: str) -> WorkerError:
    return WorkerError(ExitCode.CONFIGURATION, "CONFIGURATION", f"{message}.")
