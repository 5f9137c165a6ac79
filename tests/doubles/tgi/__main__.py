"""`python -m <this package>`, for `text-generation-launcher` and its `text-generation-router`."""

from __future__ import annotations

import asyncio
import os
import sys

from .children import ROUTER
from .faults import Behaviour
from .launcher import Launcher
from .settings import Settings, UsageError, parse


async def _launch(settings: Settings, behaviour: Behaviour) -> int:
    return await Launcher(settings, behaviour, os.environ).run()


async def _route(settings: Settings, behaviour: Behaviour, shards: int) -> int:
    from .router import run  # with aiohttp, which the launcher does not need

    return await run(settings, behaviour, os.environ, shards)


def main() -> int:
    """Run one of the programs. Returns 0 after a signal, 1 after a failure, 2 for a bad option."""
    routes = sys.argv[1:2] == [ROUTER]
    try:
        settings = parse([] if routes else sys.argv[1:], os.environ)
        behaviour = Behaviour.read(os.environ)
    except (UsageError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n\nUsage: text-generation-launcher [OPTIONS]\n\n")
        sys.stderr.write("For more information, try '--help'.\n")
        return 2
    if routes:
        return asyncio.run(_route(settings, behaviour, int(sys.argv[2])))
    return asyncio.run(_launch(settings, behaviour))


if __name__ == "__main__":
    sys.exit(main())
