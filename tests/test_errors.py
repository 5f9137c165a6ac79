"""Each error with the sentence that it makes from its facts."""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import inference_service
from inference_service import errors
from inference_service.errors import ServiceError
from inference_service.lifecycle import Phase

DIED = {"exit_code": 1, "oom_killed": "false"}

UNUSABLE = errors.ModelUnusable("m", Phase.PULLING_IMAGE, "no image", DIED, ["a"])

EXAMPLES: dict[str, ServiceError] = {
    "the service has a fault; its log has the details": ServiceError(),
    "no model 'gpt2'; did you mean 'gpt-2'?": errors.ModelNotFound("gpt2", "gpt-2"),
    "no model 'x'; known are a, b": errors.ModelNotFound("x", None, ["a", "b"]),
    "m was removed from the catalog": errors.ModelRemoved("m"),
    "m is not running": errors.NotRunning("m"),
    "top_k must be odd, not 2; stop must be short": errors.InvalidParameter(
        {"top_k": "must be odd, not 2", "stop": "must be short"}, "m"
    ),
    "the request makes no sense": errors.InvalidRequest("the request makes no sense"),
    "m does not offer /v1/rerank; models that do: a, b": errors.PathNotOffered(
        "m", "/v1/rerank", ["a", "b"], ["/tokenize"]
    ),
    "no model offers /nonsense; m offers /tokenize": errors.PathNotOffered(
        "m", "/nonsense", [], ["/tokenize"]
    ),
    "the body is large": errors.RequestTooLarge("the body is large"),
    "the prompt does not fit the context of m; shorten it (it has 9 tokens)": errors.PromptTooLong(
        "m", 8, "it has 9 tokens"
    ),
    "m could not be started (pulling image): no space": errors.StartFailed(
        "m", Phase.PULLING_IMAGE, "no space"
    ),
    "m exited with code 1 (warming up): CUDA error": errors.EngineExited(
        "m", Phase.WARMING_UP, "exited with code 1", DIED, "CUDA error", ["a", "b"]
    ),
    "m cannot be started (pulling image): no image": UNUSABLE,
    "m cannot be started (pulling image): no image (the start is not repeated for 3 s)": (
        errors.StillUnusable(UNUSABLE, 2.5)
    ),
    "m failed by a fault of the service: KeyError('x')": errors.StartFault("m", KeyError("x")),
    "m was given up (pulling image): nothing moved for 600 s": errors.StartStalled(
        "m", Phase.PULLING_IMAGE, 600.0
    ),
    "m was given up (warming up): nothing moved for 1.5 s; its last line was: b": (
        errors.StartStalled("m", Phase.WARMING_UP, 1.5, ["a", "b"])
    ),
    "m is not started again before 9 s have passed: m is not running": errors.StartBackingOff(
        "m", 8.2, errors.NotRunning("m")
    ),
    "the engine of m exited with code 1": errors.EngineDied(
        "m", "exited with code 1", DIED, "", 2.5, ["a"]
    ),
    "the engine of m hung: it ran but answered nothing for 120 s": errors.EngineHung(
        "m", 120.4, 1, ()
    ),
    "Docker does not answer (no such file); start it, or run the service with --runtime process": (
        errors.RuntimeUnavailable("no such file")
    ),
    "no Docker daemon answers at unix:///x (no such file)": errors.RuntimeUnavailable(
        "no such file", "unix:///x"
    ),
    "the Docker context far, chosen by DOCKER_CONTEXT, does not exist": errors.ContextUnusable(
        "far", "DOCKER_CONTEXT", "does not exist"
    ),
    "there is no network lan": errors.NetworkUnusable("there is no network lan"),
    "m needs 16.0 GB, and models can have 7.2 GB in all on this machine; use a smaller model, or "
    "raise the setting `memory`": errors.InsufficientMemory("m", 16 * 10**9, 72 * 10**8),
    "m needs 16.0 GB, and models can have 1.9 GB in all on this machine, nine tenths of the limit "
    "of x; use a smaller model, or raise that limit": errors.InsufficientMemory(
        "m", 16 * 10**9, 19 * 10**8, "the limit of x"
    ),
    "m needs 2 GPUs with 40.0 GB of GPU memory, and models can have 8.0 GB and 9.0 GB of the GPUs "
    "of this machine; use a smaller model, or change `gpu_memory` in the catalog or in the "
    "settings": errors.InsufficientGpus("m", 40 * 10**9, 2, [8 * 10**9, 9 * 10**9]),
    "m was stopped meanwhile; send the request again if it should run": errors.ModelStopped("m"),
    "the service is shutting down; retry once it is back": errors.ShuttingDown(),
    "7 requests wait for m already; retry in a few seconds": errors.QueueFull("m", 7),
    "7 requests wait for m, and this one made room for another caller, because its own has most of "
    "them; retry in a few seconds, with fewer at once": errors.QueueFull("m", 7, gives_way=True),
    "the request has waited 600 s for m, which is the longest (setting `queue_timeout`); retry "
    "later, or with fewer requests at once": errors.QueueTimeout("m", 600),
    "the stream was ended, because its reader did not read for 60 s (setting `write_timeout`); "
    "read streams as they come, and ask again": errors.NotRead(60, others=False),
    "the stream was ended, because its reader did not read for 10 s, while others wait for the "
    "model; read streams as they come, and ask again": errors.NotRead(10, others=True),
    "4096 calls of this address are open already, which is its share; retry when some of them "
    "have ended, or make fewer at once": errors.TooManyCalls(4096),
    "prompts of 4096 characters of this address are not answered yet, which is its share; retry "
    "when some of them are, or send fewer at once": errors.TooLargePrompts(4096),
    "m works on as many requests as it can, and none may wait (setting `queue_size`); retry in a "
    "few seconds": errors.QueueFull("m", 0),
    "m is not ready for this request before its deadline, which is in 1.0 s: that takes about "
    "2.5 s, since it is starting; retry then, or set a longer deadline": errors.DeadlineTooShort(
        "m", 1, 2.5, "it is starting"
    ),
    "a is missing; b is missing": errors.CatalogInvalid("a is missing", "b is missing"),
    "m is overloaded; retry in a second": errors.EngineOverloaded("m"),
    "the engine failed: no": errors.EngineFailed("failed: no"),
    "the engine broke the connection": errors.EngineLost("broke the connection"),
    "the engine broke the connection; m could not go on with the text: m is not running": (
        errors.ResumptionFailed("m", "the engine broke the connection", errors.NotRunning("m"))
    ),
    "m did not finish within 60 s; ask for fewer tokens, or stream them": errors.GenerationTimeout(
        "m", 60.0
    ),
    "m made nothing for 600 s; send a shorter prompt, or raise the limit": errors.SilenceTimeout(
        "m", 600.0
    ),
    "there is no method /x.v1.X/Y; reflection lists those that there are": errors.MethodNotOffered(
        "/x.v1.X/Y"
    ),
    "the deadline of the call has passed, after 2.5 s; set a later one": errors.DeadlinePassed(2.5),
    "the container tgi-m could not be removed: no; that is tried again, and `docker rm -f tgi-m` "
    "does it too": errors.StopFailed("m", "tgi-m", "no"),
}


