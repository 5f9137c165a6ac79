"""Settings of the bridge, from the command line and the environment."""

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Serve the REST API. Each option is also read from the environment, as REST_BRIDGE_PORT."""

    model_config = SettingsConfigDict(
        env_prefix="REST_BRIDGE_",
        cli_prog_name="rest-bridge",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
    )

    target: str = Field(
        default="127.0.0.1:50051", description="address of the gRPC service, HOST:PORT"
    )
    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(
        default=8000, ge=0, le=65535, description="port to listen on; 0 takes a free one"
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
