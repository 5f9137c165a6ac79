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
from inference_service.engines.base import Prompt
from inference_service.errors import InvalidParameter
from inference_service.serving.entry import Entry
from inference_service.serving.generation import Order
from inference_service.v1 import model_service_pb2 as pb
from rest_bridge.proxies import Proxies
from tests.fakes import FakeEngine, FakeRuntime, spec

REQUESTS: list[Any] = [pb.GenerateRequest, pb.GenerateStreamRequest]

TINY, LEAST = math.ulp(0.0), math.ulp(1.0)
LARGEST = 2**31 - 1


def request(kind: Any = pb.GenerateRequest, **fields: Any) -> Any:
    return kind(**{"model_id": "tiny", "prompt": "once"} | fields)


@pytest.mark.parametrize("kind", REQUESTS)
def test_a_field_that_is_not_set_has_the_default_of_the_proto(kind: Any) -> None:
    assert requests.prompt(request(kind), spec()) == Prompt(
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

    assert requests.prompt(given, spec()) == Prompt("once", 1, 0.0, 1.0, 3, 2.0, 0, ("a", "b"))


# For each field, values within the bounds, and values beyond them.
BOUNDS: list[tuple[str, list[Any], list[Any]]] = [
    ("max_new_tokens", [1, 128], [0, -1, 129, LARGEST, -LARGEST - 1]),
    ("temperature", [0.0, -0.0, TINY, 2.0], [-TINY, 2.0 + 2 * LEAST]),
    ("top_p", [TINY, 0.5, 1.0], [0.0, -TINY, 1.0 + LEAST]),
    ("top_k", [1, 1000], [0, -1, 1001, LARGEST]),
    ("repetition_penalty", [TINY, 1.0, 2.0], [0.0, -1.0, 2.0 + 2 * LEAST]),
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
    prompt = requests.prompt(request(kind, **{field: value}), spec())

    taken = getattr(prompt, "text" if field == "prompt" else field)
    # An engine, which counts with 32 bits, would take the smallest number for 0, and refuse it.
    wanted: Any = 1e-30 if value == TINY else value
    assert taken == (tuple(wanted) if field == "stop" else wanted)


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
        requests.prompt(request(kind, **{field: value}), spec())

    assert refused.value.message.startswith(f"{field} {RULES[field]}")
    assert refused.value.field == field
    assert refused.value.metadata == {"model_id": "tiny"}


@pytest.mark.parametrize(
    ("field", "value", "shown"),
    [
        ("temperature", 2.5, "2.5"),
        ("temperature", 2.0000001, "2.0000001"),
        ("temperature", math.nan, "nan"),
        ("top_p", -math.inf, "-inf"),
        ("max_new_tokens", 129, "129"),
        ("max_new_tokens", 1234567, "1234567"),
        ("seed", -1234567, "-1234567"),
    ],
)
def test_the_refused_value_is_shown_as_it_was_given(field: str, value: Any, shown: str) -> None:
    with pytest.raises(InvalidParameter) as refused:
        requests.prompt(request(**{field: value}), spec())

    assert refused.value.message.endswith(f", not {shown}")


@pytest.mark.parametrize(("field", "value"), [("prompt", ""), ("stop", ["secret"] * 5)])
def test_no_text_of_the_caller_is_repeated(field: str, value: Any) -> None:
    with pytest.raises(InvalidParameter) as refused:
        requests.prompt(request(**{field: value}), spec())

    assert refused.value.message == f"{field} {RULES[field]}"


def test_the_message_has_every_mistake_and_the_field_is_the_first() -> None:
    wrong = {field: beyond[0] for field, _, beyond in BOUNDS}

    with pytest.raises(InvalidParameter) as refused:
        requests.prompt(request(**wrong), spec())

    for field, rule in RULES.items():
        assert f"{field} {rule}" in refused.value.message
    assert refused.value.field == "prompt"


def test_the_most_tokens_are_those_of_the_models_context() -> None:
    given = request(max_new_tokens=129)

    assert requests.prompt(given, spec(context_length=129)).max_new_tokens == 129
    with pytest.raises(InvalidParameter):
        requests.prompt(given, spec(context_length=128))


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


@pytest.mark.parametrize("kind", [*REQUESTS, pb.StartModelRequest])
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


LIMITS = Limits(60, 3600, 600)


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
    request = kind(model_id="tiny", prompt="once", **fields)
    entry = Entry.of(spec(), FakeRuntime(), FakeEngine())
    return requests.order(request, context, entry, LIMITS)


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
