"""The interactive documentation and the OpenAPI document."""

import json
import re
from typing import Any

import pytest
from google.protobuf import json_format

from inference_service.v1 import model_service_pb2 as pb
from rest_bridge.dialects.endpoints import shape_at
from rest_bridge.openapi import EVENTS_EXAMPLE, EXAMPLES
from tests.rest_bridge.conftest import Bridge
from tests.rest_bridge.scripted import ScriptedService
from tests.rest_bridge.test_errors import RULES

SUCCESSES = {
    ("/", "get"): "INFO",
    ("/models", "get"): "MODELS",
    ("/models/{model_id}/start", "post"): "START",
    ("/models/{model_id}/stop", "post"): "STOP",
    ("/catalog:reload", "post"): "RELOAD",
    ("/generate", "post"): "GENERATE",
}
MODEL = ("/models/{model_id}", "get")
DOCUMENTED_ERRORS = {
    ("/models/{model_id}/start", "post"): {"503"},
    ("/models/{model_id}/stop", "post"): {"404", "500"},
    ("/generate", "post"): {"404", "503", "504"},
}


@pytest.fixture
def transport() -> str:
    """Use one transport: the pages make no call of the service."""
    return "wire"


@pytest.fixture
async def document(bridge: Bridge) -> dict[str, Any]:
    """Return the document without the dialects, which have tests of their own."""
    document: dict[str, Any] = (await bridge.client.get("/openapi.json")).json()
    document["paths"] = own(document["paths"])
    return document


def own(paths: dict[str, Any]) -> dict[str, Any]:
    return {path: of for path, of in paths.items() if shape_at(path) is None}


