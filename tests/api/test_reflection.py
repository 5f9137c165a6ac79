"""Reflection over a real channel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_database, descriptor_pool
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from grpc_reflection.v1alpha.reflection_pb2 import ExtensionRequest

from inference_service.api.methods import gated
from inference_service.api.reflection import NAMES, Reflection
from inference_service.v1 import errors_pb2
from tests.rest_bridge.loopback import serve_grpc
from tests.service import failure
from tests.waiting import PROMPTLY, within

Request = reflection_pb2.ServerReflectionRequest
Answer = reflection_pb2.ServerReflectionResponse

ADD = reflection_pb2_grpc.add_ServerReflectionServicer_to_server
NOT_FOUND, INVALID_ARGUMENT = (
    code.value[0] for code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT)
)


@dataclass
class Reflected:
    """A servicer, and a method of a channel that leads to it."""

    reflection: Reflection
    method: Any

    async def ask(self, *requests: Request) -> list[Answer]:
        """Ask all of it in one stream."""
        return [answer async for answer in self.method(requests)]


@pytest.fixture(params=NAMES)
async def reflected(request: pytest.FixtureRequest) -> AsyncGenerator[Reflected]:
    reflection, name = Reflection(), request.param
    async with (
        serve_grpc({name: gated(name, ADD, reflection)}) as target,
        grpc.aio.insecure_channel(target) as channel,
    ):
        method = channel.stream_stream(
            f"/{name}/ServerReflectionInfo",
            request_serializer=lambda m: m if isinstance(m, bytes) else m.SerializeToString(),
            response_deserializer=Answer.FromString,
        )
        yield Reflected(reflection, method)


def files(answer: Answer) -> list[FileDescriptorProto]:
    packed = answer.file_descriptor_response.file_descriptor_proto
    return [FileDescriptorProto.FromString(file) for file in packed]


async def test_both_versions_are_listed(reflected: Reflected) -> None:
    [listed] = await reflected.ask(Request(list_services="*", host="here"))

    found = [service.name for service in listed.list_services_response.service]
    assert set(NAMES) < set(found) and "inference_service.v1.ModelService" in found
    assert listed.valid_host == "here"
    assert listed.original_request == Request(list_services="*", host="here")


@pytest.mark.parametrize(
    ("symbol", "file"),
    [
        ("inference_service.v1.ModelService", "inference_service/v1/model_service.proto"),
        ("inference_service.v1.ModelService.Generate", "inference_service/v1/model_service.proto"),
        ("inference_service.v1.Model.hf_name", "inference_service/v1/model_service.proto"),
        ("inference_service.v1.ERROR_REASON_INTERNAL", "inference_service/v1/errors.proto"),
        ("google.rpc.ErrorInfo", "google/rpc/error_details.proto"),
        ("grpc.health.v1.Health.Watch", "grpc/health/v1/health.proto"),
        ("grpc.reflection.v1.ServerReflection", "grpc/reflection/v1/reflection.proto"),
    ],
)
async def test_a_symbol_leads_to_files_that_can_be_used(
    reflected: Reflected, symbol: str, file: str
) -> None:
    [answer] = await reflected.ask(Request(file_containing_symbol=symbol))

    database = descriptor_database.DescriptorDatabase()
    for sent in files(answer):
        database.Add(sent)
    pool = descriptor_pool.DescriptorPool(database)
    assert files(answer)[0].name == file
    assert symbol.startswith(pool.FindFileByName(file).package)


async def test_the_files_have_comments_names_in_json_and_rules(reflected: Reflected) -> None:
    [answer] = await reflected.ask(Request(file_containing_symbol="inference_service.v1.Model"))

    proto = files(answer)[0]
    model = next(message for message in proto.message_type if message.name == "Model")
    assert {field.json_name for field in model.field} > {"lastError", "hfName"}
    comments = [place.leading_comments for place in proto.source_code_info.location]
    assert any("One model of the catalog" in comment for comment in comments)
    assert "google/api/annotations.proto" in proto.dependency


async def test_a_stream_gets_each_import_once(reflected: Reflected) -> None:
    names = ["inference_service/v1/model_service.proto", "inference_service/v1/errors.proto"]

    first, second = await reflected.ask(*(Request(file_by_filename=name) for name in names))

    assert [file.name for file in files(second)] == names[1:]
    assert [file.name for file in files(first)].count(names[1]) == 1


async def test_the_extensions_of_a_type(reflected: Reflected) -> None:
    number = errors_pb2.error_rule.number
    of_values = ExtensionRequest(
        containing_type="google.protobuf.EnumValueOptions", extension_number=number
    )

    numbers, none, by_number = await reflected.ask(
        Request(all_extension_numbers_of_type="google.protobuf.EnumValueOptions"),
        Request(all_extension_numbers_of_type="inference_service.v1.Model"),
        Request(file_containing_extension=of_values),
    )

    assert list(numbers.all_extension_numbers_response.extension_number) == [number]
    assert none.WhichOneof("message_response") == "all_extension_numbers_response"
    assert files(by_number)[0].name == "inference_service/v1/errors.proto"


@pytest.mark.parametrize(
    ("asked", "code", "named"),
    [
        (Request(file_by_filename="no.proto"), NOT_FOUND, "'no.proto'"),
        (Request(file_containing_symbol="no.Thing"), NOT_FOUND, "'no.Thing'"),
        (Request(file_containing_symbol=""), NOT_FOUND, "''"),
        (Request(file_containing_symbol="x" * 5000), NOT_FOUND, f"'{'x' * 200}'"),
        (Request(all_extension_numbers_of_type="no.Thing"), NOT_FOUND, "'no.Thing'"),
        (
            Request(file_containing_extension=ExtensionRequest(containing_type="no.Thing")),
            NOT_FOUND,
            "'no.Thing[0]'",
        ),
        (Request(), INVALID_ARGUMENT, "nothing"),
    ],
)
async def test_what_is_not_there_is_an_answer_and_the_stream_goes_on(
    reflected: Reflected, asked: Request, code: int, named: str
) -> None:
    refused, listed = await reflected.ask(asked, Request(list_services=""))

    assert refused.error_response.error_code == code
    assert refused.error_response.error_message.endswith(named)
    assert refused.original_request == asked
    assert listed.list_services_response.service


async def test_the_client_of_the_library_finds_all_that_it_asks_for() -> None:
    def look(target: str) -> None:
        with grpc.insecure_channel(target) as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            pool = descriptor_pool.DescriptorPool(database)
            service = pool.FindServiceByName("inference_service.v1.ModelService")
            assert {*NAMES, service.full_name} < set(database.get_services())
            assert service.methods_by_name["Generate"].input_type.fields_by_name["prompt"]
            values = pool.FindMessageTypeByName("google.protobuf.EnumValueOptions")
            [rule] = pool.FindAllExtensions(values)
            assert pool.FindExtensionByNumber(values, rule.number).name == "error_rule"

    async with serve_grpc({NAMES[1]: gated(NAMES[1], ADD, Reflection())}) as target:
        await asyncio.to_thread(look, target)


async def test_bytes_that_are_no_message_end_the_stream_with_a_reason(
    reflected: Reflected, caplog: pytest.LogCaptureFixture
) -> None:
    for data in (b"\xff\xff\xff", b"\x1a\x02\xff\xfe", b"\x22\x05\x0a"):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await reflected.ask(Request(list_services=""), data)  # type: ignore[arg-type]

        shown = failure(error.value)
        assert (shown.code, shown.reason) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_PARAMETER",
        )
    assert not caplog.records


async def test_the_end_of_the_service_ends_open_streams_with_a_reason(
    reflected: Reflected, caplog: pytest.LogCaptureFixture
) -> None:
    quiet, asking = reflected.method(), reflected.method()
    await asking.write(Request(list_services=""))
    await asking.read()
    await quiet.initial_metadata()

    reflected.reflection.down()
    reflected.reflection.down()

    for stream in (quiet, asking, reflected.method()):
        async with within(PROMPTLY, "the stream did not end"):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await stream.read()
        shown = failure(error.value)
        assert (shown.code, shown.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
    assert not caplog.records


async def test_the_end_of_the_service_ends_a_stream_that_is_not_read(
    reflected: Reflected,
) -> None:
    """Its answers fill what gRPC takes ahead, so that a write is held up when the end comes."""
    file = Request(file_by_filename="inference_service/v1/model_service.proto")
    stream = reflected.method()
    asked = asyncio.create_task(write_all(stream, file, 100))
    await stream.initial_metadata()
    answers = 0
    await asked

    reflected.reflection.down()

    async with within(PROMPTLY, "the stream did not end"):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            while await stream.read() is not grpc.aio.EOF:
                answers += 1
    assert failure(error.value).reason == "SHUTTING_DOWN"
    assert answers < 100


async def write_all(stream: Any, request: Request, count: int) -> None:
    for _ in range(count):
        await stream.write(request)
