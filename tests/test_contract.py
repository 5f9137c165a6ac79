"""The contract as others take it: its files, the rules of REST, and the set of descriptors."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.api import annotations_pb2, http_pb2, service_pb2
from google.protobuf import descriptor_pool, json_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

from inference_service.v1 import model_service_pb2 as pb
from rest_bridge import Settings, create_app
from rest_bridge.dialects.endpoints import shape_at
from tests.rest_bridge.loopback import open_remote

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "protos" / "inference_service" / "v1"
SERVICE = "inference_service.v1.ModelService"
BUF = Path(sys.executable).with_name("buf")

Routes = dict[str, str]  # by the method


@pytest.fixture(scope="module")
def files() -> dict[str, FileDescriptorProto]:
    """Return the files of the set that the package carries, each after its imports."""
    packed = Path(pb.__file__).with_name("descriptors.binpb").read_bytes()
    return {proto.name: proto for proto in FileDescriptorSet.FromString(packed).file}


@pytest.fixture
def proto(files: dict[str, FileDescriptorProto]) -> FileDescriptorProto:
    return files["inference_service/v1/model_service.proto"]


def verb_and_path(rule: http_pb2.HttpRule) -> str:
    verb = rule.WhichOneof("pattern")
    assert verb is not None
    return f"{verb.upper()} {getattr(rule, verb)}"


def configured() -> list[http_pb2.HttpRule]:
    """Return the rules of the file, which has to be an API configuration of Google's."""
    written = yaml.safe_load((SOURCES / "http.yaml").read_text())
    assert written.pop("type") == "google.api.Service"
    service = json_format.ParseDict(written, service_pb2.Service())
    assert service.config_version.value == 3
    return list(service.http.rules)


def commented(proto: FileDescriptorProto) -> Routes:
    """Return the last line of each method's comment, where it is a route."""
    method_of_first_service = [6, 0, 2]
    found = {}
    for location in proto.source_code_info.location:
        if list(location.path[:3]) == method_of_first_service and len(location.path) == 4:
            last = location.leading_comments.strip().splitlines()[-1]
            if route := re.fullmatch(r" *REST: `(.+)`\.", last):
                found[proto.service[0].method[location.path[3]].name] = route[1]
    return found


async def test_the_bridge_the_rules_and_the_comments_have_the_same_routes(
    proto: FileDescriptorProto,
) -> None:
    rules = {rule.selector.removeprefix(f"{SERVICE}."): rule for rule in configured()}
    primary = {name: verb_and_path(rule) for name, rule in rules.items()}
    async with open_remote("localhost:1") as service:
        paths = create_app(service, Settings()).openapi()["paths"]
    served = {
        f"{verb.upper()} {path}"
        for path, verbs in paths.items()
        for verb in verbs
        if shape_at(path) is None  # the dialects are not of the contract
    }

    assert commented(proto) == primary
    assert served == set(primary.values())
    assert {method.name for method in proto.service[0].method} - set(primary) == {"Forward"}
    for name, rule in rules.items():  # for names of models that have a slash
        more = [verb_and_path(other) for other in rule.additional_bindings]
        named = primary[name].replace("{model_id}", "{model_id=*/*}")
        assert more == ([named] if "{model_id}" in primary[name] else [])


def test_the_set_has_the_rules_as_options(proto: FileDescriptorProto) -> None:
    [service] = proto.service
    options = {
        f"{SERVICE}.{method.name}": method.options.Extensions[annotations_pb2.http]
        for method in service.method
        if method.options.HasExtension(annotations_pb2.http)
    }

    expected = {rule.selector: rule for rule in configured()}
    for rule in expected.values():
        rule.ClearField("selector")
    assert options == expected


def test_the_set_is_whole_and_in_order(files: dict[str, FileDescriptorProto]) -> None:
    pool = descriptor_pool.DescriptorPool()
    for file in files.values():
        pool.Add(file)  # raises TypeError where an import has not come before
    for name in ("BadRequest", "ErrorInfo", "RetryInfo", "DebugInfo", "Status"):
        assert pool.FindMessageTypeByName(f"google.rpc.{name}")
    reflection = [f"grpc.reflection.{v}.ServerReflection" for v in ("v1", "v1alpha")]
    for name in (SERVICE, "grpc.health.v1.Health", *reflection):
        assert pool.FindServiceByName(name)
    assert pool.FindMethodByName(f"{SERVICE}.Generate").input_type.name == "GenerateRequest"


def test_every_field_of_the_set_has_its_name_in_json(
    files: dict[str, FileDescriptorProto],
) -> None:
    messages: list[Any] = [message for file in files.values() for message in file.message_type]
    while messages:
        message = messages.pop()
        messages += message.nested_type
        for field in message.field:
            words = field.name.split("_")
            assert field.json_name == words[0] + "".join(word.capitalize() for word in words[1:])


def test_everything_of_the_contract_has_a_comment(files: dict[str, FileDescriptorProto]) -> None:
    """Reflection and the pages of grpcui show the comments, and nothing else explains a field."""
    message, enum, service = 4, 5, 6  # the field numbers that make up a path
    for name, proto in files.items():
        if name.startswith("inference_service/"):
            for location in proto.source_code_info.location:
                match list(location.path):
                    case [kind, _] | [kind, _, 2, _] if kind in (message, enum, service):
                        assert location.leading_comments, (name, list(location.path))


def test_the_contract_imports_nothing_that_a_compiler_does_not_carry() -> None:
    for source in SOURCES.glob("*.proto"):
        for imported in re.findall(r'^import .*"(.+)";', source.read_text(), re.MULTILINE):
            assert imported.startswith(("google/protobuf/", "inference_service/v1/"))


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Return a folder with what git has of the contract, and nothing else."""
    for name in ("buf.yaml", "buf.gen.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(SOURCES, tmp_path / "protos" / "inference_service" / "v1")
    return tmp_path


@pytest.mark.parametrize(
    "command",
    [
        pytest.param([str(BUF), "lint"], id="buf lint"),
        pytest.param([str(BUF), "build"], id="buf build"),
        pytest.param(
            [sys.executable, "-m", "grpc_tools.protoc", "-Iprotos", "--python_out=."]
            + [f"inference_service/v1/{source.name}" for source in SOURCES.glob("*.proto")],
            id="protoc",
        ),
    ],
)
def test_a_fresh_clone_compiles(clone: Path, command: list[str]) -> None:
    environment = {"PATH": "", "HOME": str(clone)}
    subprocess.run(command, cwd=clone, env=environment, check=True)
