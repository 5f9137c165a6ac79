"""The end of a request whose HTTP client has left."""

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from rest_bridge.errors import BridgeError

Answer = TypeVar("Answer")


async def while_connected(receive: Receive, answer: Awaitable[Answer]) -> Answer:
    """Await an answer, and cancel it when the HTTP client disconnects.

    `receive` must have delivered the whole body of the request. Raises ClientDisconnect after a
    disconnect, and BridgeError when this process ends.
    """
    task = asyncio.current_task()
    assert task is not None, "a server runs each request in a task"
    gone = asyncio.create_task(_cancel_on_disconnect(receive, task))
    try:
        return await answer
    except asyncio.CancelledError:
        # Nothing above uses the cancellation: the client still gets an answer, if it is there.
        task.uncancel()
        if gone.done():
            raise ClientDisconnect from None
        # At the end of its shutdown the server cancels the requests that still run.
        raise BridgeError(
            "SHUTTING_DOWN", "the REST bridge is shutting down; retry when it is back"
        ) from None
    finally:
        gone.cancel()


async def _cancel_on_disconnect(receive: Receive, task: "asyncio.Task[Any]") -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    task.cancel()
