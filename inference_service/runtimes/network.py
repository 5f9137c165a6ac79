"""What a container gets of the service's own environment: proxies, certificates, being offline.

A process inherits the same variables as they are, among others. For a container, the files that
they name are put into it, wherever its daemon runs; and what runs in it on its own address must not
be asked through a proxy.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from inference_service import stored
from inference_service.home import expanded

log = logging.getLogger(__name__)

_PROXIES = re.compile("(?i:https?|all|ftp)_(?i:proxy)")
_NO_PROXY = ("no_proxy", "NO_PROXY")  # some programs read the one, some the other
_INSIDE = ("localhost", "127.0.0.1", "::1", "0.0.0.0")
_OF_THE_HUB = re.compile(
    "HF_HUB_OFFLINE|TRANSFORMERS_OFFLINE|HF_DATASETS_OFFLINE|HF_HUB_(DOWNLOAD|ETAG)_TIMEOUT"
    r"|HF_HUB_DISABLE_\w+|HF_XET_\w+"
)
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")

_FOLDER = "run/inference-service"  # in the root of a container
_LARGEST = 4 << 20  # bytes of one file; those of Mozilla's list have 220 kB
_MOST = 1000  # files of a folder


class Network(NamedTuple):
    """Variables of a container, and files by their path in its root."""

    variables: dict[str, str]
    files: dict[str, bytes]


def network(environment: Mapping[str, str]) -> Network:
    """Return what a container gets of this environment."""
    given = {name: text for name, text in environment.items() if text}
    found = {name: text for name, text in given.items() if _OF_THE_HUB.fullmatch(name)}
    files: dict[str, bytes] = {}
    for name in filter(given.get, _CERTIFICATES):
        try:
            path, certificates = _certificates(name, given[name])
        except stored.Damaged as error:
            log.warning("containers get no %s, because of %s: %s", name, given[name], error)
            continue
        found[name] = f"/{path}"
        files |= certificates
    return Network(found | _proxies(given), files)


def has_proxy(variables: Mapping[str, str]) -> bool:
    """Return whether variables of a container name a proxy, or hosts without one."""
    return any(_PROXIES.fullmatch(name) or name in _NO_PROXY for name in variables)


def _proxies(given: Mapping[str, str]) -> dict[str, str]:
    found = {name: text for name, text in given.items() if _PROXIES.fullmatch(name)}
    for name, text in list(found.items()):
        if _is_loopback(text):
            log.warning(
                "%s names a proxy on the loopback of this machine, which no container can reach: "
                "containers do without it; name an address of this machine, or set it in `env` of "
                "an entry",
                name,
            )
            del found[name]
    if not found:
        return {}
    hosts = next((given[name] for name in _NO_PROXY if name in given), "")
    known = [host.strip() for host in hosts.split(",") if host.strip()]
    every = ",".join(dict.fromkeys([*known, *_INSIDE]))
    return found | dict.fromkeys(_NO_PROXY, every)


def _is_loopback(proxy: str) -> bool:
    """Return whether a proxy, with or without a scheme, is on the loopback."""
    try:
        host = urlsplit(proxy if "://" in proxy else f"//{proxy}").hostname or ""
    except ValueError:  # no address at all, which is for the engine to report
        return False
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return False


def _certificates(name: str, text: str) -> tuple[str, dict[str, bytes]]:
    """Return where a container finds the certificates of a variable, and their files."""
    files: dict[str, bytes] = {}
    for place in text.split(os.pathsep) if name == "SSL_CERT_DIR" else [text]:
        path = expanded(place)
        try:
            inside = sorted(path.iterdir())[:_MOST]
        except NotADirectoryError:
            return f"{_FOLDER}/{name}.pem", {f"{_FOLDER}/{name}.pem": _read(path)}
        except OSError as error:
            raise stored.Damaged(error.strerror) from None
        for file in inside:
            with suppress(stored.Damaged):  # a folder, or a link to nothing
                files[f"{_FOLDER}/{name}/{file.name}"] = _read(file)
    return f"{_FOLDER}/{name}", files


def _read(path: Path) -> bytes:
    """Return the content of a file. Raises Damaged."""
    data = stored.read(path, _LARGEST)
    if data is None:
        raise stored.Damaged("there is no such file")
    return data
