"""The variables of the environment that are settings."""

import re
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource

# Kubernetes sets NAME_PORT in every container, for each service NAME: a service `rest-bridge` gives
# REST_BRIDGE_PORT=tcp://10.96.0.12:8000, and one `inference-grpc` INFERENCE_GRPC_PORT.
_OF_KUBERNETES = re.compile(r"(tcp|udp|sctp)://")


class Environment(EnvSettingsSource):
    """The variables, without those that Kubernetes sets for a service of such a name."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        value, key, is_complex = super().get_field_value(field, field_name)
        if field.annotation is int and isinstance(value, str) and _OF_KUBERNETES.match(value):
            value = None
        return value, key, is_complex


class FromEnvironment:
    """Settings that have no other sources than the command line and the environment."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        *_: PydanticBaseSettingsSource,
        **__: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, Environment(settings_cls)
