"""The llama.cpp worker: one GGUF model in one process, behind llama.cpp's own HTTP API.

Run it with `python -m inference_service.worker`. It stands alone: beside the standard library it
imports `xllamacpp`, and `huggingface_hub` when the weights have to be fetched. So the same program
serves as a local subprocess and as the whole content of a container.

Environment
    LLAMACPP_FILE           path of a GGUF file; with LLAMACPP_REPO, its name in there. Required.
    LLAMACPP_NAME           name of the model in answers (default: the path of the file).
    LLAMACPP_REPO           Hugging Face repository, as `owner/name`. Unset: the file is local.
    LLAMACPP_REVISION       branch, tag or commit (default `main`). A cached commit needs no hub.
    LLAMACPP_SHA256         64 hexadecimal digits: the SHA-256 that the file must have.
    LLAMACPP_HOST           address to listen on (default 127.0.0.1).
    LLAMACPP_PORT           port (default 0: a free one, which the `serving` event reports).
    LLAMACPP_PORTS          range such as `8080-8179`, in which the next free port after
                            LLAMACPP_PORT is taken where another program has that.
    LLAMACPP_API_KEY        key that each request must have, as `Authorization: Bearer KEY`;
                            /health alone needs none. Unset: anybody may ask.
    LLAMACPP_CONTEXT        tokens per slot (default 4096), within [64, the context of the model].
    LLAMACPP_SLOTS          requests that generate at once (default 4); others queue.
    LLAMACPP_THREADS        threads that compute (default: by file size and usable cores).
    LLAMACPP_SERVES         text (default), embeddings or rerank: the one thing that it answers.
    LLAMACPP_POOLING        for embeddings: mean, cls or last (default: what the file names).
    LLAMACPP_CHAT_TEMPLATE  Jinja template, or `chatml`, for a model that carries none, or a wrong
                            one.
    LLAMACPP_EXIT_WITH_PARENT  1: stdin is a pipe that the parent holds and never writes to; the
                            end of the pipe stops the worker. Leave it unset in a container.
    HF_HOME, HF_ENDPOINT, HF_TOKEN, HF_TOKEN_PATH  as in huggingface_hub.

Standard output: one JSON object per line, progress about four times a second
    {"event": "asking", "file": str, "repo": str}  the hub is asked, which may take its time
    {"event": "downloading", "file": str, "completed_bytes": int, "total_bytes": int}
    {"event": "verifying", "file": str, "completed_bytes": int, "total_bytes": int}
    {"event": "loading", "file": str, "context": int, "slots": int, "threads": int}
    {"event": "serving", "host": str, "port": int, "longest_token": int,
     "control_tokens": [str] | null, "chat_template": bool, "takes_tools": bool | null}
        From here on, /health answers 200. The longest token is in bytes; 0 where nothing follows
        from it, since the tokenizer can drop a part of a text. A text with a control token in it is
        taken for that; null where there are too many to list. Without a chat template, llama.cpp
        answers chats with the template of other models. With one that shows neither tools nor calls
        (false), it drops the tools of a request.
    {"event": "failed", "reason": str, "message": str}  one sentence for a person; then the exit
        With "phase": "downloading" where the weights could not be fetched, before any byte too.
        No retry mends the reasons CONFIGURATION, MODEL_UNUSABLE, WRONG_FILE, GATED, REPO_NOT_FOUND,
        REVISION_NOT_FOUND, FILE_NOT_FOUND, ENGINE_UNUSABLE, NO_AVX2 and NO_OPENMP. One may mend
        CHECKSUM_MISMATCH, MODEL_UNREADABLE, HUB_UNREACHABLE, DISK_FULL, CACHE_UNUSABLE,
        CERTIFICATES_UNUSABLE and PORT_UNUSABLE.

Standard error: llama.cpp's log, errors only. For a model that llama.cpp could not load, the first
line has the reason.

Exit codes
    0  SIGTERM, SIGINT, or the parent is gone        4  the model cannot be loaded
    2  configuration                                 5  the port is in use
    3  download                                      6  the machine (no AVX2, no OpenMP library)

SIGTERM: an idle worker exits at once; requests in flight get five seconds to end. While the model
loads, llama.cpp holds the interpreter, so the signal keeps its default action and the process dies
of it (-15, or 143).
"""
