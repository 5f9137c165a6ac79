"""A bed for each engine."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AbstractAsyncContextManager

import pytest

from inference_service.runtimes.ports import Ports
from tests.engines import beds
from tests.engines.beds import Bed
from tests.engines.real import beds as real_beds

Open = Callable[[], AbstractAsyncContextManager[Bed]]

_REAL = [
    *("llamacpp", "tgi", "tgi on a GPU", "tgi, whole texts", "openai"),
    *(pytest.param(name, marks=[pytest.mark.engines]) for name in real_beds.KINDS),
]


def _open(request: pytest.FixtureRequest, ports: Ports) -> AbstractAsyncContextManager[Bed]:
    match name := request.param:
        case _ if name in real_beds.KINDS:
            return real_beds.opened(name, request.node.originalname)
        case "llamacpp":
            return beds.llamacpp(ports)
        case "tgi" | "tgi on a GPU" | "tgi, whole texts":
            whole, gpu = name == "tgi, whole texts", name == "tgi on a GPU"
            return beds.tgi(whole=whole, gpu=gpu, DOUBLE_TOKENS_PER_SECOND="500")
        case "openai":
            return beds.openai(ports)
        case _:
            return beds.fake()


@pytest.fixture(params=["fake", *_REAL])
async def bed(request: pytest.FixtureRequest, ports: Ports) -> AsyncGenerator[Bed]:
    """Every engine."""
    async with _open(request, ports) as bed:
        yield bed


@pytest.fixture(params=_REAL)
async def real(request: pytest.FixtureRequest, ports: Ports) -> AsyncGenerator[Bed]:
    """Every engine with a program."""
    async with _open(request, ports) as bed:
        yield bed


@pytest.fixture(params=_REAL)
async def slow(request: pytest.FixtureRequest, ports: Ports) -> AsyncGenerator[Bed]:
    """Every engine with a program, which works for seconds on thirty requests."""
    if request.param in real_beds.KINDS:
        async with _open(request, ports) as bed:
            yield bed
    elif request.param == "llamacpp":
        async with beds.llamacpp(ports, slots=1) as bed:
            yield bed
    elif request.param == "openai":
        async with beds.openai(ports, slots=1) as bed:
            yield bed
    else:
        whole, gpu = request.param == "tgi, whole texts", request.param == "tgi on a GPU"
        async with beds.tgi(whole=whole, gpu=gpu, DOUBLE_TOKENS_PER_SECOND="50") as bed:
            yield bed


@pytest.fixture(scope="session", autouse=True)
def _no_real_engine_is_left() -> Iterator[None]:
    yield
    real_beds.end_all()
