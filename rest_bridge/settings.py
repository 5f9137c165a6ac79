"""Settings of the bridge, from the command line and the environment."""

import re
from collections.abc import Callable
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from rest_bridge.environment import FromEnvironment
from rest_bridge.hosts import allowed_host
from rest_bridge.origins import allowed_origin
from rest_bridge.proxies import trusted_proxy


def each(check: Callable[[str], str]) -> BeforeValidator:
    """Make a list of values that are separated by commas, and pass each to `check`."""

    def split(given: str | list[str]) -> list[str]:
        values = given.split(",") if isinstance(given, str) else given
        return [check(value.strip()) for value in values if value.strip()]

    return BeforeValidator(split)


# Those who may call; the service has these settings too. A flag is repeated, or has commas.
AllowedHosts = Annotated[
    list[str],
    NoDecode,
    each(allowed_host),
    Field(
        description="name at which REST is called, such as llm.example.org or *.example.org, "
        "beside addresses, localhost and this machine's own name; repeatable; * is every name"
    ),
]
CorsOrigins = Annotated[
    list[str],
    NoDecode,
    each(allowed_origin),
    Field(
        description="origin whose pages may call REST, such as https://app.example.org; "
        "repeatable; * is every page of the web"
    ),
]
TrustedProxies = Annotated[
    list[str],
    NoDecode,
    each(trusted_proxy),
    Field(
        description="address or network of a proxy, such as 10.0.0.0/8, whose x-caller and "
        "X-Forwarded-For are believed; repeatable"
    ),
]


_SCHEME = re.compile(r"(unix|unix-abstract|vsock|dns|ipv4|ipv6|xds):\S+")
_HOST_AND_PORT = re.compile(r"(\[[^\s/]+\]|[^\s/:]+):\d{1,5}")


def _target(value: str) -> str:
    if not _SCHEME.fullmatch(value) and not _HOST_AND_PORT.fullmatch(value):
        raise ValueError("must be HOST:PORT or unix:/PATH")
    return value


class Settings(FromEnvironment, BaseSettings):
    """Serve the REST API. Each option is also read from the environment, as REST_BRIDGE_PORT."""

    model_config = SettingsConfigDict(
        env_prefix="REST_BRIDGE_",
        cli_prog_name="rest-bridge",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
    )

    target: Annotated[str, AfterValidator(_target)] = Field(
        default="127.0.0.1:50051",
        description="address of the gRPC service, HOST:PORT or unix:/PATH",
    )
    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(
        default=8000, ge=0, le=65535, description="port to listen on; 0 takes a free one"
    )
    allowed_host: AllowedHosts = []
    cors_origin: CorsOrigins = []
    trusted_proxy: TrustedProxies = []
    max_body: int = Field(
        default=32 << 20,
        ge=4 << 20,
        description="largest body, in bytes, of a request that is forwarded, as on /v1",
    )
    keep_alive_seconds: float = Field(
        default=15.0, gt=0, description="silence after which a stream carries a keep-alive comment"
    )
    idle_connection_seconds: float = Field(
        default=75.0,
        gt=0,
        description="how long a connection without a request is kept; longer than a proxy does",
    )
    shutdown_timeout_seconds: int = Field(
        default=10, ge=0, description="how long open requests may go on after the signal to stop"
    )
    access_log: bool = Field(default=True, description="log one line per request")
