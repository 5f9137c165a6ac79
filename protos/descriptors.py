"""The writer of descriptors.binpb (`make protos`): the contract as clients and transcoders read it.

The set has what the Python code of a proto leaves out: comments, JSON names, and the rules of
http.yaml as options of the methods. It also has what a client meets beside the contract: the
details of errors, health, and reflection.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import yaml
from google.api import annotations_pb2, http_pb2
from google.protobuf import json_format
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

PROTOS = Path(__file__).parent
OURS = "inference_service/v1"
ANNOTATIONS = "google/api/annotations.proto"
OF_ERRORS = ("google/rpc/error_details.proto", "google/rpc/status.proto")


def main() -> None:
    """Write the set to the file that the command names."""
    ours = (str(path.relative_to(PROTOS)) for path in sorted((PROTOS / OURS).glob("*.proto")))
    files = compiled(ANNOTATIONS, *OF_ERRORS, *ours)
    annotate(files, yaml.safe_load((PROTOS / OURS / "http.yaml").read_text())["http"]["rules"])
    files += of_libraries()
    Path(sys.argv[1]).write_bytes(FileDescriptorSet(file=files).SerializeToString())


def compiled(*names: str) -> list[FileDescriptorProto]:
    """Return these files and all that they import, each after its imports."""
    packages = Path(annotations_pb2.__file__).parents[2]
    with tempfile.NamedTemporaryFile() as file:
        command = [sys.executable, "-m", "grpc_tools.protoc", "--include_imports"]
        command += ["--include_source_info", f"--descriptor_set_out={file.name}"]
        subprocess.run([*command, f"-I{PROTOS}", f"-I{packages}", *names], check=True)
        files = list(FileDescriptorSet.FromString(Path(file.name).read_bytes()).file)
    for proto in files:
        if not proto.name.startswith(OURS):
            proto.ClearField("source_code_info")
    return files


def annotate(files: Iterable[FileDescriptorProto], rules: Iterable[dict[str, object]]) -> None:
    """Give each method its rule. Raises KeyError for a rule of no method."""
    methods = {
        f"{proto.package}.{service.name}.{method.name}": (proto, method)
        for proto in files
        for service in proto.service
        for method in service.method
    }
    for written in rules:
        rule = json_format.ParseDict(written, http_pb2.HttpRule())
        proto, method = methods[rule.selector]
        rule.ClearField("selector")  # an option is where it belongs
        method.options.Extensions[annotations_pb2.http].CopyFrom(rule)
        if ANNOTATIONS not in proto.dependency:
            proto.dependency.append(ANNOTATIONS)


def of_libraries() -> list[FileDescriptorProto]:
    """Return health, and both versions of reflection, which have the same messages."""
    alpha = described(reflection_pb2.DESCRIPTOR)
    text = json_format.MessageToJson(alpha).replace("v1alpha", "v1")
    newer = json_format.Parse(text, FileDescriptorProto())
    newer.options.ClearField("deprecated")
    return [described(health_pb2.DESCRIPTOR), newer, alpha]


def described(file: FileDescriptor) -> FileDescriptorProto:
    """Return a file of a library, by the name that it has in other languages."""
    proto = FileDescriptorProto()
    file.CopyToProto(proto)
    proto.name = proto.name.replace("grpc_", "grpc/")
    for message in proto.message_type:
        name_as_json(message)
    return proto


def name_as_json(message: DescriptorProto) -> None:
    """Give each field the name that it has in JSON, as protoc does."""
    for field in message.field:
        first, *others = field.name.split("_")
        field.json_name = first + "".join(map(str.capitalize, others))
    for nested in message.nested_type:
        name_as_json(nested)


main()
