"""One fault on a whole service, which is at rest before it and after it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from docker import DockerClient
from docker.errors import APIError, NotFound
from docker.models.containers import Container

from inference_service.v1 import model_service_pb2 as pb
from tests.chaos.callers import ALL, TEXT, Crowd, Kind
from tests.chaos.leftovers import Held, held, left_behind
from tests.chaos.report import Row
from tests.service import Serving, serving

PROMPT = "Once upon a time"
ENDLESS = {"prompt": f"[[no_eos]] {PROMPT}", "max_new_tokens": 900}
SHORT = {"prompt": PROMPT, "max_new_tokens": 5}


@dataclass
class Trial:
    """A fault with its callers. `allowed` are the reasons that fit it; a text always does."""

    row: Row
    connect: Callable[[], DockerClient]
    client: DockerClient
    service_name: str
    model_id: str
    ports: str
    allowed: Collection[str]
    http: httpx.AsyncClient
    crowds: list[Crowd] = field(default_factory=list)
    struck_at: float = 0.0
    pooled: Sequence[str] = ()  # see `left_behind`
    rest_at: str = ""  # the URL for calls on REST; by default that of the service

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that keep a service of this trial apart from all others."""
        return {
            "service_name": self.service_name,
            "volume": self.service_name,
            "ports": self.ports,
        }

    def held(self) -> Held:
        """Count the things of the service and of this process."""
        first, _, last = self.ports.partition("-")
        return held(self.service_name, range(int(first), int(last) + 1), self.connect)

    def container(self) -> Container:
        """Return the container of the engine."""
        return self.client.containers.get(f"{self.service_name}-tgi-{self.model_id}")

    async def model(self, service: Serving) -> pb.Model:
        """Return the model as the service shows it."""
        return (await service.stub.GetModel(pb.GetModelRequest(model_id=self.model_id))).model

    def call(
        self, service: Serving, count: int, body: Any = SHORT, kinds: tuple[Kind, ...] = ALL
    ) -> Crowd:
        """Call the model `count` times at once; each call has to be answered."""
        crowd = self.passers_by(service, count, body, kinds)
        self.crowds.append(crowd)
        return crowd

    def passers_by(
        self, service: Serving, count: int, body: Any = SHORT, kinds: tuple[Kind, ...] = ALL
    ) -> Crowd:
        """Call the model `count` times at once; the answers are not judged."""
        self.http.base_url = self.rest_at or service.http.base_url
        body = body | {"model_id": self.model_id}
        return Crowd(service.stub, self.http, count, body, kinds)

    def strike(self) -> None:
        """Note that the fault happens now."""
        self.struck_at = time.monotonic()

    async def heal(self, service: Serving) -> None:
        """Call until a text comes, and wait before each retry for as long as the refusal says."""
        while time.monotonic() < self.struck_at + 90:
            crowd = self.call(service, 1, kinds=("Generate",))
            await crowd.answered()
            if crowd.callers[0].answers == [TEXT]:
                self.row.healthy = time.monotonic() - self.struck_at
                return
            await asyncio.sleep(max(0.05, crowd.callers[0].retry_after))

    async def judge(self) -> None:
        """Note the answers of each caller."""
        fitting = {TEXT, *self.allowed}
        for crowd in self.crowds:
            await crowd.answered()
            for caller in crowd.callers:
                self.row.calls += 1
                self.row.answered += len(caller.answers) == 1
                wrong = [answer for answer in caller.answers if answer not in fitting]
                self.row.wrong += [f"{answer} ({caller.message})" for answer in wrong]
                if caller.task.done():
                    caller.task.result()  # raises what is a fault of the test, not of the service
                else:
                    await caller.vanish()

    def verdict(self) -> None:
        """Fail if an answer was wrong or missing, or anything is left."""
        row = self.row
        assert row.calls == row.answered, f"{row.fault}: not every caller had one answer"
        assert not row.wrong, f"{row.fault}: answered with {sorted(set(row.wrong))}"
        assert not row.left, f"{row.fault}: left {row.left}"
        assert row.healthy is not None, f"{row.fault}: no text came any more"

    @asynccontextmanager
    async def serving(self, **settings: Any) -> AsyncGenerator[Serving]:
        """Run a service; at the end its model is stopped, and leftovers are noted.

        The service has served before, and so has opened all that a service opens once.
        """
        async with serving(**self.settings | settings) as service:
            await self.served(service)
            before = self.held()
            yield service
            await self.judge()
            await self.at_rest(service)
            await self.stopped(service)
            self.row.left += await left_behind(before, self.held, running=True, pooled=self.pooled)

    async def served(self, service: Serving) -> None:
        """Let the model serve once, and stop it."""
        crowd = self.passers_by(service, len(ALL))
        await crowd.answered()
        assert [caller.answers for caller in crowd.callers] == [[TEXT]] * len(ALL)
        await self.stopped(service)

    async def at_rest(self, service: Serving) -> None:
        """Wait until the service has no request; requests that do not end are leftovers."""
        end = time.monotonic() + 5
        while True:
            model = await self.model(service)
            counts = {
                "request": model.active_request_count,
                "queued request": model.queued_request_count,
            }
            if not any(counts.values()) or time.monotonic() > end:
                self.row.left += (name for name, count in counts.items() for _ in range(count))
                return
            await asyncio.sleep(0.05)

    async def stopped(self, service: Serving) -> None:
        """Stop the model, and close the connections of its callers."""
        await service.stub.StopModel(pb.StopModelRequest(model_id=self.model_id))
        quote = service.service.models.find(self.model_id).quote()
        if quote.free != quote.capacity:
            self.row.left.append("memory")
        await self.http.aclose()
        self.http = new_client()

    def forget_volume(self) -> None:
        """Remove the volume of the weights; a volume that is in use is a leftover."""
        try:
            self.client.volumes.get(self.service_name).remove()
        except NotFound:
            return
        except APIError as error:
            self.row.left.append(f"volume: {error.explanation}")


def new_client() -> httpx.AsyncClient:
    """Return a client for any number of callers at once."""
    return httpx.AsyncClient(timeout=60, trust_env=False, limits=httpx.Limits(max_connections=None))
