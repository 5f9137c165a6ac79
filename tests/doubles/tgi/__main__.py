"""`python -m <this package> [--model-id ID] [--port PORT] ...`, as the launcher is started."""

from __future__ import annotations

import asyncio
import os
import sys

from .faults import Behaviour
from .launcher import Launcher
from .router import VERSION
from .settings import Settings, UsageError, parse

_USAGE = "Usage: text-generation-launcher [OPTIONS]"


async def _run(settings: Settings, behaviour: Behaviour) -> int:
    return await Launcher(settings, behaviour, os.environ).run()


def main() -> int:
    """Exit statuses: 0 after a signal, 1 after a failure, 2 for an option that is not known."""
    words = sys.argv[1:]
    if {"-h", "--help"} & set(words):
        sys.stdout.write(_USAGE + "\n")
        return 0
    if {"-V", "--version"} & set(words):
        sys.stdout.write(f"text-generation-launcher {VERSION}\n")
        return 0
    try:
        settings = parse([word for word in words if word not in ("-e", "--env")], os.environ)
        behaviour = Behaviour.read(os.environ)
    except (UsageError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n\n{_USAGE}\n\n")
        sys.stderr.write("For more information, try '--help'.\n")
        return 2
    return asyncio.run(_run(settings, behaviour))


if __name__ == "__main__":
    sys.exit(main())
