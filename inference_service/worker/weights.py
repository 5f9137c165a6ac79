"""Weights from the Hugging Face hub, kept in its ordinary cache.

`hf_hub_download` of huggingface_hub 2.4 gives every attempt a temporary file of its own and removes
it at the end. So a download that was killed starts again at its first byte, and its old bytes stay
on the disk. Here all bytes go to one `<etag>.incomplete`, with which the next start goes on. A
complete file has the library's own place in the cache
(https://huggingface.co/docs/huggingface_hub/guides/manage-cache), so that the library finds files
that the worker has downloaded, and the worker those of the library.
"""

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import (
    HfFileMetadata,
    constants,
    get_hf_file_metadata,
    hf_hub_url,
    try_to_load_from_cache,
)

from . import checksum, stored, transfer
from .causes import UNREACHABLE, hub_errors, no_hub
from .events import emit
from .failure import ExitCode, WorkerError

# Digests name files and folders of the cache. The hub names a file by its SHA-256, or in git by its
# SHA-1, and a commit by its id in git (huggingface_hub#1428).
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Source:
    """One file of one repository; `revision` is a branch, a tag or a commit."""

    repo: str
    file: str
    revision: str

    @property
    def folder(self) -> Path:
        """The folder of this repository in the cache."""
        return Path(constants.HF_HUB_CACHE, f"models--{self.repo.replace('/', '--')}")

    @property
    def is_commit(self) -> bool:
        """Whether the revision is a commit, which never changes."""
        return re.fullmatch(r"[0-9a-f]{40}", self.revision) is not None

    @property
    def reference(self) -> Path:
        """The file with the commit of a branch or tag."""
        return self.folder / "refs" / self.revision

    def cached(self) -> Path | None:
        """Return the path of the file, if the cache has it."""
        known = stored.small(self.reference)
        if known is not None and not _is_digest(known.decode(errors="replace")):
            stored.set_aside(self.reference, "it names no commit")
        path = try_to_load_from_cache(self.repo, self.file, revision=self.revision)
        return Path(path) if isinstance(path, str) else None


def fetch(source: Source, sha256: str | None) -> Path:
    """Return the path of the verified file, downloading it if the cache lacks it.

    A cached commit needs no request to the hub. For a branch or tag the hub is asked for the
    commit; if the hub cannot be reached, the cached file of the branch serves. The file must have
    the SHA-256 that the hub states for it, and `sha256` if that is given; a damaged file is
    removed. Raises WorkerError, code 3.
    """
    with hub_errors(source.repo, source.file, source.revision):
        path = source.cached()
        if path is None or not source.is_commit:
            try:
                path = _newest(source, sha256)
            except WorkerError as error:
                if path is None or error.reason != UNREACHABLE:
                    raise
        _verify(path, source, sha256)
        return path


def _newest(source: Source, sha256: str | None) -> Path:
    """Ask the hub for the revision's commit, and return the path of the file."""
    emit("asking", file=source.file, repo=source.repo)
    with hub_errors(source.repo, source.file, source.revision):
        remote = get_hf_file_metadata(
            hf_hub_url(source.repo, source.file, revision=source.revision)
        )
    etag, commit_hash, size = _checked(remote)
    _expected(etag, source, sha256)
    commit = Source(source.repo, source.file, commit_hash)
    path = commit.cached()
    if path is None:
        blob = source.folder / "blobs" / etag
        url = hf_hub_url(commit.repo, commit.file, revision=commit.revision)
        transfer.download(url, blob, size, source.file)
        path = _link(commit, blob)
    if not source.is_commit:
        _remember(source, commit_hash)
    return path


def _checked(remote: HfFileMetadata) -> tuple[str, str, int]:
    """Return the etag, the commit and the size that the hub states. Raises WorkerError.

    Etag and commit become names of files: a hub whose names are no digests could write anywhere.
    """
    etag, commit, size = (remote.etag or "").lower(), remote.commit_hash or "", remote.size
    if not etag or not commit or size is None or size < 0:
        raise no_hub()
    for header, digest in (("ETag", etag), ("X-Repo-Commit", commit)):
        if not _is_digest(digest):
            raise no_hub(f"its {header} is {digest[:80]!r}, and no SHA-1 or SHA-256")
    return etag, commit, size


def _is_digest(text: str) -> bool:
    return _DIGEST.fullmatch(text) is not None


def _remember(source: Source, commit: str) -> None:
    """Note the branch's commit, for a start without the hub."""
    if stored.small(source.reference) == commit.encode():
        return
    with suppress(OSError):  # a read-only cache: the next start asks the hub again
        stored.write(source.reference, commit)


def _link(commit: Source, blob: Path) -> Path:
    """Name the blob in the commit's snapshot."""
    path = commit.folder / "snapshots" / commit.revision / commit.file
    path.parent.mkdir(parents=True, exist_ok=True)
    stored.make_way(path)
    with suppress(FileExistsError):  # another worker was faster
        path.symlink_to(os.path.relpath(blob, path.parent))
    return path


def _verify(path: Path, source: Source, sha256: str | None) -> None:
    blob = path.resolve()
    expected = _expected(blob.name, source, sha256)
    if expected is None:
        return
    marker = source.folder / ".verified" / blob.name
    try:
        reason = "CHECKSUM_MISMATCH"  # another download may well be whole
        checksum.verify(blob, source.file, expected, ExitCode.DOWNLOAD, marker, reason)
    except WorkerError:
        blob.unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        raise


def _expected(etag: str, source: Source, sha256: str | None) -> str | None:
    """Return the SHA-256 that the file must have.

    For a large file, the etag of the hub is its SHA-256, and the name of its blob in the cache.
    """
    if not re.fullmatch(r"[0-9a-f]{64}", etag):
        return sha256
    if sha256 is not None and sha256 != etag:
        message = f"{source.file} of {source.repo} has SHA-256 {etag}; LLAMACPP_SHA256 is {sha256}."
        raise WorkerError(ExitCode.DOWNLOAD, "WRONG_FILE", message)
    return etag
