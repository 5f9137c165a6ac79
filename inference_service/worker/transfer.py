"""A download of one file that goes on over several connections."""

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import httpx2  # the HTTP library under huggingface_hub 2
from huggingface_hub import get_session, get_token

from . import stored
from .failure import ExitCode, WorkerError
from .progress import Progress

_ATTEMPTS = 5
_REDIRECTS = 10
_TIMEOUT_SECONDS = 30.0
_POLL_SECONDS = 0.25
_RETRIED_STATUSES = (408, 429, 500, 502, 503, 504)


def download(url: str, target: Path, size: int, name: str) -> None:
    """Download the `size` bytes at `url` to `target`, or the part that is missing.

    `name` stands for the file in progress events. Of two processes one downloads; the other waits
    and reports the same progress. Five connections in a row without a byte end the download. Raises
    httpx2.HTTPError, OSError, and WorkerError when the disk is too small.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.incomplete")
    stored.make_way(target)
    stored.make_way(partial)
    progress = Progress("downloading", name, size)
    with _owned(partial, target, progress) as file:
        if target.exists():  # another process has finished the download meanwhile
            partial.unlink(missing_ok=True)
            return
        completed = file.seek(0, os.SEEK_END)
        if completed > size:
            completed = _restart(file)
        _check_space(partial, size - completed)
        progress.at(completed)
        _complete(url, file, size, progress)
        os.replace(partial, target)


@contextmanager
def _owned(partial: Path, target: Path, progress: Progress) -> Iterator[BinaryIO]:
    """Open and lock `partial` for appending. The lock is on the data: no lock file is left."""
    while True:
        with partial.open("a+b") as file:
            while not _locked(file):
                progress.at(os.fstat(file.fileno()).st_size)
                time.sleep(_POLL_SECONDS)
            # Without a link, a clean-up has removed the file meanwhile: the lock protects nothing.
            if target.exists() or os.fstat(file.fileno()).st_nlink > 0:
                yield file
                return


def _locked(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _complete(url: str, file: BinaryIO, size: int, progress: Progress) -> None:
    failures = 0
    while (completed := file.tell()) < size:
        try:
            _append(url, file, size, progress)
            if file.tell() <= completed:
                raise httpx2.RemoteProtocolError(f"the body ends after {completed} of {size} bytes")
        except httpx2.HTTPError as error:
            failures = 0 if file.tell() > completed else failures + 1
            if failures >= _ATTEMPTS or not _passing(error):
                raise
            time.sleep(0.25 * 2**failures)
    file.flush()
    os.fsync(file.fileno())  # else a power cut could leave the final name without its bytes


def _passing(error: httpx2.HTTPError) -> bool:
    if isinstance(error, httpx2.HTTPStatusError):
        return error.response.status_code in _RETRIED_STATUSES
    return not isinstance(error, (httpx2.UnsupportedProtocol, httpx2.TooManyRedirects))


def _append(url: str, file: BinaryIO, size: int, progress: Progress) -> None:
    """Append one response to the file. The redirect to the hub's storage drops the token."""
    completed = file.tell()
    headers = {"Accept-Encoding": "identity"}
    if token := get_token():
        headers["Authorization"] = f"Bearer {token}"
    if completed:
        headers["Range"] = f"bytes={completed}-"
    with _answer(url, headers) as response:
        response.raise_for_status()
        if completed and response.status_code != httpx2.codes.PARTIAL_CONTENT:
            completed = _restart(file)  # the server knows no ranges
        for chunk in response.iter_raw():
            completed += len(chunk)
            if completed > size:
                raise httpx2.RemoteProtocolError(f"more than the {size} bytes that were announced")
            file.write(chunk)
            progress.at(completed)


@contextmanager
def _answer(url: str, headers: dict[str, str]) -> Iterator[httpx2.Response]:
    """Follow the redirects to an answer, without their bodies, which may have no end."""
    client = get_session()
    request = client.build_request("GET", url, headers=headers, timeout=_TIMEOUT_SECONDS)
    for _ in range(_REDIRECTS):
        response = client.send(request, stream=True, follow_redirects=False)
        try:
            if response.next_request is None:
                yield response
                return
            request = response.next_request
        finally:
            response.close()
    raise httpx2.TooManyRedirects(f"more than {_REDIRECTS} redirects", request=request)


def _restart(file: BinaryIO) -> int:
    file.truncate(0)
    return file.seek(0)


def _check_space(partial: Path, needed: int) -> None:
    free = shutil.disk_usage(partial.parent).free
    if needed > free:
        message = f"{needed:,} bytes are to come, but {partial.parent} has {free:,} bytes free."
        raise WorkerError(ExitCode.DOWNLOAD, "DISK_FULL", message)
