"""The options of the channel from the bridge to the service."""

import json
from importlib.resources import files
from typing import Any

SERVICE_CONFIG = files("inference_service.v1").joinpath("service_config.json").read_text()


def service_config() -> str:
    """Return the part of the service config for calls that never wait for a model.

    Of the others the client of REST makes the next attempt, since it is given `Retry-After`; two
    who try again would make the square of the attempts. Nor does a call wait for a service that is
    not there: see `wait_for_ready` in `remote.py`.
    """
    config = json.loads(SERVICE_CONFIG)
    methods: list[dict[str, Any]] = config["methodConfig"]
    return json.dumps({"methodConfig": [method for method in methods if "timeout" in method]})


OPTIONS = [
    # The default is 4 MiB. A text can be longer, for it can begin with a prompt of 4 MiB.
    ("grpc.max_receive_message_length", -1),
    # By default the window grows with the pace of the service, and the bridge then held up to 35 MB
    # of text for a client that reads slowly.
    ("grpc.http2.bdp_probe", 0),
    # By default the channel waits up to two minutes before it connects again to the service.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A proxy in the environment is meant for the internet, and cannot reach the service.
    ("grpc.enable_http_proxy", 0),
    # By default a machine that has vanished is noticed after minutes of TCP. The service may have
    # none of its pings shorter than 10 s.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.ping_timeout_ms", 20_000),
    ("grpc.service_config", service_config()),
]
