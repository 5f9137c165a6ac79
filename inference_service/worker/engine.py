"""llama.cpp's HTTP server in this process."""

import errno
import os
import socket
import time
from pathlib import Path
from typing import Any

from . import gguf, machine
from .events import emit
from .failure import ExitCode, WorkerError
from .settings import Settings

_LEAST_CONTEXT = 64  # with a handful of tokens llama.cpp aborts the process
_SLOT_UNIT = 256  # llama.cpp rounds the context of a slot up to a multiple of it
_LEAST_BATCH = 512  # llama.cpp's own
_SMALL_FILE = 64 * 2**20
# llama.cpp writes its log in a thread, each line in three parts, and goes on after the load has
# failed. Without a pause, 6 of 60 `failed` events on a busy machine stood inside such a line.
_LOG_SECONDS = 0.1
_READ_SECONDS = 5  # between two pieces of a request, which the service writes at once


def load(path: Path, settings: Settings) -> tuple[Any, gguf.Header]:
    """Load the model and listen; return xllamacpp's `Server`, whose `/health` then answers 200.

    llama.cpp holds the interpreter for the whole load. Never drop the last reference to the server
    while a client is connected: the destructor waits for that client and holds the interpreter too.
    Raises WorkerError, code 4 or 5.
    """
    header = gguf.read(path)
    _check_ports(settings)
    context = max(_LEAST_CONTEXT, min(settings.context, header.context_length))
    threads = settings.threads or default_threads(path.stat().st_size)
    emit("loading", file=str(path), context=context, slots=settings.slots, threads=threads)
    # ggml reads this as it is loaded. Unset, an abort runs gdb for seconds and prints kilobytes.
    os.environ["GGML_NO_BACKTRACE"] = "1"
    try:
        import xllamacpp
    except ImportError as error:
        message = f"The llama.cpp engine cannot be loaded: {error}."
        raise WorkerError(ExitCode.MACHINE, "ENGINE_UNUSABLE", message) from error

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(path)
    if settings.name is not None:  # else answers in OpenAI's JSON name the path of the file
        parameters.model_alias = {settings.name}
    parameters.hostnames = [settings.host]
    if settings.api_key is not None:
        parameters.api_keys = [settings.api_key]
    parameters.n_parallel = settings.slots
    parameters.n_ctx = context * settings.slots  # llama.cpp divides it among the slots
    # Batches of text keep llama.cpp's size: with 1 to 32 callers, smaller ones changed neither the
    # tokens/s nor the time to the first token.
    parameters.cpuparams.n_threads = threads
    parameters.cpuparams_batch.n_threads = threads
    if settings.chat_template is not None:
        parameters.chat_template = settings.chat_template
    if settings.serves == "text":
        _check_text(header, path)
    else:
        _embed(parameters, context, _pooling(settings, header, path), xllamacpp.llama_pooling_type)
    _tame(parameters, settings.slots)
    try:
        return _listen_and_load(xllamacpp.Server, parameters, settings), header
    except WorkerError:
        raise
    except Exception as error:
        time.sleep(_LOG_SECONDS)
        message = f"llama.cpp could not load {path}: {str(error).rstrip('.')}."
        raise WorkerError(ExitCode.MODEL, "MODEL_UNUSABLE", message) from error


def default_threads(file_bytes: int) -> int:
    """One thread for a tiny model, else one per usable core.

    For a layer of a few hundred weights, threads wait for each other longer than they compute. On
    two cores, a model of 3 million parameters gave 2100 tokens per second with one thread and 1000
    with two; a model of 1.1 billion parameters gave 24 and 38.
    """
    return 1 if file_bytes < _SMALL_FILE else machine.usable_cores()


def requests_in_flight(server: Any) -> int:
    """Count the requests in llama.cpp's slots and in its queue."""
    counts = 0
    for line in server.handle_metrics().splitlines():
        name, _, value = line.rpartition(" ")
        if name in ("llamacpp:requests_processing", "llamacpp:requests_deferred"):
            counts += int(float(value))
    return counts


