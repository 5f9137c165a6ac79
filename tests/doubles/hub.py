"""A Hugging Face hub on loopback, for clients that download one file.

As in the real hub, `resolve` answers with a redirect to a storage on another origin, which must
never get the token.
"""

import asyncio
import hashlib
import ssl
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from aiohttp import web

HOSTS = ("hub.test", "storage.test")
_CHUNK_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Seen:
    """A request to the hub or the storage. `host` is `hub` or `storage`."""

    host: str
    method: str
    path: str
    range: str | None
    token: str | None


@dataclass(slots=True)
class Repository:
    """Commits by id, each a mapping of file names to contents, and branches."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    gated: bool = False


class Hub:
    """The hub and its storage, as an async context manager; `url` is the value of HF_ENDPOINT.

    With `tls` they are hosts of the names in HOSTS, which are known to nobody but a proxy: `ports`
    has the port of this machine for each.

    A test may set a fault at any time:

    status            the hub answers every request with this status (500, 503, ...)
    storage_status    the same for the storage
    cut_after         the storage closes the connection after so many bytes of a response
    silent            the hub answers nothing before `release()`
    hold_after        the storage sends so many bytes of a response, the rest after `release()`
    bytes_per_second  the most that the storage sends
    corrupt           the storage flips the first byte of the file
    ranges            False: the storage ignores Range and sends the whole file
    tokens            the tokens that may read gated repositories
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.ports: dict[str, int] = {}
        self.url = ""
        self.requests: list[Seen] = []
        self.repositories: dict[str, Repository] = {}
        self.tokens: set[str] = set()
        self.status: int | None = None
        self.storage_status: int | None = None
        self.cut_after: int | None = None
        self.silent = False
        self.hold_after: int | None = None
        self.bytes_per_second: float | None = None
        self.corrupt = False
        self.ranges = True
        self._released = asyncio.Event()
        self._blobs: dict[str, bytes] = {}
        self._storage_url = ""
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        hub = web.Application()
        hub.router.add_get("/{owner}/{name}/resolve/{revision}/{file:.+}", self._resolve)
        hub.router.add_get("/api/models/{owner}/{name}/revision/{revision}", self._describe)
        storage = web.Application()
        storage.router.add_get("/{sha256}", self._send)
        self.url = await self._listen(hub, HOSTS[0])
        self._storage_url = await self._listen(storage, HOSTS[1])
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()
        await self._stack.aclose()

    async def refuse(self) -> None:
        """Stop listening for good, so that connections are refused."""
        await self._stack.aclose()

    def release(self) -> None:
        """Send the bytes that `hold_after` holds back."""
        self._released.set()

    def add(self, repo: str, file: str, content: bytes, branch: str = "main") -> str:
        """Commit a file to a branch and return the commit's id."""
        repository = self.repositories.setdefault(repo, Repository())
        parent = repository.branches.get(branch, "")
        commit = hashlib.sha1(parent.encode() + file.encode() + content).hexdigest()
        repository.commits[commit] = {**repository.commits.get(parent, {}), file: content}
        repository.branches[branch] = commit
        return commit

    def sent(self) -> list[Seen]:
        """Return the requests for the bytes of a file."""
        return [request for request in self.requests if request.host == "storage"]

    async def _listen(self, application: web.Application, name: str) -> str:
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=self._tls).start()
        host, port = runner.addresses[0][:2]
        self.ports[name] = port
        return f"http://{host}:{port}" if self._tls is None else f"https://{name}"

    def _find(self, request: web.Request) -> tuple[str, dict[str, bytes]] | web.Response:
        """Return the requested commit with its files, or the refusal."""
        token = self._record("hub", request)
        if self.status is not None:
            return web.Response(status=self.status)
        part = request.match_info
        repository = self.repositories.get(f"{part['owner']}/{part['name']}")
        if repository is None:
            return _error(401 if token is None else 404, "RepoNotFound")
        if repository.gated and token not in self.tokens:
            return _error(401 if token is None else 403, "GatedRepo")
        commit = repository.branches.get(part["revision"], part["revision"])
        if commit not in repository.commits:
            return _error(404, "RevisionNotFound")
        return commit, repository.commits[commit]

    async def _describe(self, request: web.Request) -> web.StreamResponse:
        """Answer `?blobs=true`: sizes, and the SHA-256 of files in the storage."""
        found = self._find(request)
        if isinstance(found, web.Response):
            return found
        siblings = [_sibling(name, content) for name, content in found[1].items()]
        return web.json_response({"sha": found[0], "siblings": siblings})

    async def _resolve(self, request: web.Request) -> web.StreamResponse:
        if self.silent:
            await self._released.wait()
        found = self._find(request)
        if isinstance(found, web.Response):
            return found
        commit, files = found
        content = files.get(request.match_info["file"])
        if content is None:
            return _error(404, "EntryNotFound", {"X-Repo-Commit": commit})
        sha256 = hashlib.sha256(content).hexdigest()
        self._blobs[sha256] = content
        headers = {
            "Location": f"{self._storage_url}/{sha256}",
            "X-Repo-Commit": commit,
            "X-Linked-Etag": f'"{sha256}"',
            "X-Linked-Size": str(len(content)),
            "ETag": '"of-the-redirect"',
        }
        return web.Response(status=302, headers=headers)

    async def _send(self, request: web.Request) -> web.StreamResponse:
        self._record("storage", request)
        if self.storage_status is not None:
            return web.Response(status=self.storage_status)
        content = self._blobs[request.match_info["sha256"]]
        if self.corrupt:
            content = bytes([content[0] ^ 1]) + content[1:]
        wanted = request.http_range.start if self.ranges else None
        start = wanted or 0
        if start >= len(content):
            return web.Response(status=416, headers={"Content-Range": f"bytes */{len(content)}"})
        headers = {"Content-Length": str(len(content) - start), "Accept-Ranges": "bytes"}
        if wanted is not None:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        response = web.StreamResponse(status=200 if wanted is None else 206, headers=headers)
        with suppress(ConnectionResetError):  # the client has gone
            await response.prepare(request)
            await self._body(request, response, content[start:])
        return response

    async def _body(
        self, request: web.Request, response: web.StreamResponse, content: bytes
    ) -> None:
        sent = 0
        while sent < len(content):
            if sent == self.cut_after:
                assert request.transport is not None
                request.transport.close()
                return
            if sent == self.hold_after:
                await self._released.wait()
            stops = [stop for stop in (self.cut_after, self.hold_after) if stop and stop > sent]
            end = min([sent + _CHUNK_BYTES, *stops])
            await response.write(content[sent:end])
            if self.bytes_per_second is not None:
                await asyncio.sleep((end - sent) / self.bytes_per_second)
            sent = end

    def _record(self, host: str, request: web.Request) -> str | None:
        authorization = request.headers.get("Authorization")
        token = authorization.removeprefix("Bearer ") if authorization else None
        byte_range = request.headers.get("Range")
        self.requests.append(Seen(host, request.method, request.path, byte_range, token))
        return token


def _sibling(name: str, content: bytes) -> dict[str, object]:
    """Return a file as the hub lists it: JSON is in git itself, other files are in the storage."""
    sha1 = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    listed: dict[str, object] = {"rfilename": name, "size": len(content), "blobId": sha1}
    if not name.endswith(".json"):
        sha256 = hashlib.sha256(content).hexdigest()
        listed["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 134}
    return listed


def _error(status: int, code: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(status=status, headers={"X-Error-Code": code, **(headers or {})})
