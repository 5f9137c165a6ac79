"""`python -P benchmarks/checkout.py FOLDER PORT ...`: run `benchmarks.service` of another checkout.

The interpreter may be that of the other checkout, so this file imports the standard library alone.
`-P` keeps the folder of this file off sys.path: its modules would stand in front of all others.
"""

import importlib
import sys
from pathlib import Path

PACKAGES = ("inference_service", "rest_bridge", "benchmarks.service")


def imported(folder: Path) -> None:
    """Import the service from `folder`. Exits with a sentence if other code is found.

    An editable install puts its own checkout on the path of every interpreter of its environment.
    """
    sys.path.insert(0, str(folder))
    for name in PACKAGES:
        file = importlib.import_module(name).__file__
        if file is None or not Path(file).resolve().is_relative_to(folder):
            sys.exit(f"{name} was imported from {file}, not from {folder}")


def main() -> None:
    """Serve with the code of FOLDER."""
    folder, *arguments = sys.argv[1:]
    imported(Path(folder).resolve())
    sys.argv = ["benchmarks.service", *arguments]
    sys.modules["benchmarks.service"].main()


if __name__ == "__main__":
    main()