def kinds(base: type[ServiceError] = ServiceError) -> Iterator[type[ServiceError]]:
    """Yield a class of errors and all classes derived from it."""
    yield base
    for kind in base.__subclasses__():
        yield from kinds(kind)


@pytest.mark.parametrize("sentence", EXAMPLES)
def test_an_error_makes_its_sentence_from_facts(sentence: str) -> None:
    assert EXAMPLES[sentence].message == str(EXAMPLES[sentence]) == sentence


def test_every_error_has_an_example() -> None:
    assert {type(example) for example in EXAMPLES.values()} == set(kinds())


@pytest.mark.parametrize("kind", list(kinds()))
def test_every_error_is_raised_somewhere(kind: type[ServiceError]) -> None:
    package = Path(inference_service.__file__).parent
    sources = set(package.rglob("*.py")) - {Path(inspect.getfile(errors))}

    assert any(f"{kind.__name__}(" in source.read_text() for source in sources)


@pytest.mark.parametrize("words", ["x\u2028" * 2_000_000, "\x1b" * 4_000_000, "a\tb" * 1_000_000])
def test_no_words_of_a_caller_make_an_error_slow_or_long(words: str) -> None:
    """A prompt or an id can have 4 MiB, and the loop serves nobody meanwhile."""
    begun = time.thread_time()
    error = errors.ServiceError(words, log=[words])
    taken = time.thread_time() - begun

    assert taken < 0.05
    for text in (error.message, str(error), error.log[0]):
        assert len(text) < 30_000
