"""Root file systems for test images, gathered from the files of this machine.

The test bed pulls nothing, so its Python is a copy: the interpreter that runs the tests, the shared
libraries that it loads and the packages of its environment fit together already. Every file keeps
its path, so that nothing has to be relocated.
"""

import importlib.metadata
import importlib.util
import io
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution
from pathlib import Path, PurePath, PurePosixPath
from types import TracebackType
from typing import BinaryIO, Self

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PYTHON = Path(sys.base_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}")
"""The interpreter outside any virtual environment in which the tests run."""

SHELL = Path("/bin/sh")
_STDLIB = Path(sysconfig.get_path("stdlib"))
_UNUSED = {"ensurepip", "idlelib", "lib2to3", "test", "tests", "tkinter", "turtledemo"}
_UNUSED_FILES = ("_tkinter", "_test", "EXTERNALLY-MANAGED")
_PACKAGES = {"dist-packages", "site-packages"}
_LOADED = re.compile(r"^\s*(?:\S+ => )?(/\S+) \(0x", re.MULTILINE)


class Archive:
    """A tar archive in the making, on disk because a file system is large."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self._tar = tarfile.TarFile(fileobj=self._file, mode="w", dereference=True)
        self._names: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def add(self, source: Path, target: PurePath) -> None:
        """Add one file; a second file for the same target is ignored."""
        if str(target) not in self._names:
            self._names.add(str(target))
            self._tar.add(source, arcname=str(target), filter=_as_root)

    def link(self, target: PurePath, to: str) -> None:
        entry = tarfile.TarInfo(str(target))
        entry.type, entry.linkname = tarfile.SYMTYPE, to
        self._tar.addfile(entry)

    def folder(self, target: PurePath, mode: int) -> None:
        entry = tarfile.TarInfo(str(target))
        entry.type, entry.mode = tarfile.DIRTYPE, mode
        self._tar.addfile(entry)

    def write(self, target: PurePath, content: bytes, mode: int = 0o644) -> None:
        entry = tarfile.TarInfo(str(target))
        entry.size, entry.mode = len(content), mode
        self._tar.addfile(entry, io.BytesIO(content))

    def finish(self) -> BinaryIO:
        """Close the archive and return its bytes as a file, from the start."""
        self._tar.close()
        self._file.seek(0)
        return self._file


def place(path: Path) -> PurePath:
    """Return the path of a file below `/`, without links to folders."""
    return Path(os.path.realpath(path.parent), path.name).relative_to("/")


def interpreter() -> Iterator[Path]:
    """Yield a shell, the interpreter and its library, without tests, Tk and installed packages."""
    yield from (PYTHON, SHELL)
    for folder, folders, names in os.walk(_STDLIB):
        folders[:] = [
            name
            for name in folders
            if name not in _UNUSED | _PACKAGES | {"__pycache__"} and not name.startswith("config-")
        ]
        for name in names:
            if not name.startswith(_UNUSED_FILES) and not name.endswith(".a"):
                yield from _with_bytecode(Path(folder, name))


def distributions(*names: str) -> list[Distribution]:
    """Find the named packages of this environment and all that they require, sorted by name."""
    found: dict[str, Distribution] = {}
    seen: set[str] = set()
    todo = [Requirement(name) for name in names]
    while todo:
        wanted = todo.pop()
        if str(wanted) in seen:
            continue
        seen.add(str(wanted))
        distribution = importlib.metadata.distribution(wanted.name)
        found[canonicalize_name(wanted.name)] = distribution
        for line in distribution.requires or ():
            required = Requirement(line)
            extras = wanted.extras or {""}
            if not required.marker or any(required.marker.evaluate({"extra": x}) for x in extras):
                todo.append(required)
    return [found[name] for name in sorted(found)]


def installed(distribution: Distribution) -> Iterator[tuple[Path, PurePath]]:
    """Yield each file of a package: its path here, and below the folder of packages."""
    for file in distribution.files or ():
        if ".." in file.parts or "__pycache__" in file.parts:
            continue
        below = PurePosixPath(file)
        for source in _with_bytecode(Path(str(distribution.locate_file(file)))):
            folder = "__pycache__" if source.suffix == ".pyc" else ""
            yield source, below.parent / folder / source.name


def packages_folder() -> PurePath:
    """Return the folder in which the bare interpreter looks for its packages."""
    script = "import site; print(site.getsitepackages()[0])"
    answer = subprocess.run([PYTHON, "-I", "-c", script], check=True, capture_output=True)
    return PurePosixPath(answer.stdout.decode().strip()).relative_to("/")


def libraries(files: Iterable[Path]) -> set[Path]:
    """Find the shared libraries, with the loader, that these programs and libraries load."""
    binaries = [file for file in files if ".so" in file.suffixes or file.parent.name == "bin"]
    answer = subprocess.run(["ldd", *binaries], capture_output=True, text=True)
    return {Path(path) for path in _LOADED.findall(answer.stdout)}


def _with_bytecode(source: Path) -> Iterator[Path]:
    """Yield a file and its compiled form, which spares each container the compilation."""
    if source.is_file():
        yield source
        if source.suffix == ".py":
            compiled = Path(importlib.util.cache_from_source(str(source)))
            if compiled.is_file():
                yield compiled


def _as_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry
