"""The settings of an operator: by flag (`--grpc-port`) or environment (`INFERENCE_GRPC_PORT`)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationInfo,
    create_model,
    field_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from inference_service.catalog import parse_size
from inference_service.engines.kinds import KINDS
from inference_service.home import expanded, home
from inference_service.runtimes import identity
from rest_bridge.environment import FromEnvironment
from rest_bridge.settings import AllowedHosts, CorsOrigins, TrustedProxies


def _size(value: object) -> int:
    return value if isinstance(value, int) else parse_size(value)


class _Settings(FromEnvironment, BaseSettings):
    """A service that runs language models on demand, behind gRPC and REST.

    Each flag has a variable of the same name with the prefix INFERENCE_, such as
    INFERENCE_GRPC_PORT; a flag wins. HF_TOKEN, HF_HOME and HF_ENDPOINT are those of Hugging Face.
    """

    model_config = SettingsConfigDict(
        env_prefix="INFERENCE_",
        cli_prog_name="inference-service",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        extra="forbid",
        frozen=True,
    )

    host: str = Field(
        "127.0.0.1",
        min_length=1,
        description="address on which gRPC and REST listen; with unix:/PATH gRPC listens on that "
        "socket, and REST on 127.0.0.1",
    )
    grpc_port: int = Field(50051, ge=0, le=65535, description="port of gRPC; 0 takes a free one")
    rest_port: int = Field(8000, ge=0, le=65535, description="port of REST; 0 takes a free one")
    rest: bool = Field(True, description="serve REST beside gRPC")
    allowed_host: AllowedHosts = []
    cors_origin: CorsOrigins = []
    trusted_proxy: TrustedProxies = []
    idle_connection_timeout: float = Field(
        75,
        gt=0,
        description="seconds for which REST keeps a connection without a request; longer than a "
        "proxy does",
    )
    ping_interval: float = Field(
        30,
        ge=0.1,
        le=86400,
        description="seconds without a byte after which gRPC pings a client; one that answers no "
        "ping for as long (20 s at most) has vanished",
    )
    client_ping_interval: float = Field(
        10,
        ge=0.1,
        le=86400,
        description="shortest interval, in seconds, at which clients of gRPC may ping",
    )
    runtime: Literal["auto", "docker", "process"] = Field(
        "auto",
        description="where engines run; auto is Docker where a daemon answers, else processes",
    )
    engine: str = "auto"  # see `_of_kinds`
    catalog: Annotated[Path, AfterValidator(expanded)] | None = Field(
        None, description="TOML file with models of your own, which are added to the built-in ones"
    )
    ports: str = Field("8080-8179", description="ports of 127.0.0.1 for engines, FIRST-LAST")
    pull_policy: Literal["missing", "always", "never"] = Field(
        "missing", description="when Docker pulls an image"
    )
    volume: str = Field(
        "inference-service-weights",
        min_length=1,
        description="Docker volume of the weights of all models",
    )
    docker_network: str | None = Field(
        None,
        description="Docker network that engines join; default: one of this service's own "
        "container, else that of containers which name none",
    )
    service_name: str = Field(
        identity.DEFAULT,
        pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}$",
        description="name that separates this service's containers from those of others",
    )
    generation_timeout: float = Field(
        60, gt=0, description="seconds for a whole text; in a stream, between two chunks"
    )
    answer_timeout: float = Field(
        600,
        gt=0,
        description="seconds for a whole answer that is forwarded, as on /v1; in a stream, between "
        "two pieces",
    )
    max_body: Annotated[int, BeforeValidator(_size)] = Field(
        32 << 20,
        le=2 * 10**9,  # gRPC counts the bytes of a message in 31 bits
        description="largest body of a request that is forwarded, such as 100MiB",
    )
    start_stall_timeout: float = Field(
        600, gt=0, description="seconds without any progress after which a start is given up"
    )
    hang_timeout: float = Field(
        120, gt=0, description="seconds without an answer after which a ready engine is replaced"
    )
    drain_timeout: float = Field(
        30, ge=0, description="seconds that a stop or the shutdown waits for running requests"
    )
    idle_timeout: float = Field(
        900, ge=0, description="seconds without use after which a model is stopped; inf is never"
    )
    max_idle_timeout: float = Field(
        3600, ge=0, description="longest idle_timeout, in seconds, that a request may ask for"
    )
    leave_containers: bool = Field(
        False, description="at the end, leave containers running for the next service to adopt"
    )
    queue_size: int = Field(
        1024,
        ge=0,
        description="requests that may wait in the queue of one model",
    )
    queue_timeout: float = Field(
        600,
        gt=0,
        description="seconds for which a request may wait in the queue of a model; inf is no limit",
    )
    write_timeout: float = Field(
        300,
        gt=0,
        description="seconds in which the reader of a stream must take one message; less where "
        "others wait for the model",
    )
    memory: Annotated[int, BeforeValidator(parse_size)] | None = Field(
        None,
        description='memory for all models together, such as "16GB"; default: 9/10 of what the '
        "machine, its control groups and the Docker daemon let them have",
    )
    gpu_memory: str | None = Field(
        None,
        description='how far models may fill the GPUs, such as "20GB" for each or "20GB,40GB" for '
        "the first and the second; default: as much as they have",
    )
    min_residency: float = Field(
        10, ge=0, description="seconds for which a model that has become ready is not evicted"
    )
    state_dir: Annotated[Path, AfterValidator(expanded)] | None = Field(
        None,
        description="folder for times of past starts and keys of containers; default: "
        "inference-service in $XDG_STATE_HOME, or in ~/.local/state",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info",
        description="lowest level of this service's own log lines, which go to standard error",
    )
    access_log: bool = Field(
        False,
        description="log one line for each call of gRPC and each request of REST, on standard "
        "output; it has no keys and no texts",
    )

    @field_validator("ports")
    @classmethod
    def _ports_are_a_range(cls, value: str) -> str:
        first, dash, last = value.partition("-")
        if not (
            dash and first.isdecimal() and last.isdecimal() and 0 < int(first) <= int(last) < 65536
        ):
            raise ValueError('must be two ports, such as "8080-8179"')
        return value

    @field_validator("gpu_memory")
    @classmethod
    def _gpu_memory_is_sizes(cls, value: str | None) -> str | None:
        _sizes(value)
        return value

    @field_validator("engine")
    @classmethod
    def _engine_can_run(cls, value: str, info: ValidationInfo) -> str:
        if info.data.get("runtime") == "process" and value in KINDS and KINDS[value].is_image:
            raise ValueError(
                f"{value} runs in Docker alone, and not with --runtime process; use --engine auto "
                "or --runtime docker"
            )
        return value

    @property
    def images(self) -> dict[str, str]:
        """The image of each kind of engine that has a default one."""
        return {name: getattr(self, f"{name}_image") for name, kind in KINDS.items() if kind.image}

    @property
    def gpu_limits(self) -> tuple[int, ...]:
        """The sizes of `gpu_memory`, in bytes."""
        return _sizes(self.gpu_memory)

    @property
    def state_path(self) -> Path:
        """The folder for data that outlives the service."""
        if self.state_dir is not None:
            return self.state_dir
        given = Path(os.environ.get("XDG_STATE_HOME", ""))  # which counts if it is absolute
        return (given if given.is_absolute() else home() / ".local/state") / "inference-service"

    @property
    def port_range(self) -> tuple[int, int]:
        """The first and the last port for engines."""
        first, _, last = self.ports.partition("-")
        return int(first), int(last)


def _of_kinds() -> dict[str, Any]:
    """Return the settings that the table of engine kinds makes."""
    engine = Field(
        "auto",
        description="engine of models that several can run; auto is tgi in Docker, which it needs, "
        "else llamacpp",
    )
    fields: dict[str, Any] = {"engine": (Literal["auto", *KINDS], engine)}
    for name, kind in KINDS.items():
        if kind.image:
            fields[f"{name}_image"] = (str, Field(kind.image, min_length=1, description=kind.about))
    return fields


if TYPE_CHECKING:
    Settings = _Settings
else:
    Settings = create_model(
        "Settings", __base__=_Settings, __doc__=_Settings.__doc__, **_of_kinds()
    )


def _sizes(value: str | None) -> tuple[int, ...]:
    return tuple(parse_size(size.strip()) for size in value.split(",")) if value is not None else ()
