"""The programs of `examples/`: how each is run, and the version of its library."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.needs import give_up, require_program

ROOT = Path(__file__).parents[2]
_SOURCES = ROOT / "examples"
_BUILT = ROOT / "build" / "examples"


@dataclass(frozen=True)
class Example:
    """The program of one language.

    `words` are its command, where `{built}` is its folder below build/examples. The group of
    `version` in the file `pinned` of its sources is the version of the library.
    """

    language: str
    folder: str
    library: str
    pinned: str
    version: str
    words: Sequence[str]
    mark: str = "examples"
    # The shortest interval of the library's pings, and a time in which it pings.
    keepalive: float = 1
    quiet: float = 5
    # The library waits for a service that is not there yet, by the service config.
    waits: bool = True
    # The code of a deadline that the library itself ends.
    deadline: str = "DEADLINE_EXCEEDED"
    # The library has a code for a call that its caller has cancelled.
    tells_cancel: bool = True
    # The library can check the health of a model before it calls.
    checks_health: bool = False

    def __str__(self) -> str:
        return self.folder

    def command(self) -> list[str]:
        """Return the command without arguments."""
        built = _BUILT / self.folder
        if not built.exists():
            give_up(f"{built.relative_to(ROOT)} is not there: make test-examples builds it")
        program, *rest = (word.format(built=built) for word in self.words)
        return [require_program(program), *rest]

    def library_version(self) -> str:
        """Return the version of the library."""
        text = (_SOURCES / self.folder / self.pinned).read_text()
        match = re.search(self.version, text, re.MULTILINE)
        assert match is not None, f"{self.pinned} has no version of {self.library}"
        return match[1]


EXAMPLES = (
    Example(
        language="Python",
        folder="python",
        library="grpcio",
        pinned="requirements.txt",
        version=r"^grpcio==(\S+)",
        words=("{built}/venv/bin/python", "{built}/example.py"),
        mark="grpc",
    ),
    Example(
        language="Go",
        folder="go",
        library="google.golang.org/grpc",
        pinned="go.mod",
        version=r"google.golang.org/grpc v(\S+)",
        words=("{built}/example",),
        mark="grpc",
        keepalive=10,
        quiet=12,
        checks_health=True,
    ),
    Example(
        language="Node",
        folder="node",
        library="@grpc/grpc-js",
        pinned="package.json",
        version=r'"@grpc/grpc-js": "(\S+)"',
        words=("node", "{built}/example.mjs"),
    ),
    Example(
        language="Java",
        folder="java",
        library="grpc-java",
        pinned="pom.xml",
        version=r"<grpc.version>(.+)</grpc.version>",
        words=("java", "-jar", "{built}/target/example.jar"),
        keepalive=10,
        quiet=12,
        checks_health=True,
    ),
    Example(
        language="Rust",
        folder="rust",
        library="tonic",
        pinned="Cargo.toml",
        version=r'^tonic = .*"=(.+?)"',
        words=("{built}/target/debug/example",),
        deadline="CANCELLED",
        tells_cancel=False,
    ),
    Example(
        language="C++",
        folder="cpp",
        library="gRPC of Debian",
        pinned="CMakeLists.txt",
        version=r"gRPC (\S+) CONFIG",
        words=("{built}/out/example",),
    ),
    Example(
        language="Ruby",
        folder="ruby",
        library="gem grpc of Debian",
        pinned="example.rb",
        version=r'gem "grpc", "~> (.+)"',
        words=("ruby", "{built}/example.rb"),
    ),
)