async def test_operations(document: dict[str, Any]) -> None:
    assert document["info"]["title"] == "LLM Inference API"
    operations = {
        (path, method): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    streams = {
        ("/generate_stream", "post"),
        ("/models:watch", "get"),
        ("/models/{model_id}/logs", "get"),
    }
    assert set(operations) == {*SUCCESSES, *streams, MODEL}
    assert len({operation["operationId"] for operation in operations.values()}) == 10
    for key, operation in operations.items():
        assert operation["summary"] and operation["description"]
        assert DOCUMENTED_ERRORS.get(key, set()) <= set(operation["responses"])


async def test_successes_have_the_documented_example(document: dict[str, Any]) -> None:
    for (path, method), example in SUCCESSES.items():
        content = document["paths"][path][method]["responses"]["200"]["content"]
        assert json.dumps(content["application/json"]["example"]) == json.dumps(EXAMPLES[example])
    stream = document["paths"]["/generate_stream"]["post"]["responses"]["200"]["content"]
    assert stream["text/event-stream"]["example"] == EVENTS_EXAMPLE


async def test_examples_fit_their_schemas(document: dict[str, Any]) -> None:
    """Expect the documented fields of each response, in the documented order."""
    schemas = document["components"]["schemas"]
    for (path, method), example in SUCCESSES.items():
        content = document["paths"][path][method]["responses"]["200"]["content"]
        name = content["application/json"]["schema"]["$ref"].rpartition("/")[2]
        assert list(schemas[name]["properties"]) == list(EXAMPLES[example])
        assert schemas[name]["required"] == list(EXAMPLES[example])
    assert list(schemas["ModelResponse"]["properties"]) == list(EXAMPLES["MODELS"]["models"][0])


async def test_the_example_of_a_model_has_the_fields_of_one(document: dict[str, Any]) -> None:
    example = EXAMPLES["MODEL"]
    content = document["paths"][MODEL[0]]["get"]["responses"]["200"]["content"]
    assert content["application/json"]["example"] == example
    json_format.ParseDict(example, pb.Model())
    schema = document["components"]["schemas"]["ModelDetails"]
    assert set(example) <= set(schema["properties"]) <= set(pb.Model.DESCRIPTOR.fields_by_name)


async def test_every_model_id_is_filled_in_with_one_that_runs_at_once(
    document: dict[str, Any],
) -> None:
    """`gpt-2` began a download, or failed without Docker."""
    ids = [
        parameter["schema"]["example"]
        for methods in document["paths"].values()
        for operation in methods.values()
        for parameter in operation.get("parameters", ())
        if parameter["name"] == "model_id" and parameter["in"] == "path"
    ]
    assert ids == ["story-mini"] * 4


def failures(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """List the status and the content of every error response."""
    return [
        (status, response["content"]["application/json"])
        for methods in document["paths"].values()
        for operation in methods.values()
        for status, response in operation["responses"].items()
        if status != "200"
    ]


async def test_errors_have_one_schema(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert list(schemas["ErrorResponse"]["properties"]) == ["detail"]
    assert not any("Validation" in name for name in schemas)
    for _, content in failures(document):
        assert content["schema"] == {"$ref": "#/components/schemas/ErrorResponse"}


async def test_examples_of_errors_are_the_actions_of_the_contract(
    document: dict[str, Any],
) -> None:
    reasons = set()
    for status, content in failures(document):
        for reason, example in content.get("examples", {}).items():
            assert example == {"value": {"detail": RULES[reason].action}}
            assert status == str(RULES[reason].http_status)
            reasons.add(reason)
        assert "example" not in content
    # Of gRPC, of events, and of the dialects.
    of_grpc = {"DEADLINE_TOO_SHORT", "DEADLINE_PASSED", "METHOD_NOT_OFFERED"}
    assert reasons == set(RULES) - {*of_grpc, "STREAM_NOT_READ", "PATH_NOT_OFFERED"}


async def test_requests_document_the_bounds_of_the_service(document: dict[str, Any]) -> None:
    requests = {
        path: document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        for path in ("/generate", "/generate_stream")
    }
    generate, stream = (request["schema"]["properties"] for request in requests.values())
    assert list(generate)[:5] == list(EXAMPLES["GENERATE_REQUEST"])
    example = EXAMPLES["GENERATE_REQUEST"] | {"model_id": "story-mini"}
    assert requests["/generate"]["example"] == requests["/generate_stream"]["example"] == example
    assert requests["/generate"]["schema"]["required"] == ["model_id", "prompt"]
    assert set(generate) ^ set(stream) == {
        *("return_full_text", "stream", "status_events", "resume")
    }
    bounds = ("type", "default", "minimum", "exclusiveMinimum", "maximum")
    assert {
        name: [field[bound] for bound in bounds if bound in field]
        for name, field in generate.items()
    } == {
        "model_id": ["string"],
        "prompt": ["string"],
        "max_new_tokens": [["integer", "null"], 200, 1, 2147483647],
        "temperature": [["number", "null"], 0.7, 0, 2],
        "top_p": [["number", "null"], 0.95, 0, 1],
        "top_k": [["integer", "null"], 1, 1000],
        "repetition_penalty": [["number", "null"], 1, 0, 2],
        "seed": [["integer", "null"], 0, 2147483647],
        "stop": [["array", "null"], []],
        "return_full_text": [["boolean", "null"], True],
        "stream": [["boolean", "null"], False],
    }


@pytest.mark.parametrize(("path", "files"), [("/docs", 3), ("/redoc", 2)])
async def test_pages_load_nothing_from_elsewhere(bridge: Bridge, path: str, files: int) -> None:
    page = await bridge.client.get(path)
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'self'; ")
    assert "http" not in policy and "*" not in policy
    links = re.findall(r"""(?:src|href)=["']([^"']+)["']""", page.text)
    assert len(links) == files
    for link in links:
        assert link.startswith("/docs-assets/")
        assert (await bridge.client.get(link)).status_code == 200
    assert "/openapi.json" in page.text
    assert "fastapi" not in page.text


async def test_an_asset_that_is_not_there(bridge: Bridge) -> None:
    for path in ("/docs-assets/nothing.js", "/docs-assets/..%2f__init__.py", "/docs-assets/"):
        response = await bridge.client.get(path)
        assert response.status_code == 404
        assert list(response.json()) == ["detail"]


async def test_pages_make_no_call_of_the_service(bridge: Bridge, service: ScriptedService) -> None:
    for path in ("/docs", "/redoc", "/openapi.json"):
        assert (await bridge.client.get(path)).status_code == 200
    assert service.received == []
