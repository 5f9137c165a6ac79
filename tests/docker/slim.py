"""A stand-in for `python:3.12-slim` where no registry is: Debian with apt, and Python with pip."""

import platform
import subprocess
import tempfile

from docker import DockerClient
from docker.errors import ImageNotFound

from . import building
from .building import LABEL, ROOT


def python_slim(client: DockerClient) -> str:
    """Build an image of this machine's Debian, with the Python and pip of these tests.

    The first call takes half a minute and needs a mirror of Debian.
    """
    python = f"FROM {_debian(client)}\nCOPY {ROOT} /\n{building.PYTHON_SETTINGS}"
    inputs = building.python_version()
    base = building.image(client, "python-debian", python, inputs, building.add_python)
    pip = {"usr/local/bin/pip": b'#!/bin/sh\nexec python -m pip "$@"\n'}
    return building.packaged(
        client, "python-slim", f"FROM {base}\nCOPY {ROOT} /\n", ["pip"], {}, pip
    )


def _debian(client: DockerClient) -> str:
    release = platform.freedesktop_os_release()["VERSION_CODENAME"]
    name = f"{LABEL}/debian"
    try:
        client.images.get(f"{name}:{release}")
    except ImageNotFound:
        with tempfile.NamedTemporaryFile(suffix=".tar") as file:
            command = ["mmdebstrap", "--quiet", "--variant=minbase", release, file.name]
            subprocess.run(command, check=True)
            label = f"LABEL {LABEL}=debian"
            client.api.import_image_from_file(file.name, name, release, changes=[label])
    return f"{name}:{release}"
