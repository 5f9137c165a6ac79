"""The contexts of the `docker` command: the daemon that its user has chosen, from its files.

The SDK reads them too, but takes the default socket for a context that does not exist, and looks
in the current folder where there is no `config.json`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference_service.errors import ContextUnusable
from inference_service.home import home

log = logging.getLogger(__name__)

DEFAULT = "default"  # the context of DOCKER_HOST or the default socket


@dataclass(frozen=True, slots=True)
class Tls:
    """The files for TLS with a daemon, those that exist, and whether its certificate is checked."""

    ca: Path | None
    cert: Path | None
    key: Path | None
    verify: bool

    @classmethod
    def of(cls, folder: Path, verify: bool) -> Tls:
        """Take the files of a folder by the names that the `docker` command gives them."""
        ca, cert, key = (_existing(folder / f"{name}.pem") for name in ("ca", "cert", "key"))
        return cls(ca, cert, key, verify)


@dataclass(frozen=True, slots=True)
class Context:
    """A context, with the address of its daemon; an empty one is the default socket."""

    name: str
    address: str
    tls: Tls | None


def folder() -> Path:
    """Return the folder of the files of the `docker` command."""
    return Path(os.environ.get("DOCKER_CONFIG") or home() / ".docker")


def current() -> Context | None:
    """Return the context that was chosen; None for the default one. Raises ContextUnusable."""
    name, chosen_by = os.environ.get("DOCKER_CONTEXT", ""), "DOCKER_CONTEXT"
    if not name:
        file = folder() / "config.json"
        name, chosen_by = _chosen_in(file), f"`currentContext` in {file}"
    if not name or name == DEFAULT:
        return None
    return _read(name, chosen_by)


def _chosen_in(file: Path) -> str:
    """Return the name in `config.json`. As the command does, pass over a file that is no JSON."""
    try:
        chosen = _json(file).get("currentContext")
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        log.warning("%s cannot be read, so it names no Docker context: %s", file, error)
        return ""
    return chosen if isinstance(chosen, str) else ""


def _read(name: str, chosen_by: str) -> Context:
    digest = hashlib.sha256(name.encode()).hexdigest()
    contexts = folder() / "contexts"
    file = contexts / "meta" / digest / "meta.json"
    try:
        endpoint = _json(file)["Endpoints"]["docker"]
        address = endpoint.get("Host") or ""
        verify = not endpoint.get("SkipTLSVerify", False)
        address = _text(address)
    except FileNotFoundError:
        raise ContextUnusable(name, chosen_by, "does not exist") from None
    except KeyError:
        raise ContextUnusable(name, chosen_by, f"names no daemon of Docker in {file}") from None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ContextUnusable(name, chosen_by, f"cannot be read from {file} ({error!r})") from None
    files = contexts / "tls" / digest / "docker"
    tls = Tls.of(files, verify) if files.is_dir() or not verify else None
    return Context(name, address, tls)


def _json(file: Path) -> Mapping[str, Any]:
    found = json.loads(file.read_text("utf-8-sig"))
    if not isinstance(found, dict):
        raise ValueError("it is no object of JSON")
    return found


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("its `Host` is no text")
    return value


def _existing(file: Path) -> Path | None:
    return file if file.is_file() else None
