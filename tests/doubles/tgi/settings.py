"""The options of the launcher, read from their environment variables."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

U16, U32, U64 = 2**16 - 1, 2**32 - 1, 2**64 - 1


class UsageError(Exception):
    """An option that the launcher refuses."""


def _number(default: int | None, limit: int) -> Any:
    return field(default=default, metadata={"limit": limit})


def _choice(default: str | None, *choices: str) -> Any:
    return field(default=default, metadata={"choices": choices})


@dataclass(frozen=True, slots=True)
class Settings:
    """All options of the launcher, in the order in which it prints them."""

    model_id: str = "bigscience/bloom-560m"
    revision: str | None = None
    validation_workers: int = _number(2, U64)
    sharded: bool | None = None
    num_shard: int | None = _number(None, U64)
    quantize: str | None = _choice(
        None,
        *("awq", "compressed-tensors", "eetq", "exl2", "gptq", "marlin", "fp8"),
        *("bitsandbytes", "bitsandbytes-nf4", "bitsandbytes-fp4"),
    )
    speculate: int | None = _number(None, U64)
    dtype: str | None = _choice(None, "float16", "bfloat16")
    kv_cache_dtype: str | None = _choice(None, "fp8_e4m3fn", "fp8_e5m2")
    trust_remote_code: bool = False
    max_concurrent_requests: int = _number(128, U64)
    max_best_of: int = _number(2, U64)
    max_stop_sequences: int = _number(4, U64)
    max_top_n_tokens: int = _number(5, U32)
    max_input_tokens: int | None = _number(None, U64)
    max_input_length: int | None = _number(None, U64)
    max_total_tokens: int | None = _number(None, U64)
    waiting_served_ratio: float = 0.3
    max_batch_prefill_tokens: int | None = _number(None, U32)
    max_batch_total_tokens: int | None = _number(None, U32)
    max_waiting_tokens: int = _number(20, U64)
    max_batch_size: int | None = _number(None, U64)
    cuda_graphs: tuple[int, ...] | None = None
    hostname: str = "0.0.0.0"
    port: int = _number(3000, U16)
    prometheus_port: int = _number(9000, U16)
    shard_uds_path: str = "/tmp/text-generation-server"
    master_addr: str = "localhost"
    master_port: int = _number(29500, U64)
    huggingface_hub_cache: str | None = None
    weights_cache_override: str | None = None
    disable_custom_kernels: bool = False
    cuda_memory_fraction: float = 1.0
    rope_scaling: str | None = _choice(None, "linear", "dynamic")
    rope_factor: float | None = None
    json_output: bool = False
    otlp_endpoint: str | None = None
    otlp_service_name: str = "text-generation-inference.router"
    cors_allow_origin: str | None = None
    api_key: str | None = None
    watermark_gamma: float | None = None
    watermark_delta: float | None = None
    tokenizer_config_path: str | None = None
    disable_grammar_support: bool = False
    max_client_batch_size: int = _number(4, U64)
    lora_adapters: str | None = None
    usage_stats: str = _choice("on", "on", "off", "no-stack")
    payload_limit: int = _number(2_000_000, U64)
    enable_prefill_logprobs: bool = False
    graceful_termination_timeout: int = _number(90, U64)


_CONTEXTS = {"gpt2": 1024, "mistral": 4096, "llama-2": 4096}
_DEFAULT_CONTEXT = 2048


def own_context(model_id: str) -> int:
    """Return `max_position_embeddings` of a model's config.json, by the name of the model."""
    found = (size for part, size in _CONTEXTS.items() if part in model_id.lower())
    return next(found, _DEFAULT_CONTEXT)


def prefill_budget(settings: Settings) -> int:
    """Return MAX_BATCH_PREFILL_TOKENS, or what the launcher takes for it."""
    given = settings.max_batch_prefill_tokens
    return min(4096, own_context(settings.model_id)) if given is None else given


def visible_gpus(environ: Mapping[str, str]) -> int:
    """Count the GPUs. Without one of NVIDIA's variables the double runs on a CPU."""
    names = environ.get("CUDA_VISIBLE_DEVICES", environ.get("NVIDIA_VISIBLE_DEVICES", ""))
    return 0 if names.strip() in ("", "none", "void") else len(names.split(","))


def has_flash(environ: Mapping[str, str]) -> bool:
    """Tell whether the model has flash attention: on a GPU, unless it is turned off."""
    wanted = environ.get("USE_FLASH_ATTENTION", "true").lower() != "false"
    return wanted and bool(visible_gpus(environ))


_FIELDS = {spec.name: spec for spec in fields(Settings)}


def _kinds() -> dict[str, type]:
    """Return the type of each option, without the `| None` of the optional ones."""
    hints = typing.get_type_hints(Settings)
    kinds = {}
    for name, hint in hints.items():
        if isinstance(hint, types.UnionType):
            hint = next(arm for arm in typing.get_args(hint) if arm is not types.NoneType)
        kinds[name] = typing.get_origin(hint) or hint
    return kinds


_KINDS = _kinds()


def _is_switch(name: str) -> bool:
    return _KINDS[name] is bool and _FIELDS[name].default is False


def _boolean(text: str, _name: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError("value was not a boolean")
    return text == "true"


def _integer(text: str, name: str) -> int:
    if not (text.isascii() and text.removeprefix("+").isdigit()):
        raise ValueError("invalid digit found in string")
    if int(text) > _FIELDS[name].metadata.get("limit", U64):
        raise ValueError("number too large to fit in target type")
    return int(text)


def _string(text: str, name: str) -> str:
    choices = _FIELDS[name].metadata.get("choices")
    if choices and text not in choices:
        raise ValueError(f"[possible values: {', '.join(choices)}]")
    return text


_PARSERS: dict[type, Callable[[str, str], object]] = {
    bool: _boolean,
    int: _integer,
    str: _string,
    float: lambda text, _name: float(text),
    tuple: lambda text, name: tuple(_integer(part, name) for part in text.split(",")),
}


def _parse(name: str, text: str) -> object:
    try:
        return _PARSERS[_KINDS[name]](text, name)
    except ValueError as error:
        flag = "--" + name.replace("_", "-")
        shown = flag if _is_switch(name) else f"{flag} <{name.upper()}>"
        raise UsageError(f"invalid value '{text}' for '{shown}': {error}") from None


def parse(arguments: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """Read the options. Raises UsageError; the launcher then exits with 2.

    The double takes no flags, because the service sets every option by its variable. A variable
    counts even when it is empty, and a switch takes only the words `true` and `false`.
    """
    if arguments:
        raise UsageError(f"unexpected argument '{arguments[0]}' found")
    values: dict[str, Any] = {
        name: _parse(name, environ[name.upper()]) for name in _FIELDS if name.upper() in environ
    }
    return Settings(**values)


def _debug(value: object, optional: bool) -> str:
    if value is None:
        return "None"
    if isinstance(value, tuple):
        shown = "[" + ", ".join(str(item) for item in value) + "]"
    elif isinstance(value, str):
        shown = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    else:
        shown = str(value).lower()
    return f"Some(\n        {shown},\n    )" if optional else shown


def describe(settings: Settings) -> str:
    """Return the `Args {` block that opens the log: many lines, with the API key."""
    hints = typing.get_type_hints(Settings)
    lines = [
        f"    {name}: {_debug(getattr(settings, name), type(None) in typing.get_args(hint))},"
        for name, hint in hints.items()
    ]
    return "\n".join(["Args {", *lines, "}"])
