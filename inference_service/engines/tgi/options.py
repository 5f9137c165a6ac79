"""What TGI drops, or takes for another, of a request in OpenAI's JSON.

Read in `CompletionRequest` and `ChatRequest` of its `router/src/lib.rs` at tag v3.3.7; the bounds
are those of `router/src/validation.rs`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import msgspec

from inference_service.engines.exchange import Options
from inference_service.engines.options import messages, samplers
from inference_service.engines.options.rules import (
    NULL,
    Rules,
    all_of,
    begins,
    decode,
    names,
    number,
    one_of,
    refused,
    whole,
)

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"

# TGI makes longer texts in steps of so many tokens, each for the whole limit, and so passes it.
_LONGEST = 1024
_MOST_STOPS = 4
_LEAST = 1e-6
_OTHERWISE = "TGI does not have it in OpenAI's JSON (use /generate)"


def _stop(raw: msgspec.Raw, options: Options) -> str:
    value = decode(raw)
    if isinstance(value, list) and len(value) > _MOST_STOPS:
        return f"must have at most {_MOST_STOPS} sequences"
    return samplers.stop(raw, options)


def _response_format(raw: msgspec.Raw, options: Options) -> str:
    form = decode(raw)
    if form is None or form == {"type": "text"}:
        return ""
    kind = form.get("type") if isinstance(form, dict) else None
    if kind != "json_schema":
        return "must have the type text or json_schema: TGI makes no JSON without a schema"
    inner = form.get("json_schema")
    schema = inner.get("schema") if isinstance(inner, dict) else None
    if not isinstance(schema, dict) or "properties" not in schema:
        return "must have a schema with `properties`, at `json_schema.schema`"
    if decode(options.get("tools", NULL)):
        return "must not be together with `tools`"
    return ""


_BOTH: Rules = {
    **names(("max_tokens", "max_completion_tokens"), whole(1, _LONGEST, "leave it out for more")),
    "temperature": all_of(number(0, 100), samplers.temperature),
    "top_p": number(_LEAST, 1),
    "seed": whole(0, (1 << 64) - 1),
    "frequency_penalty": number(-2, 2),
    "presence_penalty": refused("TGI takes it for another (use `frequency_penalty`)", 0),
    "n": one_of(1, why="TGI makes one text"),
    "best_of": one_of(1, why="TGI makes one text"),
    "logit_bias": refused("TGI does not have it", {}),
    "stop": _stop,
    **names(("top_k", "min_p", "typical_p", "repeat_penalty"), refused(_OTHERWISE, 0)),
    **names(("guided_json", "guided_regex", "guided_choice", "grammar"), refused(_OTHERWISE)),
    **names(("min_tokens", "stop_token_ids", "ignore_eos", "truncate"), refused(_OTHERWISE, 0)),
}

_COMPLETIONS: Rules = {
    "echo": refused("an answer has no prompt in it (add it yourself)"),
    "suffix": refused("TGI does not have it"),
    "logprobs": refused("TGI has it in chats alone"),
    "response_format": one_of({"type": "text"}, why="use /v1/chat/completions"),
}

_CHAT: Rules = {
    "messages": messages.not_empty(messages.no_fetching),
    "logprobs": one_of(True, False, why="it is a switch"),
    "top_logprobs": whole(0, 5),
    "response_format": _response_format,
    "repetition_penalty": refused(_OTHERWISE, 1),
    "functions": refused("it is an old name (use `tools`)"),
    "function_call": refused("it is an old name (use `tool_choice`)", "none", "auto"),
    "modalities": one_of(["text"], [], why="TGI speaks no audio"),
    "audio": refused("TGI speaks no audio"),
    "web_search_options": refused("no engine here searches the web (use `tools`)"),
    "store": refused("no answer is kept here"),
    "verbosity": one_of("medium", why="say it in a message"),
}


def _prompts(most: int) -> Rules:
    def rule(raw: msgspec.Raw, options: Options) -> str:
        if not begins(raw, b"["):
            return ""
        prompts = decode(raw)
        if not prompts or not all(isinstance(prompt, str) for prompt in prompts):
            return "must be a text or a list of texts, as TGI takes no tokens"
        return f"must have at most {most} texts" if len(prompts) > most else ""

    return {"prompt": rule}


@lru_cache(maxsize=64)
def _rules(path: str, most_prompts: int) -> Rules:
    own = {COMPLETIONS: {**_BOTH, **_COMPLETIONS, **_prompts(most_prompts)}}
    return (own | {CHAT: {**_BOTH, **_CHAT}}).get(path, {})


def rules(path: str, env: Mapping[str, str]) -> Rules:
    """Return the rules of a path, for TGI with these variables."""
    given = env.get("MAX_CLIENT_BATCH_SIZE", "")
    return _rules(path, int(given) if given.isdecimal() else 4)
