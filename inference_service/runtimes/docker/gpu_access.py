"""The way in which a daemon gives GPUs to containers, found by what it says and by a try.

A daemon that knows NVIDIA's runtime says so. One that knows NVIDIA's hook alone does not, and one
with CDI (the Container Device Interface) lists its devices since version 28 only. What a request
does is decided at the start of a container, in moby's `daemon/devices.go`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from docker import DockerClient
from docker.errors import APIError
from docker.types import DeviceRequest

from inference_service.capacity.claims import GpuShare
from inference_service.capacity.gpus import Gpu
from inference_service.runtimes.docker import archive
from inference_service.runtimes.docker.calls import explanation

log = logging.getLogger(__name__)

_KIND = "nvidia.com/gpu"
_ALL = f"{_KIND}=all"
_PROBE = "/inference-service-probe"  # a program that no image has

# What a daemon says that has no driver for a request, or no such device.
_REFUSALS = ("could not select device driver", "CDI", "unresolvable")

_ADVICE = (
    "engines there run on the CPU. Install NVIDIA's container toolkit, run `nvidia-ctk runtime "
    "configure --runtime=docker`, and restart Docker; or set `gpus` of the models to none"
)


@dataclass(frozen=True, slots=True)
class GpuAccess:
    """How a request for GPUs is written.

    With `cdi` it names devices: `devices` are those that the daemon lists, if it does. `order` are
    the ids of the GPUs in the driver's order, by whose numbers CDI names them too.
    """

    cdi: bool = False
    devices: frozenset[str] = frozenset()
    order: tuple[str, ...] = ()

    def request(self, gpus: GpuShare | None) -> DeviceRequest:
        """Return the request for these GPUs, or for all."""
        if self.cdi:
            return DeviceRequest(driver="cdi", device_ids=self._names(gpus))
        which = {"count": -1} if gpus is None else {"device_ids": list(gpus.ids)}
        return DeviceRequest(capabilities=[["gpu"]], **which)

    def _names(self, gpus: GpuShare | None) -> list[str]:
        if gpus is not None:
            return [self._name(id) for id in gpus.ids]
        return [_ALL] if _ALL in self.devices or not self.devices else sorted(self.devices)

    def _name(self, id: str) -> str:
        if (name := f"{_KIND}={id}") in self.devices or id not in self.order:
            return name
        return f"{_KIND}={self.order.index(id)}"


def find(
    client: DockerClient, info: Mapping[str, Any], gpus: Sequence[Gpu], *, here: bool
) -> GpuAccess | None:
    """Return how the daemon gives GPUs; None where it gives none. Raises APIError.

    `gpus` are those of this machine. Where a daemon `here` says nothing, a container is tried.
    """
    order = tuple(gpu.id for gpu in gpus)
    if "nvidia" in (info.get("Runtimes") or {}):
        return GpuAccess()
    listed = (device.get("ID", "") for device in info.get("DiscoveredDevices") or ())
    if devices := frozenset(name for name in listed if name.startswith(f"{_KIND}=")):
        return GpuAccess(cdi=True, devices=devices, order=order)
    if not gpus or not here:
        return None
    ways = [GpuAccess()]
    if info.get("CDISpecDirs"):
        ways.append(GpuAccess(cdi=True, order=order))
    refusal = ""
    for way in ways:
        if not (refused := _refusal(client, way.request(None))):
            return way
        refusal = refusal or refused
    log.warning(
        "this machine has %d GPUs, but Docker gives none to containers (%s): %s",
        len(gpus),
        refusal,
        _ADVICE,
    )
    return None


def _refusal(client: DockerClient, request: DeviceRequest) -> str:
    """Return why the daemon has no GPUs for a container; empty where it has, whatever comes then.

    The container is one of an empty image. It cannot run, but before that the daemon looks for the
    driver of the request.
    """
    api = client.api
    image = json.loads(api.import_image_from_data(archive.of({}, 0o444)))["status"]
    try:
        options = api.create_host_config(device_requests=[request], network_mode="none")
        container = api.create_container(image, [_PROBE], host_config=options)
        try:
            api.start(container)
        except APIError as error:
            cause = explanation(error)
            return cause if any(sign in cause for sign in _REFUSALS) else ""
        finally:
            api.remove_container(container, force=True)
    finally:
        api.remove_image(image, force=True)
    return ""
