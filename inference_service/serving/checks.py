"""What is refused of a request once its engine serves, by what the engine has said of its model."""

from __future__ import annotations

import asyncio

from inference_service.engines.base import NO_FACTS, Facts
from inference_service.engines.exchange import Request
from inference_service.errors import InvalidParameter
from inference_service.runtimes.base import Running
from inference_service.runtimes.logs import KEPT_LINES
from inference_service.serving.control_tokens import ControlTokens
from inference_service.serving.entry import Entry
from inference_service.serving.fitting import refuse_what_cannot_fit

_SOON = 10.0  # seconds after a start in which the log of an engine may still come

# Those whose requests have messages, of which a chat template makes the text.
_CHATS = frozenset(
    ("/v1/chat/completions", "/v1/responses", "/v1/messages", "/v1/messages/count_tokens",
     "/apply-template")
)  # fmt: skip

_NO_TOOLS = (b"", b"null", b"[]")  # which SDKs send for none

# Those that make no text of a text.
_READS = frozenset(
    ("/tokenize", "/detokenize", "/v1/embeddings", "/embed", "/v1/rerank", "/rerank", "/score",
     "/pooling", "/classify")
)  # fmt: skip


class Checks:
    """The checks of the requests to one engine, which `running` is."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self._began = asyncio.get_running_loop().time()
        self._facts = NO_FACTS
        self._known = False
        self._tokens: asyncio.Future[ControlTokens] | None = None

    def prompt(self, prompt: str, entry: Entry) -> None:
        """Raise PromptTooLong for a prompt that surely has more tokens than the context."""
        most = len(prompt) if prompt.isascii() else 4 * len(prompt)  # bytes
        if most > entry.spec.context_length:  # a token has one at least
            refuse_what_cannot_fit(prompt, entry.spec, self._of_engine(entry).longest_token)

    def passes(self, request: Request, entry: Entry) -> bool:
        """Return whether it is known at once that `body` refuses nothing."""
        if not request.options:
            return True
        facts = self._facts
        if not self._known or facts.has_chat_template is False or facts.takes_tools is False:
            return False
        if entry.spec.allow_control_tokens or request.path in _READS:
            return True
        tokens = self._tokens
        return tokens is not None and tokens.done() and tokens.result().surely_not_in(request.body)

    async def body(self, request: Request, entry: Entry) -> None:
        """Raise InvalidParameter for messages that the engine would take for others."""
        facts = self._of_engine(entry)
        if facts.has_chat_template is False and request.path in _CHATS:
            raise InvalidParameter({"messages": _no_template(entry)}, entry.spec.id)
        if facts.takes_tools is False and request.path in _CHATS and _has_tools(request):
            raise InvalidParameter({"tools": _no_tools(entry)}, entry.spec.id)
        if entry.spec.allow_control_tokens or request.path in _READS:
            return
        tokens = await self._control_tokens(facts, entry)
        if (found := await tokens.find(request.body, request.options)) is not None:
            field, token = found
            raise InvalidParameter({field: _control_token(token)}, entry.spec.id)

    def _of_engine(self, entry: Entry) -> Facts:
        """Return what the engine has said, which is read until it is there."""
        if not self._known:
            facts = entry.engine.facts(self._running.tail(KEPT_LINES))
            late = asyncio.get_running_loop().time() - self._began > _SOON
            self._known = late or facts is not None
            self._facts = facts or NO_FACTS
        return self._facts

    async def _control_tokens(self, facts: Facts, entry: Entry) -> ControlTokens:
        """Return the tokens of engine and entry; a thread makes them, since it takes long."""
        if not self._known:
            return ControlTokens(entry.spec.control_tokens)
        if self._tokens is None:
            tokens = {*(facts.control_tokens or ()), *entry.spec.control_tokens}
            self._tokens = asyncio.ensure_future(asyncio.to_thread(ControlTokens, tokens))
        if self._tokens.done():
            return self._tokens.result()
        return await asyncio.shield(self._tokens)


def _has_tools(request: Request) -> bool:
    return bytes(request.options.get("tools", b"")) not in _NO_TOOLS


def _no_tools(entry: Entry) -> str:
    return (
        f"would be dropped, because the chat template of {entry.spec.id} shows no tools: give its "
        f"entry in the catalog one that does (`chat_template` of `{entry.engine.name}`)"
    )


def _no_template(entry: Entry) -> str:
    return (
        f"cannot be made into a text, because {entry.spec.id} has no chat template; give its entry "
        f"in the catalog one (`chat_template` of `{entry.engine.name}`), or use /v1/completions"
    )


def _control_token(token: str) -> str:
    return (
        f"has {token[:40]!r}, which the model takes for an end or a role of a message; leave it "
        "out, or set `allow_control_tokens` in the entry of the catalog"
    )
