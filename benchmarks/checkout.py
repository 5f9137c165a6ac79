"""The service of another checkout: `python -P benchmarks/checkout.py FOLDER PORT ...`.

This file runs `benchmarks.service` of FOLDER, maybe on the interpreter of FOLDER, so it imports the
standard library alone. `-P` keeps the folder of this file off sys.path, because modules of that
folder would come before all others.
"""

import importlib
import sys
from pathlib import Path

PACKAGES = ("inference_service", "rest_bridge", "benchmarks.service")


def imported(folder: Path) -> None:
    """Import the service from `folder`. Exits with a sentence if Python finds other code.

    With an editable install, Python finds the packages of the installed checkout as well.
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
