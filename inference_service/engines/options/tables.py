"""The rules for each path, of llama.cpp and of engines that speak OpenAI's JSON.

Those of llama.cpp were found with xllamacpp 2026.10.11549, option by option. Its numbers wrap at 32
bits: 2**32 + 2 tokens are two.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import inf

from inference_service.engines.options import messages, samplers, schemas
from inference_service.engines.options.rules import (
    Rules,
    all_of,
    internal,
    listed,
    names,
    number,
    one_of,
    refused,
    whole,
)
from inference_service.engines.paths import CHAT

Table = Mapping[str, Rules]  # by path; "" is for all others

_INT = (1 << 31) - 1
_MOST_TEXTS = 128  # OpenAI's own bound
_MOST_PROMPTS = 1024
_MOST_INPUTS = 2048  # OpenAI's own bound
_MOST_LOGPROBS = (
    20  # OpenAI's and vLLM's; llama.cpp would send its whole vocabulary with each token
)

_LENGTHS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "n_predict")
_STATELESS = "no conversation is kept here (send it whole)"
_NO_PROMPTS = "no prompts are kept here (send `instructions` and `input`)"
_NO_TOOLS = "no tool runs here"
_NO_SEARCH = "no engine here searches the web (use `tools`)"

# Of all kinds: what protects an engine.
_BOUNDS: Rules = {
    **names(_LENGTHS, whole(-1, _INT)),
    "n": whole(1, _MOST_TEXTS),
    "n_cmpl": whole(1, _MOST_TEXTS),
    "best_of": whole(1, _MOST_TEXTS),
    **names(("logprobs", "top_logprobs", "prompt_logprobs", "n_probs"), whole(0, 1000)),
    "prompt": listed(_MOST_PROMPTS),
    "input": listed(_MOST_INPUTS),
}

_LLAMACPP: Rules = {
    **names(_LENGTHS, all_of(whole(-1, _INT), samplers.length)),
    "n_cmpl": whole(1, _MOST_TEXTS),
    "n": whole(1, _MOST_TEXTS),
    "n_probs": whole(0, _MOST_LOGPROBS),
    "prompt": listed(_MOST_PROMPTS),
    "temperature": all_of(number(0, inf), samplers.temperature),
    "top_p": number(0, 1),
    "min_p": number(0, 1),
    "top_k": whole(-1, _INT),
    "xtc_probability": number(0, 1),
    "xtc_threshold": number(0, 1),
    "mirostat": whole(0, 2),
    "seed": whole(-1, (1 << 32) - 2),
    # It reserves memory for the whole window: with 2**31 - 1 it answers nobody for half a minute.
    **names(("repeat_last_n", "dry_penalty_last_n"), whole(-1, 1 << 20)),
    "stop": samplers.stop,
    "logit_bias": samplers.logit_bias,
    "grammar": samplers.grammar,
    "json_schema": schemas.json_schema,
    "messages": messages.openai,
    # It ends at an assertion where the first is not its own, with the texts of all callers.
    **names(("grammar_triggers", "grammar_lazy", "preserved_tokens"), internal),
    **names(("chat_format", "chat_parser", "generation_prompt", "parse_tool_calls"), internal),
    **names(("reasoning_budget_start_tag", "reasoning_budget_end_tag"), internal),
    **names(("reasoning_budget_end_tags", "reasoning_budget_message"), internal),
    "id_slot": refused("the service chooses the slot", -1),
    "lora": refused("this engine has no adapters"),
    # Names of other engines.
    "repetition_penalty": refused("its name in llama.cpp is `repeat_penalty`", 1),
    **names(
        ("guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs"),
        refused("use `response_format` in a chat, `json_schema` or `grammar`"),
    ),
    **names(
        ("stop_token_ids", "bad_words", "allowed_token_ids", "prompt_logprobs", "prompt_embeds"),
        refused("llama.cpp does not have it"),
    ),
    **names(
        ("use_beam_search", "include_stop_str_in_output"), refused("llama.cpp does not have it")
    ),
    "min_tokens": refused("llama.cpp does not have it", 0),
    "length_penalty": refused("llama.cpp does not have it", 1),
    "truncate_prompt_tokens": refused("llama.cpp cuts no prompt (send a shorter one)"),
    "skip_special_tokens": one_of(True, why="llama.cpp sends no special tokens"),
    "chat_template": refused("the template is that of the model"),
}

_TOOLS: Rules = {"tools": schemas.tools, "tool_choice": samplers.tool_choice}

_CHAT: Rules = {
    "logprobs": one_of(True, False, 0, 1, why="it is a switch (the number is `top_logprobs`)"),
    "top_logprobs": whole(1, _MOST_LOGPROBS, "llama.cpp sends none for 0"),
    "response_format": schemas.response_format,
    **_TOOLS,
    "functions": refused("it is an old name (use `tools`)"),
    "function_call": refused("it is an old name (use `tools` and `tool_choice`)", "none", "auto"),
    "modalities": one_of(["text"], [], why="llama.cpp speaks no audio"),
    "audio": refused("llama.cpp speaks no audio"),
    "web_search_options": refused(_NO_SEARCH),
    "store": refused("no answer is kept here"),
    "verbosity": one_of("medium", why="say it in a message"),
    "echo": refused("an answer has no prompt in it"),
    "suffix": refused("use /infill"),
    "best_of": samplers.best_of,
}

_COMPLETIONS: Rules = {
    "logprobs": whole(1, _MOST_LOGPROBS, "llama.cpp sends none for 0"),
    "top_logprobs": refused("its name here is `logprobs`", 0),
    "response_format": one_of({"type": "text"}, why="use /v1/chat/completions, or `json_schema`"),
    "best_of": samplers.best_of,
    "echo": refused("an answer has no prompt in it (add it yourself)"),
    "suffix": refused("use /infill"),
}

_RESPONSES: Rules = {
    "input": messages.responses,
    "instructions": messages.text,
    "tools": schemas.responses_tools,
    "tool_choice": samplers.tool_choice,
    "text": samplers.text,
    "include": samplers.include,
    "response_format": schemas.response_format,
    **names(("previous_response_id", "conversation"), refused(_STATELESS)),
    "prompt": refused(_NO_PROMPTS),
    "background": refused("no answer is kept here"),
    "truncation": one_of("disabled", why="llama.cpp cuts no input (send a shorter one)"),
    "context_management": samplers.context_management,
}

_ANTHROPIC: Rules = {
    "messages": messages.anthropic,
    "system": messages.system,
    "tools": schemas.anthropic_tools,
    "tool_choice": samplers.anthropic_tool_choice,
    "stop_sequences": samplers.stop,
    "thinking": samplers.thinking,
    "context_management": samplers.context_management,
    "output_config": samplers.output_config,
    "output_format": refused("use `response_format` at /v1/chat/completions"),
    "mcp_servers": refused(_NO_TOOLS),
    "container": refused(_NO_TOOLS),
    "inference_geo": one_of("global", why="nobody can tell where this engine is"),
}

_EMBEDDINGS: Rules = {
    "input": listed(_MOST_INPUTS),
    "dimensions": refused("llama.cpp sends all dimensions of the model"),
    "truncate_prompt_tokens": refused("llama.cpp cuts no input (send a shorter one)"),
}

LLAMACPP: Table = {
    "": _LLAMACPP,
    "/v1/chat/completions": {**_LLAMACPP, **_CHAT},
    "/v1/completions": {**_LLAMACPP, **_COMPLETIONS},
    "/v1/responses": {**_LLAMACPP, **_RESPONSES},
    "/v1/messages": {**_LLAMACPP, **_ANTHROPIC},
    "/v1/messages/count_tokens": _ANTHROPIC,
    "/apply-template": {**_LLAMACPP, **_TOOLS},
    "/v1/embeddings": _EMBEDDINGS,
    "/v1/rerank": {"documents": listed(_MOST_INPUTS), "top_n": whole(0, _INT)},
}

# What a request to llama.cpp must have, lest a start is paid for a refusal.
REQUIRED: Mapping[str, Collection[str]] = {
    **dict.fromkeys(CHAT, ("messages",)),
    "/v1/responses": ("input",),
    "/v1/completions": ("prompt",),
    "/completion": ("prompt",),
    "/v1/embeddings": ("input",),
    "/v1/rerank": ("query",),
    "/tokenize": ("content",),
    "/detokenize": ("tokens",),
}


def _openai(*, remote: bool, fetches: bool) -> Table:
    """Return the table of a server that may be any: of one's own, or at a URL anybody's.

    None of the servers that are known keeps conversations or searches; somebody's service may.
    """
    each = messages.anything if fetches else messages.no_fetching
    common = {
        **_BOUNDS,
        "messages": messages.not_empty(each),
        "input": all_of(listed(_MOST_INPUTS), messages.not_empty(each)),
    }
    if remote:
        return {"": common}
    common |= _OWN_ALL
    return {"": common} | {path: {**common, **more} for path, more in _OWN.items()}


# vLLM until 0.11 had the first; since then nobody honours them, and vLLM drops them. It has never
# chosen among texts since its second engine (V1).
_OWN_ALL: Rules = {
    **names(
        ("guided_json", "guided_regex", "guided_choice", "guided_grammar"),
        refused(
            "no engine has it any more (use `response_format`, or vLLM's `structured_outputs`)"
        ),
    ),
    "best_of": all_of(whole(1, _MOST_TEXTS), samplers.best_of),
}

_OWN: Mapping[str, Rules] = {
    "/v1/chat/completions": {
        "functions": refused("it is an old name (use `tools`)"),
        "function_call": refused("it is an old name (use `tool_choice`)", "none", "auto"),
        "web_search_options": refused(_NO_SEARCH),
    },
    "/v1/responses": {"conversation": refused(_STATELESS), "prompt": refused(_NO_PROMPTS)},
    "/v1/messages": {"mcp_servers": refused(_NO_TOOLS), "container": refused(_NO_TOOLS)},
}

# By whether it is at a URL, and whether it may fetch what messages name.
OPENAI: Mapping[tuple[bool, bool], Table] = {
    (remote, fetches): _openai(remote=remote, fetches=fetches)
    for remote in (False, True)
    for fetches in (False, True)
}


def rules(table: Table, path: str) -> Rules:
    """Return the rules of a path."""
    found = table.get(path)
    return table[""] if found is None else found
