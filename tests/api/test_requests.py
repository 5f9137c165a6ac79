"""The checks of requests, by the rules of the proto."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import grpc
import pytest
from google.protobuf import duration_pb2

from inference_service.api import callers, requests
from inference_service.api.requests import Limits
from inference_service.catalog import ModelSpec
from inference_service.engines.base import Prompt
from inference_service.errors import InvalidParameter
from inference_service.serving.entry import Entry
from inference_service.serving.generation import Order
from inference_service.v1 import model_service_pb2 as pb
from rest_bridge.proxies import Proxies
from tests.fakes import FakeEngine, FakeRuntime, spec

REQUESTS: list[Any] = [pb.GenerateRequest, pb.GenerateStreamRequest]

TINY, LEAST, SINGLE = math.ulp(0.0), math.ulp(1.0), 2.0**-23
LARGEST = 2**31 - 1


def request(kind: Any = pb.GenerateRequest, **fields: Any) -> Any:
    return kind(**{"model_id": "tiny", "prompt": "once"} | fields)


LIMITS = Limits(60, 3600, 600)


class Context:
    """A call with so many seconds left."""

    def __init__(self, left: float | None = None) -> None:
        self.left = left

    def time_remaining(self) -> float | None:
        return self.left

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return (("x-caller", "somebody"),)

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"


def order(kind: Any, context: Any, **fields: Any) -> Order:
    entry = Entry.of(spec(), FakeRuntime(), FakeEngine())
    return requests.order(request(kind, **fields), context, entry, LIMITS)


def prompt(request: Any, spec: ModelSpec) -> Prompt:
    """Return the text that a request asks of a model for."""
    entry: Any = Entry.of(spec, FakeRuntime(), FakeEngine())
    call: Any = Context()
    return requests.order(request, call, entry, LIMITS).prompt


@pytest.mark.parametrize("kind", REQUESTS)
def test_a_field_that_is_not_set_has_the_default_of_the_proto(kind: Any) -> None:
    assert prompt(request(kind), spec()) == Prompt(
        "once",
        max_new_tokens=200,
        temperature=0.7,
        top_p=0.95,
        top_k=0,
        repetition_penalty=1.0,
        seed=None,
        stop=(),
    )


@pytest.mark.parametrize("kind", REQUESTS)
def test_a_field_that_is_set_is_passed_on(kind: Any) -> None:
    given = request(
        kind,
        max_new_tokens=1,
        temperature=0.0,
        top_p=1.0,
        top_k=3,
        repetition_penalty=2.0,
        seed=0,
        stop=["a", "b"],
    )

    assert prompt(given, spec()) == Prompt("once", 1, 0.0, 1.0, 3, 2.0, 0, ("a", "b"))


# For each field, values within the bounds, and values beyond them.
BOUNDS: list[tuple[str, list[Any], list[Any]]] = [
    ("max_new_tokens", [1, 128], [0, -1, 129, LARGEST, -LARGEST - 1]),
    ("temperature", [0.0, -0.0, 1e-6, 2.0], [-1e-6, 2.000001]),
    ("top_p", [1e-6, 0.5, 1.0], [0.0, -TINY, 1.000001]),
    ("top_k", [1, 1000], [0, -1, 1001, LARGEST]),
    ("repetition_penalty", [1e-6, 1.0, 2.0], [0.0, -TINY, -1.0, 2.000001]),
    ("seed", [0, LARGEST], [-1, -LARGEST - 1]),
    (
        "stop",
        [[], ["a"], ["a", "b", "c", "d"], [" "], ["🙂" * 1000] * 4],
        [["a"] * 5, [""], ["a", ""], ["a", "b" * 1001], ["a" * 900_000] * 4],
    ),
    ("prompt", [" ", "a", "\0", "🙂" * 10_000], [""]),
]

RULES = {
    "max_new_tokens": "must be from 1 to 128, the context length of tiny",
    "temperature": "must be from 0.0 to 2.0",
    "top_p": "must be above 0.0 and at most 1.0",
    "top_k": "must be from 1 to 1000",
    "repetition_penalty": "must be above 0.0 and at most 2.0",
    "seed": "must be from 0 to 2147483647",
    "stop": "must have at most 4 sequences, each of 1 to 1000 characters",
    "prompt": "must not be empty",
}


@pytest.mark.parametrize("kind", REQUESTS)
@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, within, _ in BOUNDS for value in within]
)
def test_a_value_within_the_bounds_is_taken(kind: Any, field: str, value: Any) -> None:
    made = prompt(request(kind, **{field: value}), spec())

    taken = getattr(made, "text" if field == "prompt" else field)
    assert taken == (tuple(value) if field == "stop" else value)


@pytest.mark.parametrize("kind", REQUESTS)
@pytest.mark.parametrize(
    ("field", "value", "meant"),
    [
        *(("temperature", value, 0.0) for value in (TINY, -TINY, 1e-38, 1e-8, -1e-8)),
        *(("temperature", value, 2.0) for value in (2 - 1e-8, 2 + 1e-8, 2.0000001)),
        *(("temperature", value, value) for value in (1e-6, 1.999999)),
        *(("top_p", value, SINGLE) for value in (TINY, 1e-38, 1e-8)),
        *(("top_p", value, 1.0) for value in (1 - 1e-8, 1 + LEAST, 1 + 1e-8)),
        *(("top_p", value, value) for value in (1e-6, 0.999999)),
        *(("repetition_penalty", value, SINGLE) for value in (TINY, 1e-38, 1e-8)),
        *(("repetition_penalty", value, 2.0) for value in (2 - 1e-8, 2 + 1e-8)),
        *(("repetition_penalty", value, value) for value in (1e-6, 1 + 1e-8)),
    ],
)
def test_what_single_precision_cannot_tell_from_a_bound_means_the_bound(
    kind: Any, field: str, value: float, meant: float
) -> None:
    """llama.cpp answers 1e-38 with noise, TGI takes 1e-46 for 0 and 0.99999999 for 1."""
    assert getattr(prompt(request(kind, **{field: value}), spec()), field) == meant


@pytest.mark.parametrize("kind", REQUESTS)
@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((field, value) for field, _, beyond in BOUNDS for value in beyond),
        *(
            (field, value)
            for field in ("temperature", "top_p", "repetition_penalty")
            for value in (math.nan, math.inf, -math.inf)
        ),
    ],
)
def test_a_value_beyond_the_bounds_is_refused_by_field_and_rule(
    kind: Any, field: str, value: Any
) -> None:
    with pytest.raises(InvalidParameter) as refused:
        prompt(request(kind, **{field: value}), spec())

    assert refused.value.message.startswith(f"{field} {RULES[field]}")
    assert refused.value.field == field
    assert refused.value.metadata == {"model_id": "tiny"}


@pytest.mark.parametrize(
    ("field", "value", "shown"),
    [
        ("temperature", 2.5, "2.5"),
        ("temperature", 2.000001, "2.000001"),
        ("temperature", math.nan, "nan"),
        ("top_p", -math.inf, "-inf"),
        ("max_new_tokens", 129, "129"),
        ("max_new_tokens", 1234567, "1234567"),
        ("seed", -1234567, "-1234567"),
    ],
)
def test_the_refused_value_is_shown_as_it_was_given(field: str, value: Any, shown: str) -> None:
    with pytest.raises(InvalidParameter) as refused:
        prompt(request(**{field: value}), spec())

    assert refused.value.message.endswith(f", not {shown}")


@pytest.mark.parametrize(("field", "value"), [("prompt", ""), ("stop", ["secret"] * 5)])
def test_no_text_of_the_caller_is_repeated(field: str, value: Any) -> None:
    with pytest.raises(InvalidParameter) as refused:
        prompt(request(**{field: value}), spec())

    assert refused.value.message == f"{field} {RULES[field]}"


def test_every_mistake_has_a_violation_of_its_own() -> None:
    wrong = {field: beyond[0] for field, _, beyond in BOUNDS}
    idle = duration_pb2.Duration(seconds=-5)

    with pytest.raises(InvalidParameter) as refused:
        prompt(request(**wrong, idle_timeout=idle), spec())

    found = refused.value.violations
    rules = RULES | {"idle_timeout": "must be from 0 to"}
    assert found.keys() == rules.keys()
    assert all(found[field].startswith(f"{field} {rule}") for field, rule in rules.items())
    assert refused.value.message == "; ".join(found.values())
    assert refused.value.field == "prompt"


def test_the_most_tokens_are_those_of_the_models_context() -> None:
    given = request(max_new_tokens=129)

    assert prompt(given, spec(context_length=129)).max_new_tokens == 129
    with pytest.raises(InvalidParameter):
        prompt(given, spec(context_length=128))


@pytest.mark.parametrize(("given", "full"), [({}, True), (True, True), (False, False)])
def test_the_text_has_the_prompt_unless_the_request_excludes_it(given: Any, full: bool) -> None:
    fields = {} if given == {} else {"return_full_text": given}

    assert requests.full_text(request(**fields)) is full


def stop(seconds: int, nanos: int = 0) -> pb.StopModelRequest:
    duration = duration_pb2.Duration(seconds=seconds, nanos=nanos)
    return pb.StopModelRequest(model_id="tiny", drain_timeout=duration)


@pytest.mark.parametrize(
    ("request_", "seconds"),
    [
        (pb.StopModelRequest(model_id="tiny"), None),
        (stop(0), 0),
        (stop(1, 500_000_000), 1.5),
        (stop(3600), 3600),
    ],
)
def test_a_drain_is_from_nothing_to_an_hour(
    request_: pb.StopModelRequest, seconds: float | None
) -> None:
    assert requests.drain(request_) == seconds


@pytest.mark.parametrize("request_", [stop(-1), stop(0, -1), stop(3600, 1), stop(2**62)])
def test_another_drain_is_refused(request_: pb.StopModelRequest) -> None:
    with pytest.raises(InvalidParameter, match="drain_timeout must be from 0 to 3600 s") as refused:
        requests.drain(request_)

    assert refused.value.field == "drain_timeout"


@pytest.mark.parametrize(
    "request_",
    [stop(2, -500_000_000), stop(-1, 500_000_000), stop(1, 10**9), stop(0, 2**31 - 1)],
)
def test_a_duration_of_mixed_signs_is_none(request_: pb.StopModelRequest) -> None:
    with pytest.raises(InvalidParameter, match="must have seconds and nanos of one sign"):
        requests.drain(request_)


@pytest.mark.parametrize("kind", [pb.ForwardRequest, pb.StartModelRequest])
def test_an_idle_timeout_is_from_nothing_to_the_limit_of_the_service(kind: Any) -> None:
    def asked(seconds: int, nanos: int = 0) -> Any:
        return kind(idle_timeout=duration_pb2.Duration(seconds=seconds, nanos=nanos))

    assert requests.idle_timeout(kind(), 60) is None
    assert requests.idle_timeout(asked(0), 60) == 0
    assert requests.idle_timeout(asked(59, 500_000_000), 60) == 59.5
    assert requests.idle_timeout(asked(60), 60) == 60
    for beyond in (asked(-1), asked(0, -1), asked(60, 1), asked(61)):
        with pytest.raises(
            InvalidParameter, match="idle_timeout must be from 0 to 60 s"
        ) as refused:
            requests.idle_timeout(beyond, 60)
        assert refused.value.field == "idle_timeout"


@pytest.mark.parametrize(("given", "count"), [({}, 100), (0, 0), (1, 1), (1000, 1000)])
def test_a_reader_of_logs_gets_up_to_a_thousand_lines(given: Any, count: int) -> None:
    fields = {} if given == {} else {"tail_line_count": given}

    assert requests.tail_line_count(pb.StreamLogsRequest(**fields)) == count


@pytest.mark.parametrize("count", [-1, 1001, LARGEST])
def test_another_number_of_lines_is_refused(count: int) -> None:
    with pytest.raises(InvalidParameter) as refused:
        requests.tail_line_count(pb.StreamLogsRequest(tail_line_count=count))

    assert refused.value.message == f"tail_line_count must be from 0 to 1000, not {count}"
    assert refused.value.field == "tail_line_count"


async def test_a_caller_is_named_by_a_proxy_or_by_a_key_or_by_an_address() -> None:
    names: list[str] = []

    async def handle(request: bytes, context: Any) -> bytes:
        names.append(callers.caller(context)[-1])
        return b""

    server = grpc.aio.server()
    handler: Any = grpc.unary_unary_rpc_method_handler(handle)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("s", {"m": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: Any = channel.unary_unary("/s/m")
        key, name = ("authorization", "Bearer one"), ("x-caller", "10.0.0.7")
        for metadata in ((), (key,), (key, name)):
            await call(b"", metadata=metadata)
    await server.stop(0)

    assert names == ["ipv4:127.0.0.1", "Bearer one", "10.0.0.7"]


class Call:
    """A call of a peer that names its caller in both ways."""

    def __init__(self, peer: str) -> None:
        self.peer = lambda: peer

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return (("x-caller", "named"), ("x-forwarded-for", "9.9.9.9"))


@pytest.mark.parametrize(
    ("peer", "name"),
    [
        ("in-process", "named"),
        ("unix:", "named"),
        ("unix:/run/service.sock", "named"),
        ("ipv4:127.0.0.1:5", "named"),
        ("ipv6:%5B::1%5D:5", "named"),
        ("ipv6:[::1]:5", "named"),
        ("ipv4:10.1.2.3:5", "named"),
        ("ipv6:%5B::ffff:10.1.2.3%5D:5", "named"),
        ("ipv4:11.1.2.3:5", "ipv4:11.1.2.3"),
        ("ipv6:%5B2001:db8::1%5D:5", "ipv6:%5B2001:db8::1%5D"),
        ("ipv6:%5Bfe80::1%25eth0%5D:5", "ipv6:%5Bfe80::1%25eth0%5D"),
    ],
)
def test_a_peer_of_this_machine_and_a_trusted_proxy_may_name_a_caller(peer: str, name: str) -> None:
    call: Any = Call(peer)

    assert callers.caller(call, Proxies(["10.0.0.0/8"]))[-1] == name


@pytest.mark.parametrize("kind", [pb.GenerateRequest, pb.GenerateStreamRequest])
async def test_an_order_has_what_the_call_says(kind: Any) -> None:
    idle = duration_pb2.Duration(seconds=5)
    now = asyncio.get_running_loop().time()

    made = order(kind, Context(10), idle_timeout=idle)

    assert (made.prompt.text, made.timeout, made.idle_timeout) == ("once", 60, 5)
    assert made.caller == ("127.0.0.1", "", "somebody")
    assert now + 10 <= made.deadline <= asyncio.get_running_loop().time() + 10
    assert not made.resumes
    assert order(kind, Context()).deadline == math.inf
    assert order(kind, Context()).idle_timeout is None


async def test_a_stream_resumes_where_it_asks_for_it() -> None:
    assert order(pb.GenerateStreamRequest, Context(), resume=True).resumes
