"""The images of the tests, each built without a registry and named by its inputs.

Every function takes the client of the daemon that shall have the image, and returns its tag. The
tag ends in a hash of the inputs, so that a second call costs one question to the daemon. The images
are kept for the next run of the tests; `docker image prune --all --filter
label=inference-service-test` removes them.
"""

import random
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from docker import DockerClient

from . import building
from .building import ROOT, Sources
from .rootfs import Archive

REPOSITORY = Path(__file__).parents[2]

_LLAMACPP = REPOSITORY / "deploy" / "llamacpp"
_LEFT_OUT = ("ARG", "FROM", "RUN", "#")


def python_base(client: DockerClient) -> str:
    """Build an image with nothing but a shell and the Python of these tests."""
    dockerfile = f"FROM scratch\nCOPY {ROOT} /\n{building.PYTHON_SETTINGS}"
    return building.image(client, "python", dockerfile, building.python_version(), _fill_base)


def tgi_double(client: DockerClient) -> str:
    """Build the double of TGI, with the settings of TGI's own image."""
    double = REPOSITORY / "tests" / "doubles" / "tgi"
    dockerfile = f"""\
FROM {python_base(client)}
COPY {ROOT} /
ENV HF_HOME=/data PORT=80
EXPOSE 80
WORKDIR /usr/src
ENTRYPOINT ["/tgi-entrypoint.sh"]
"""
    sources = building.sources(double, ROOT / "usr/src/tgi_double")
    scripts = {"tgi-entrypoint.sh": (double / "entrypoint.sh").read_bytes()}
    scripts["usr/bin/du"] = Path("/usr/bin/du").read_bytes()  # TGI's image has a whole system
    return building.packaged(client, "tgi", dockerfile, ["aiohttp"], sources, scripts)


def service(client: DockerClient) -> str:
    """Build an image of this service, for tests of one that runs in a container itself."""
    dockerfile = f"""\
FROM {python_base(client)}
COPY {ROOT} /
ENV PYTHONPATH=/service HOME=/tmp
ENTRYPOINT ["python", "-m", "inference_service"]
"""
    copied: Sources = {}
    for name in ("inference_service", "rest_bridge"):
        copied |= building.sources(REPOSITORY / name, ROOT / "service" / name)
    lines = (REPOSITORY / "requirements.in").read_text().splitlines()
    # The embedded engine stays out: the service of these tests has Docker.
    packages = [line for line in lines if line and not line.startswith(("#", "xllama", "pykd"))]
    return building.packaged(client, "service", dockerfile, packages, copied)


def llamacpp(client: DockerClient) -> str:
    """Build the image of `deploy/llamacpp/Dockerfile`, with packages of this environment.

    All instructions but `RUN` come from that file, so that the tests test its copies, its settings
    and its entry point.
    """
    joined = (_LLAMACPP / "Dockerfile").read_text().replace("\\\n", " ")
    kept = [line for line in joined.splitlines() if not line.startswith(_LEFT_OUT)]
    dockerfile = "\n".join([f"FROM {python_base(client)}", f"COPY {ROOT} /", *kept])
    copied: Sources = {}
    for names in re.findall(r"^COPY (.+) \S+$", "\n".join(kept), re.MULTILINE):
        for name in names.split():
            copied |= building.sources(REPOSITORY / name, PurePosixPath(name))
    packages = (_LLAMACPP / "requirements.in").read_text().split()
    return building.packaged(client, "llamacpp", dockerfile, packages, copied)


def missing_command(client: DockerClient) -> str:
    """Build an image without its command: with `init=True` it exits with 127, else cannot start."""
    return _derived(client, "missing-command", 'ENTRYPOINT ["/no/such/command"]')


def early_exit(client: DockerClient) -> str:
    """Build an image that writes `cannot go on` to standard error and exits with 3."""
    script = "import sys; print('cannot go on', file=sys.stderr); sys.exit(3)"
    return _derived(client, "early-exit", f'ENTRYPOINT ["python", "-c", "{script}"]')


def memory_hog(client: DockerClient) -> str:
    """Build an image that takes memory until killed; it exits with 4 at 1 GiB."""
    script = "import sys; kept = [bytearray(b'x' * 2**20) for _ in range(2**10)]; sys.exit(4)"
    return _derived(client, "memory-hog", f'ENTRYPOINT ["python", "-c", "{script}"]')


def ballast(client: DockerClient, layers: Sequence[int]) -> str:
    """Build an image with layers of so many incompressible bytes each, for slow pulls."""
    names = [f"ballast-{number}" for number in range(len(layers))]
    copies = "\n".join(f"COPY {name} /ballast/" for name in names)
    dockerfile = f"FROM {python_base(client)}\n{copies}\n"

    def fill(archive: Archive) -> None:
        for number, (name, size) in enumerate(zip(names, layers, strict=True)):
            archive.write(PurePosixPath(name), random.Random(number).randbytes(size))

    return building.image(client, "ballast", dockerfile, map(str, layers), fill)


def _derived(client: DockerClient, name: str, instructions: str) -> str:
    dockerfile = f"FROM {python_base(client)}\n{instructions}\n"
    return building.image(client, name, dockerfile, [], lambda archive: None)


def _fill_base(archive: Archive) -> None:
    for name in ("bin", "lib", "lib64", "sbin"):
        if Path("/", name).is_symlink():
            archive.link(ROOT / name, str(Path("/", name).readlink()))
    building.add_python(archive)
    archive.add(Path("/etc/ld.so.cache"), ROOT / "etc/ld.so.cache")
    archive.folder(ROOT / "tmp", 0o1777)
    archive.write(ROOT / "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
    archive.write(ROOT / "etc/group", b"root:x:0:\n")
    archive.write(ROOT / "etc/nsswitch.conf", b"hosts: files dns\n")
