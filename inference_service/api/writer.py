"""The writer of a stream's messages, before the first of which the headers leave."""

from __future__ import annotations

from typing import Any

from inference_service.api.methods import Context, accept


class Writer:
    """The writer of one call: `write` sends the headers first, unless `open` has done so.

    Headers commit a call: no client's retry policy works after them. So a call that fails before
    its first message ends with a status alone, after which a policy may make another attempt.
    """

    def __init__(self, context: Context) -> None:
        self._context = context

    async def open(self) -> None:
        """Send the headers of a stream that may be quiet for long."""
        await accept(self._context)
        # For each message there is no more to do than to write it.
        self.write = self._context.write  # type: ignore[method-assign]

    async def write(self, message: Any) -> None:
        """Write the first message; `open` puts the method of the context in this place."""
        await self.open()
        await self.write(message)
