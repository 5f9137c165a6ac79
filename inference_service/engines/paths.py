"""The paths of engines that callers may ask.

Not among them are those that change an engine (such as vLLM's `/load_lora_adapter` and `/sleep`) or
show what other callers do (llama.cpp's `/slots`).
"""

from __future__ import annotations

_MODELS = "/v1/models"
_EMBEDDINGS = "/v1/embeddings"
_RERANK = "/v1/rerank"
_TOKENS = ("/tokenize", "/detokenize")

# Paths whose requests have messages, which the chat template of the model makes a prompt.
CHAT = (
    *("/v1/chat/completions", "/v1/responses"),
    *("/v1/messages", "/v1/messages/count_tokens", "/apply-template"),
)

_TEXT = (_MODELS, "/v1/completions", *CHAT, *_TOKENS, "/completion", "/infill")
# By what the model serves. llama.cpp answers more than that in each mode, but wrongly: it fails, or
# the vectors of a model that reranks are of zeros.
LLAMACPP = {
    "text": _TEXT,
    "embeddings": (_MODELS, _EMBEDDINGS, *_TOKENS),
    "rerank": (_MODELS, _RERANK, *_TOKENS),
}
# Of vLLM, SGLang, TEI, infinity and llama-server. Most have some of them.
OPENAI = (
    *(*_TEXT, _EMBEDDINGS, _RERANK),
    *("/rerank", "/score", "/pooling", "/classify", "/embed"),
    *("/v1/audio/transcriptions", "/v1/audio/translations", "/v1/audio/speech"),
)
TGI = (
    *("/v1/models", "/v1/completions", "/v1/chat/completions"),
    *("/generate", "/generate_stream", "/tokenize", "/chat_tokenize", "/info"),
)
