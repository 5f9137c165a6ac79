"""Reflection: the contract for clients that have no file of it.

The servicer of the library answers from the descriptors of Python, which have no comments, no names
in JSON and no rules of REST; and it finds neither methods nor fields.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import asynccontextmanager
from typing import Any

import grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from inference_service.api.descriptors import descriptors
from inference_service.errors import ShuttingDown

# Both have the same messages. Most clients ask the first, and the second where it is missing.
NAMES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")

_LONGEST = 200  # characters of a name that are repeated

Request = reflection_pb2.ServerReflectionRequest
Answer = reflection_pb2.ServerReflectionResponse


class Reflection(reflection_pb2_grpc.ServerReflectionServicer):
    """The descriptors of the package, to be asked over gRPC."""

    def __init__(self) -> None:
        self._open: set[asyncio.Timeout] = set()
        self._is_down = False

    def down(self) -> None:
        """End the streams that are open: their clients may ask nothing for hours."""
        self._is_down = True
        for limit in self._open:
            if not limit.expired():
                limit.reschedule(0)

    async def ServerReflectionInfo(self, requests: AsyncIterable[Request], context: Any) -> None:
        """Write an answer for each request. Raises ShuttingDown at the end of the service."""
        sent: set[str] = set()
        async with self._until_down():
            # A status cannot follow a first message of which only the headers have left.
            await context.send_initial_metadata(())
            async for request in requests:
                await context.write(_answer(request, sent))

    @asynccontextmanager
    async def _until_down(self) -> AsyncGenerator[None]:
        if self._is_down:
            raise ShuttingDown
        limit = asyncio.timeout(None)
        try:
            async with limit:
                self._open.add(limit)
                yield
        except TimeoutError:
            raise ShuttingDown from None
        finally:
            self._open.discard(limit)


def _answer(request: Request, sent: set[str]) -> Answer:
    """Return the answer to a request of a stream; `sent` are the files that its client has."""
    answer = Answer(valid_host=request.host, original_request=request)
    try:
        match request.WhichOneof("message_request"):
            case "list_services":
                services = map(_service, descriptors().services)
                answer.list_services_response.service.extend(services)
            case "all_extension_numbers_of_type":
                numbers = _extensions_of(request.all_extension_numbers_of_type)
                answer.all_extension_numbers_response.CopyFrom(numbers)
            case None:
                _refuse(answer, grpc.StatusCode.INVALID_ARGUMENT, "the request asks for nothing")
            case _:
                files = descriptors().with_imports(_file_of(request), sent)
                answer.file_descriptor_response.file_descriptor_proto.extend(files)
    except KeyError as missing:
        wanted = str(missing.args[0])[:_LONGEST]
        _refuse(answer, grpc.StatusCode.NOT_FOUND, f"there are no descriptors of {wanted!r}")
    return answer


def _service(name: str) -> reflection_pb2.ServiceResponse:
    return reflection_pb2.ServiceResponse(name=name)


def _file_of(request: Request) -> str:
    """Return the name of the file that a request asks for. Raises KeyError."""
    match request.WhichOneof("message_request"):
        case "file_by_filename":
            return request.file_by_filename
        case "file_containing_symbol":
            return descriptors().symbols[request.file_containing_symbol]
    extension = request.file_containing_extension
    numbers = descriptors().extensions.get(extension.containing_type, {})
    if extension.extension_number not in numbers:
        raise KeyError(f"{extension.containing_type}[{extension.extension_number}]")
    return numbers[extension.extension_number]


def _extensions_of(name: str) -> reflection_pb2.ExtensionNumberResponse:
    """Return the numbers by which a type is extended. Raises KeyError for an unknown type."""
    if name not in descriptors().symbols:
        raise KeyError(name)
    numbers = sorted(descriptors().extensions.get(name, ()))
    return reflection_pb2.ExtensionNumberResponse(base_type_name=name, extension_number=numbers)


def _refuse(answer: Answer, code: grpc.StatusCode, message: str) -> None:
    answer.error_response.error_code = code.value[0]
    answer.error_response.error_message = message
