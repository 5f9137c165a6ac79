"""The programs of this folder: how each is run, and the version of its client."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.needs import give_up, require_program

_FOLDER = Path(__file__).parent
_BUILT = _FOLDER.parents[1] / "build" / "clients"
# Nothing but this machine can be reached: everything else is asked of a proxy that is not there.
_NO_PROXY = "http://127.0.0.1:9"

_VERSIONS = {
    "python": ("requirements.txt", r"^{}==(\S+)"),
    "node": ("package.json", r'"{}": "(\S+)"'),
    "go": ("go.mod", r"/{}/\S+ v(\S+)"),
}


@dataclass(frozen=True)
class Program:
    """A program on a client of somebody else, which is named as its package is."""

    client: str
    file: str

    def __str__(self) -> str:
        return f"{self.client}-{self.language}"

    @property
    def language(self) -> str:
        """The folder of the program, which is that of its packages too."""
        return self.file.partition("/")[0]

    @property
    def what(self) -> str:
        """What the program does, in the words of its first line."""
        with (_FOLDER / self.file).open() as lines:
            return next(lines).partition(": ")[2].strip(' ."\n')

    def words(self, folder: Path) -> Sequence[str | Path]:
        """Return the command without arguments. `folder` is for files of the program."""
        built = _BUILT / self.language
        if not built.exists():
            give_up(f"`make test-clients` installs the clients for {self.language}")
        if self.language == "python":
            return (built / "bin" / "python", _FOLDER / self.file)
        if self.language == "go":
            return (built,)
        # Node looks for packages in the folder of the program and in those above it.
        (folder / "node_modules").symlink_to(built / "node_modules")
        return (require_program("node"), shutil.copy(_FOLDER / self.file, folder))

    def version(self) -> str:
        """Return the version of the client."""
        file, pattern = _VERSIONS[self.language]
        text = (_FOLDER / self.language / file).read_text()
        match = re.search(pattern.format(re.escape(self.client)), text, re.MULTILINE)
        assert match is not None, f"{file} has no {self.client}"
        return match[1]


PROGRAMS = (
    Program("openai", "python/openai_sdk.py"),
    Program("anthropic", "python/anthropic_sdk.py"),
    Program("ollama", "python/ollama_client.py"),
    Program("langchain-openai", "python/langchain_openai_chat.py"),
    Program("llama-index-llms-openai-like", "python/llama_index_llm.py"),
    Program("litellm", "python/litellm_client.py"),
    Program("instructor", "python/instructor_client.py"),
    Program("huggingface-hub", "python/huggingface_hub_client.py"),
    Program("openai", "node/openai_sdk.mjs"),
    Program("ai", "node/ai_sdk.mjs"),
    Program("openai-go", "go/main.go"),
)


def environment(home: Path) -> dict[str, str]:
    """Return the environment of a program."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "NO_PROXY": "127.0.0.1",
        "HTTP_PROXY": _NO_PROXY,
        "HTTPS_PROXY": _NO_PROXY,
        # Not HF_HUB_OFFLINE, with which huggingface_hub refuses to call anybody.
        "HF_ENDPOINT": _NO_PROXY,
        "LITELLM_LOCAL_MODEL_COST_MAP": "true",
    }
