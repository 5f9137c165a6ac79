"""`python -m <this package>`, for `text-generation-launcher`."""

from __future__ import annotations

import asyncio
import os
import sys

from .faults import Behaviour
from .launcher import Launcher
from .settings import Settings, UsageError, parse


async def _run(settings: Settings, behaviour: Behaviour) -> int:
    return await Launcher(settings, behaviour, os.environ).run()


def main() -> int:
    """Run the launcher. Returns 0 after a signal, 1 after a failure, 2 for a bad option."""
    try:
        settings = parse(sys.argv[1:], os.environ)
        behaviour = Behaviour.read(os.environ)
    except (UsageError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n\nUsage: text-generation-launcher [OPTIONS]\n\n")
        sys.stderr.write("For more information, try '--help'.\n")
        return 2
    return asyncio.run(_run(settings, behaviour))


if __name__ == "__main__":
    sys.exit(main())
