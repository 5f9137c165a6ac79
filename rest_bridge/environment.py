"""The variables of the environment that are settings, and mistakes in them."""

import os
import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource

# Kubernetes sets NAME_PORT in every container, for each service NAME: a service `rest-bridge` gives
# REST_BRIDGE_PORT=tcp://10.96.0.12:8000, and one `inference-grpc` INFERENCE_GRPC_PORT. Docker's
# links do so too, and add NAME_NAME: INFERENCE_SERVICE_NAME=/web/inference-service.
_OF_OTHERS = re.compile(r"(tcp|udp|sctp)://|/[\w.-]+/[\w.-]+$", re.A)
_NAMED_BY_OTHERS = ("port", "name")

# The other names that both set, for a service or a container NAME, with plain values.
_NAMES_OF_OTHERS = re.compile(
    r"(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?|ENV_\w+)"
)


class Environment(EnvSettingsSource):
    """The variables, without those that Kubernetes and Docker set for a service of such a name."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        value, key, is_complex = super().get_field_value(field, field_name)
        named = field_name.rpartition("_")[2] in _NAMED_BY_OTHERS
        if named and isinstance(value, str) and _OF_OTHERS.match(value):
            value = None
        return value, key, is_complex


class FromEnvironment:
    """Settings that have no other sources than the command line and the environment.

    A variable that is empty is as one that is not set: templates of Compose and Helm write those.
    """

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        *_: PydanticBaseSettingsSource,
        **__: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, Environment(settings_cls, env_ignore_empty=True)


def unknown(settings: type[BaseSettings]) -> list[str]:
    """Return a warning for each variable that has the name of a setting which there is not."""
    program = settings.model_config.get("cli_prog_name")
    prefix = settings.model_config.get("env_prefix", "")
    known = [name.upper() for name in settings.model_fields]
    found = []
    for variable, value in sorted(os.environ.items()):
        name = variable.upper().removeprefix(prefix)
        if name in (variable.upper(), *known) or _is_of_others(name, value):
            continue
        near = get_close_matches(name, known, 1)
        hint = f"; did you mean {prefix}{near[0]}?" if near else ""
        found.append(f"{program}: warning: {variable} is no setting{hint}")
    return found


def _is_of_others(name: str, value: str) -> bool:
    return bool(_NAMES_OF_OTHERS.fullmatch(name) or _OF_OTHERS.match(value))


def explain(
    settings: type[BaseSettings], error: ValidationError, arguments: Sequence[str]
) -> list[str]:
    """Return a sentence for each mistake, which names the flag or the variable."""
    prefix = settings.model_config.get("env_prefix", "")
    program = settings.model_config.get("cli_prog_name")
    return [
        f"{program}: {_where(str(problem['loc'][0]), prefix, arguments)}: "
        f"{problem['msg'].removeprefix('Value error, ')}, not {problem['input']!r}"
        for problem in error.errors()
    ]


def _where(name: str, prefix: str, arguments: Sequence[str]) -> str:
    """Return the flag of a setting, or its variable where that is what gave the value."""
    flag = f"--{name.replace('_', '-')}"
    given = any(argument == flag or argument.startswith(f"{flag}=") for argument in arguments)
    variable = next((each for each in os.environ if each.upper() == f"{prefix}{name}".upper()), "")
    return variable if variable and not given else flag
