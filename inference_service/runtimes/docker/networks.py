"""The network of a daemon that engines join, and their addresses in it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from docker import DockerClient
from docker.errors import NotFound
from docker.models.containers import Container

from inference_service.errors import NetworkUnusable

BRIDGE = "bridge"  # the network of a container for which no other is named
_PODMANS = "podman"  # its name in what podman shows
_NONE = ("host", "none")
_ID = re.compile(r"[0-9a-f]{12,64}")  # whole, or as `docker network ls` shows it


def chosen(client: DockerClient, own: Container | None, name: str | None) -> str:
    """Return the network that engines join: `name`, else one of the own container, else `bridge`.

    `own` is the container of this service, where it has a network of its own. Raises
    NetworkUnusable.
    """
    if name is not None:
        name = _named(client, name)
        if own is not None and name not in attached(own):
            raise NetworkUnusable(
                f"this service runs in the container {own.name}, which is not in the network "
                f"{name} of the setting `docker_network`; `docker network connect {name} "
                f"{own.name}` attaches it"
            )
        return name
    if own is None:
        return BRIDGE
    names = [each for each in sorted(attached(own)) if each not in _NONE]
    # An internal network has no way to the hub, from which engines fetch their weights.
    names.sort(key=lambda each: (each != BRIDGE and _internal(client, each), each == BRIDGE))
    if not names:
        raise NetworkUnusable(
            f"this service runs in the container {own.name}, which is in no network that engines "
            "can join; attach it to one with `docker network connect`"
        )
    return names[0]


def attached(container: Container) -> Mapping[str, Any]:
    """Return the networks that a container is attached to, by name."""
    networks: Mapping[str, Any] = container.attrs["NetworkSettings"].get("Networks") or {}
    return networks


def address(container: Container, network: str) -> str:
    """Return the address of a container in a network; empty where it has none, as after its end."""
    endpoint = _endpoint(container, network)
    return str(endpoint.get("IPAddress") or endpoint.get("GlobalIPv6Address") or "")


def gateway(container: Container, network: str) -> str:
    """Return the address that the daemon's machine has in the network of a container."""
    endpoint = _endpoint(container, network)
    return str(endpoint.get("Gateway") or endpoint.get("IPv6Gateway") or "")


def _endpoint(container: Container, network: str) -> Mapping[str, Any]:
    found = attached(container)
    return found.get(network) or (network == BRIDGE and found.get(_PODMANS)) or {}


def _named(client: DockerClient, given: str) -> str:
    """Return the name of the network that the setting gives by its name or its id."""
    try:
        network = client.networks.get(given)
    except NotFound:
        network = None
    by_id = network is not None and _ID.fullmatch(given) and str(network.id).startswith(given)
    name = str(network.name) if network is not None and by_id else given
    if network is None or network.name != name:
        known = ", ".join(sorted(str(each.name) for each in client.networks.list()))
        raise NetworkUnusable(
            f"there is no network {name} of the setting `docker_network`; the daemon has {known}; "
            f"`docker network create {name}` makes it"
        )
    if name in _NONE:
        raise NetworkUnusable(
            f"the network {name} of the setting `docker_network` gives engines no address of their "
            "own; name another"
        )
    return name


def _internal(client: DockerClient, name: str) -> bool:
    try:
        return bool(client.networks.get(name).attrs.get("Internal"))
    except NotFound:
        return True
