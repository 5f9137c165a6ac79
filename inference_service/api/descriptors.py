"""The descriptors that the package carries, found by file, by symbol and by extension."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

import inference_service.v1

# Of every kind of descriptor: the fields that hold what has a name in it.
_MEMBERS = "message_type nested_type enum_type service extension field oneof_decl method value"


class Descriptors:
    """The files of a set, and what is in which of them."""

    def __init__(self, files: FileDescriptorSet) -> None:
        self.services: list[str] = []
        self.symbols: dict[str, str] = {}  # the names of files, by full names
        # The names of files, by the type that is extended and by number.
        self.extensions: dict[str, dict[int, str]] = {}
        self._files: dict[str, bytes] = {}
        self._imports: dict[str, list[str]] = {}
        for proto in files.file:
            self._add(proto)
        self.services.sort()

    def _add(self, proto: FileDescriptorProto) -> None:
        self._files[proto.name] = proto.SerializeToString()
        self._imports[proto.name] = list(proto.dependency)
        self.services += [f"{proto.package}.{service.name}" for service in proto.service]
        for name, member in _named(proto.package, proto):
            self.symbols[name] = proto.name
            if extended := getattr(member, "extendee", "").removeprefix("."):
                self.extensions.setdefault(extended, {})[member.number] = proto.name

    def with_imports(self, name: str, known: set[str]) -> list[bytes]:
        """Return a file, then all that it imports and that is not known yet; all become known.

        Raises KeyError for a file that the set does not have.
        """
        found, names = [self._files[name]], [name]
        known.add(name)
        for each in names:
            for imported in self._imports[each]:
                if imported not in known:
                    known.add(imported)
                    found.append(self._files[imported])
                    names.append(imported)
        return found


@cache
def descriptors() -> Descriptors:
    """Return the descriptors of the package, read when they are first asked for."""
    [folder] = inference_service.v1.__path__
    packed = Path(folder, "descriptors.binpb").read_bytes()
    return Descriptors(FileDescriptorSet.FromString(packed))


def _named(scope: str, proto: Any) -> Iterator[tuple[str, Any]]:
    """Yield what is in a file or in a descriptor, each by its full name."""
    for kind in _MEMBERS.split():
        for member in getattr(proto, kind, ()):
            name = f"{scope}.{member.name}"
            yield name, member
            yield from _named(name, member)
            if kind == "enum_type":  # the values are in the scope of the enum, by the language
                yield from ((f"{scope}.{value.name}", value) for value in member.value)
