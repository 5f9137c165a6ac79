"""Errors of a download, as sentences that a person can act on."""

import errno
import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from .failure import ExitCode, WorkerError

_UNREADABLE = (errno.ENOENT, errno.EACCES, errno.ENOTDIR, errno.EISDIR)

UNREACHABLE = "HUB_UNREACHABLE"


@contextmanager
def hub_errors(repo: str, file: str, revision: str) -> Iterator[None]:
    """Turn errors of huggingface_hub, httpx2 and the file system into WorkerError, code 3."""
    try:
        yield
    except HFValidationError as error:
        raise WorkerError(
            ExitCode.CONFIGURATION, "CONFIGURATION", f"LLAMACPP_REPO is no repository: {error}"
        ) from error
    except HfHubHTTPError as error:
        reason, message = _refusal(error, repo, file, revision)
        raise WorkerError(ExitCode.DOWNLOAD, reason, message) from error
    except httpx2.HTTPStatusError as error:
        status = error.response.status_code
        message = f"{error.request.url.host} answered {status} for {file} of {repo}."
        raise WorkerError(ExitCode.DOWNLOAD, UNREACHABLE, message) from error
    except (httpx2.RequestError, OfflineModeIsEnabled) as error:
        reason = str(error) or type(error).__name__
        message = f"Cannot get the uncached {file} of {repo} from {constants.ENDPOINT}: {reason}."
        raise WorkerError(ExitCode.DOWNLOAD, UNREACHABLE, message) from error
    except (ValueError, httpx2.InvalidURL) as error:  # such as a redirect to `http://[`
        raise no_hub(str(error)) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            message = (
                f"The disk under {constants.HF_HUB_CACHE} became full during {file} of {repo}."
            )
            raise WorkerError(ExitCode.DOWNLOAD, "DISK_FULL", message) from error
        # OpenSSL names no file that it cannot read.
        nameless = error.filename is None and error.errno in _UNREADABLE
        if nameless or isinstance(error, ssl.SSLError):
            raise _no_certificates(error) from error
        message = f"The cache {constants.HF_HUB_CACHE} cannot be used: {error}."
        raise WorkerError(ExitCode.DOWNLOAD, "CACHE_UNUSABLE", message) from error


def no_hub(detail: str = "") -> WorkerError:
    """Make the error for a hub whose answer makes no sense."""
    what = f"{constants.ENDPOINT} does not answer as a hub does"
    detail = f" ({detail})" if detail else ""
    message = f"{what}{detail}: check HF_ENDPOINT and any proxy."
    return WorkerError(ExitCode.DOWNLOAD, UNREACHABLE, message)


def _no_certificates(error: OSError) -> WorkerError:
    """Make the error for certificates that cannot be read."""
    names = [name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name)]
    given = " or ".join(f"{name} ({os.environ[name]})" for name in names) or "this machine"
    message = f"The certificates of {given} cannot be used: {error.strerror or error}."
    return WorkerError(ExitCode.DOWNLOAD, "CERTIFICATES_UNUSABLE", message)


def _refusal(error: HfHubHTTPError, repo: str, file: str, revision: str) -> tuple[str, str]:
    page = f"{constants.ENDPOINT}/{repo}"
    status = error.response.status_code
    if isinstance(error, RevisionNotFoundError):
        return "REVISION_NOT_FOUND", f"{repo} has no revision {revision}; see {page}."
    if isinstance(error, RemoteEntryNotFoundError):
        return (
            "FILE_NOT_FOUND",
            f"{repo} has no file {file} at revision {revision}; see {page}/tree/{revision}.",
        )
    if isinstance(error, GatedRepoError) or status == httpx2.codes.FORBIDDEN:
        return (
            "GATED",
            f"{repo} is gated: accept its terms at {page}, then set HF_TOKEN to a token of yours.",
        )
    if isinstance(error, RepositoryNotFoundError) or status == httpx2.codes.UNAUTHORIZED:
        # To a caller without access, the hub answers alike for a private repository and for none.
        return (
            "REPO_NOT_FOUND",
            f"There is no {page}, or it is private: check the name, and HF_TOKEN.",
        )
    return UNREACHABLE, f"{constants.ENDPOINT} answered {status} for {file} of {repo}."
