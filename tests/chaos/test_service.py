"""The service itself is killed, and what it leaves is taken over; a port is lost to a stranger."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import grpc
import pytest

from inference_service import server
from inference_service.runtimes.ports import Ports
from inference_service.v1 import model_service_pb2_grpc as pb_grpc
from tests.chaos.callers import LOST, STREAMS, Crowd
from tests.chaos.conftest import Faulty
from tests.chaos.trial import ENDLESS
from tests.serving import serving
from tests.test_service_docker import command

pytestmark = [pytest.mark.docker, pytest.mark.chaos]

Settings = Callable[..., dict[str, Any]]


async def test_killed_amid_streams(faulty: Faulty, tgi: Settings) -> None:
    settings = tgi(DOUBLE_TOKENS_PER_SECOND=50)
    async with faulty("kill -9 of the service amid 10 streams", {LOST}) as trial:
        same = {"service_name": trial.service_name, "volume": trial.service_name}
        same |= {"ports": trial.ports} | settings
        flags = {f"--{name.replace('_', '-')}": str(value) for name, value in same.items()}
        arguments = [word for flag in flags.items() for word in flag if flag[0] != "--runtime"]
        async with command("--grpc-port", "0", "--rest-port", "0", *arguments) as process:
            assert process.stdout is not None
            faces: dict[str, str] = {}
            while len(faces) < 2:
                name, _, address = (await process.stdout.readline()).decode().partition(" ")
                if name in ("gRPC", "REST"):
                    faces[name] = address.split()[0]
            async with grpc.aio.insecure_channel(faces["gRPC"]) as channel:
                trial.http.base_url = faces["REST"]
                body = ENDLESS | {"model_id": trial.model_id}
                stub = pb_grpc.ModelServiceStub(channel)
                crowd = Crowd(stub, trial.http, 10, body, STREAMS)
                trial.crowds.append(crowd)
                await crowd.reading()
                before = trial.container()
                trial.strike()
                process.kill()
                await crowd.answered()
        async with serving(**same) as service:
            await trial.heal(service)
            assert trial.container().id == before.id
            await trial.judge()
        assert [caller.answers for caller in crowd.callers] == [[LOST]] * 10


class Stolen(Ports):
    """Ports of which a stranger takes the next `left`, each after it was found free."""

    left = 0
    strangers = ExitStack()

    @contextmanager
    def claim(self, avoid: frozenset[int] = frozenset()) -> Iterator[int]:
        with super().claim(avoid) as port:
            if Stolen.left:
                Stolen.left -= 1
                self.strangers.enter_context(socket.create_server(("127.0.0.1", port)))
            yield port


async def test_a_port_is_taken_between_choice_and_start(
    faulty: Faulty, tgi: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "Ports", Stolen)
    async with (
        faulty("two ports taken between choice and start") as trial,
        trial.serving(**tgi()) as service,
    ):
        with Stolen.strangers:
            Stolen.left = 2
            trial.strike()
            await trial.call(service, 20).answered()
            await trial.heal(service)
            assert Stolen.left == 0
