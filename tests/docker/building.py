"""The build of images from a context made here, when the inputs are new."""

import hashlib
import sys
from collections.abc import Callable, Iterable
from pathlib import Path, PurePath, PurePosixPath

from docker import DockerClient
from docker.errors import ImageNotFound

from . import rootfs
from .rootfs import Archive

LABEL = "inference-service-test"
"""The repository of all images made here, and a label that they carry."""

ROOT = PurePosixPath("rootfs")
"""The folder of a context whose files go to `/`."""

_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")

PYTHON_SETTINGS = f"""\
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8
ENV PIP_CERT={_CERTIFICATES} SSL_CERT_FILE={_CERTIFICATES}
CMD ["python"]
"""
"""Instructions that go with `add_python`: certificates trusted here are trusted there too."""

Sources = dict[PurePath, Path]
"""Files of this machine, by their path in a context."""


def image(
    client: DockerClient,
    name: str,
    dockerfile: str,
    inputs: Iterable[str | bytes],
    fill: Callable[[Archive], None],
) -> str:
    """Return the tag of an image of these inputs; build a missing one with `fill`."""
    digest = hashlib.sha256()
    recipe = (Path(__file__).read_bytes(), Path(rootfs.__file__).read_bytes(), dockerfile)
    for part in (*recipe, *inputs):
        content = part.encode() if isinstance(part, str) else part
        digest.update(b"%d:%b" % (len(content), content))
    tag = f"{LABEL}/{name}:{digest.hexdigest()[:16]}"
    try:
        client.images.get(tag)
    except ImageNotFound:
        with Archive() as archive:
            fill(archive)
            archive.write(PurePosixPath("Dockerfile"), dockerfile.encode())
            client.images.build(
                fileobj=archive.finish(),
                custom_context=True,
                tag=tag,
                labels={LABEL: name},
                rm=True,
                forcerm=True,
            )
    return tag


def packaged(
    client: DockerClient,
    name: str,
    dockerfile: str,
    requirements: Iterable[str],
    sources: Sources,
    scripts: dict[str, bytes] | None = None,
) -> str:
    """Build an image with packages of this environment, files of the checkout and scripts."""
    packages = rootfs.distributions(*requirements)
    scripts = scripts or {}

    def fill(archive: Archive) -> None:
        folder = ROOT / rootfs.packages_folder()
        files = {at: file for package in packages for file, at in rootfs.installed(package)}
        for at, file in files.items():
            archive.add(file, folder / at)
        for library in rootfs.libraries(files.values()) - rootfs.libraries(rootfs.interpreter()):
            archive.add(library, ROOT / rootfs.place(library))
        for at, file in sources.items():
            archive.add(file, at)
        for path, script in scripts.items():
            archive.write(ROOT / path, script, 0o755)

    inputs: list[str | bytes] = [f"{package.name}=={package.version}" for package in packages]
    for at, file in sources.items():
        inputs += [str(at), file.read_bytes()]
    return image(client, name, dockerfile, [*inputs, *scripts.values()], fill)


def python_version() -> list[str]:
    """Return the facts by which the results of `add_python` differ."""
    return [sys.version, str(rootfs.PYTHON), str(rootfs.PYTHON.stat().st_mtime_ns)]


def add_python(archive: Archive) -> None:
    """Add the interpreter, as `python` too, its libraries and this machine's certificates."""
    files = list(rootfs.interpreter())
    for file in (*files, *rootfs.libraries(files), _CERTIFICATES):
        archive.add(file, ROOT / rootfs.place(file))
    for name in ("python", "python3"):
        archive.link(ROOT / "usr/local/bin" / name, str(rootfs.PYTHON))


def sources(path: Path, at: PurePath) -> Sources:
    """Collect a file, or a folder without compiled files, for a path in the context."""
    if path.is_file():
        return {at: path}
    return {
        at / file.relative_to(path): file
        for file in sorted(path.rglob("*"))
        if file.is_file() and "__pycache__" not in file.parts
    }