def _check_text(header: gguf.Header, path: Path) -> None:
    if not header.causal:
        message = (
            f"{path} makes no text: set LLAMACPP_SERVES (`serves` in the catalog) to embeddings or"
            " rerank."
        )
        raise WorkerError(ExitCode.MODEL, "MODEL_UNUSABLE", message)


def _pooling(settings: Settings, header: gguf.Header, path: Path) -> str:
    """Return how the vectors of all tokens become one. Raises WorkerError, code 4.

    llama.cpp loads a model without a pooling, and then refuses each request; one without a head for
    scores it loads too, and takes the first number of a vector for the score.
    """
    if settings.serves == "rerank":
        if header.ranks:
            return "rank"
        message = f"{path} cannot rerank: it has no tensors `cls.*`, which make scores."
    else:
        if (pooling := settings.pooling or header.pooling) is not None:
            return pooling
        message = (
            f"{path} names no pooling for embeddings: set LLAMACPP_POOLING (`pooling` in the"
            " catalog) to mean, cls or last."
        )
    raise WorkerError(ExitCode.MODEL, "MODEL_UNUSABLE", message)


def _embed(parameters: Any, context: int, pooling: str, poolings: Any) -> None:
    """Make vectors or scores, of inputs that fill the context.

    An input has to fit one physical batch, or llama.cpp refuses it, whatever the context.
    """
    parameters.embedding = True
    parameters.pooling_type = getattr(poolings, f"LLAMA_POOLING_TYPE_{pooling.upper()}")
    batch = max(_LEAST_BATCH, -(-context // _SLOT_UNIT) * _SLOT_UNIT)
    parameters.n_batch = parameters.n_ubatch = batch


def _tame(parameters: Any, slots: int) -> None:
    """Turn off defaults of llama.cpp that a worker must not have."""
    parameters.cache_ram_mib = 0  # 8192: a cache of old prompts that grows with every request
    parameters.endpoint_slots = False  # would show the prompts of other callers
    parameters.endpoint_metrics = True  # only counts; a stop waits until they are 0
    parameters.ui = False
    parameters.cors_origins = ""  # "*": any web page that the user visits could read this API
    parameters.verbosity = 1  # errors only
    parameters.fit_params = False  # would shrink the context without an error
    # 3600: a head that another user of the machine does not end would hold a thread for an hour.
    parameters.timeout_read = _READ_SECONDS
    # Every open stream holds a thread, a queued one too. With none left, /health does not answer.
    parameters.n_threads_http = 4 * slots + 32


def _listen_and_load(server: Any, parameters: Any, settings: Settings) -> Any:
    """Listen on the first port that llama.cpp can have, and load the model.

    llama.cpp binds its port before it loads, in a few milliseconds, so a port that is taken costs
    no second load. Only llama.cpp's own bind counts: a port that was free a moment ago can be taken
    by another user of the machine, who would read the prompts (issue 14).
    """
    for port in settings.ports:
        if _refusal(settings.host, port) is not None:
            continue
        parameters.port = port
        try:
            return server(parameters)
        except RuntimeError:  # one error for all: a port that is taken, and a bad model
            if _refusal(settings.host, port) is None:
                raise
    raise _no_port(settings, os.strerror(errno.EADDRINUSE))


def _check_ports(settings: Settings) -> None:
    """Raise WorkerError if no port can be had: llama.cpp's own error does not name the port."""
    refusals = (_refusal(settings.host, port) for port in settings.ports)
    first = next(refusals)
    if first is not None and all(refusals):
        raise _no_port(settings, first)


def _refusal(host: str, port: int) -> str | None:
    """Return why a port cannot be bound now, if it cannot."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return str(error.strerror)
    return None


def _no_port(settings: Settings, cause: str) -> WorkerError:
    first, *others = settings.ports
    more = f", nor on {len(others)} others of the range" if others else ""
    message = f"Cannot listen on {settings.host}:{first}{more}: {cause}."
    return WorkerError(ExitCode.PORT, "PORT_UNUSABLE", message)
