"""The paths of engines that callers may ask.

Not among them are those that change an engine (such as vLLM's `/load_lora_adapter` and `/sleep`) or
show what other callers do (llama.cpp's `/slots`).
"""

from __future__ import annotations

_OPENAI = (
    *("/v1/models", "/v1/completions", "/v1/chat/completions", "/v1/embeddings"),
    *("/v1/responses", "/v1/rerank"),
)
_ANTHROPIC = ("/v1/messages", "/v1/messages/count_tokens")
_TOKENS = ("/tokenize", "/detokenize")

LLAMACPP = (*_OPENAI, *_ANTHROPIC, *_TOKENS, "/apply-template", "/completion", "/infill")
# Of vLLM, SGLang, TEI, infinity and llama-server. Most have some of them.
OPENAI = (
    *LLAMACPP,
    *("/rerank", "/score", "/pooling", "/classify", "/embed"),
    *("/v1/audio/transcriptions", "/v1/audio/translations", "/v1/audio/speech"),
)
TGI = (
    *("/v1/models", "/v1/completions", "/v1/chat/completions"),
    *("/generate", "/generate_stream", "/tokenize", "/chat_tokenize", "/info"),
)
