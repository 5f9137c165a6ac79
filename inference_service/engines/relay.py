"""How the answers of engines are relayed: as they come to a sink, or gathered for an iterator."""

from __future__ import annotations

from inference_service.engines.answer import Answer
from inference_service.engines.exchange import Request, Sink, lost
from inference_service.engines.http import Connections
from inference_service.runtimes.base import Instance


async def forward(
    connections: Connections, instance: Instance, request: Request, sink: Sink
) -> None:
    """Do what `Engine.ask` promises, for an engine that speaks HTTP."""
    try:
        exchange = await connections.ask(instance, request, sink)
        await exchange.ended()
    except OSError as error:
        raise lost(error) from error


async def answer(connections: Connections, instance: Instance, request: Request) -> Answer:
    """Send a request, and return its answer as an iterator when the head has come."""
    answer = Answer()
    await connections.ask(instance, request, answer)
    return answer
