"""The processes that hold a listening port of 127.0.0.1, as Linux shows them in `/proc`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")
_LISTENS = "0A"

# The local addresses of sockets that get a connection to 127.0.0.1, the one that gets it first.
_ADDRESSES = (
    "0100007F",  # 127.0.0.1
    "00000000",  # 0.0.0.0
    "0000000000000000FFFF00000100007F",  # ::ffff:127.0.0.1
    "00000000000000000000000000000000",  # ::
)


class _Socket(NamedTuple):
    uid: int
    inode: str


def held(leader: int, port: int) -> bool | None:
    """Return whether a port of 127.0.0.1 is held by processes of the session of `leader`.

    Their descendants in other sessions count too, and root, where this service is not root. None
    where `/proc` cannot say: on other systems than Linux, and for another user where it hides the
    processes of others (`hidepid`).
    """
    try:
        sockets = _listening(port)
    except OSError:
        return None
    if not sockets:
        return False
    files, users = _files(_session(leader))
    strangers = [each for each in sockets if each.inode not in files]
    if all(_trusted(each.uid, users) for each in strangers):
        return True
    others = any(each.uid != os.geteuid() for each in strangers)
    return None if others and _hides_processes() else False


def _listening(port: int) -> list[_Socket]:
    """Return the sockets that get the connections to this port of 127.0.0.1."""
    found: dict[str, list[_Socket]] = {}
    end = f":{port:04X}"
    for table in ("tcp", "tcp6"):
        try:
            text = (_PROC / "net" / table).read_text()
        except FileNotFoundError:
            if table == "tcp6":  # a kernel without IPv6
                continue
            raise
        for line in text.splitlines()[1:]:
            _, local, _, state, _, _, _, uid, _, inode, *_ = line.split()
            if state == _LISTENS and local.endswith(end):
                found.setdefault(local.removesuffix(end), []).append(_Socket(int(uid), inode))
    return next((found[address] for address in _ADDRESSES if address in found), [])


def _session(leader: int) -> set[int]:
    """Return the processes of a session, and their descendants."""
    parents: dict[int, int] = {}
    members = {leader}
    for pid in _pids():
        try:
            text = (_PROC / str(pid) / "stat").read_text()
        except OSError:  # it has ended, or is hidden
            continue
        _, parent, _, session, *_ = text.rpartition(")")[2].split()
        parents[pid] = int(parent)
        if int(session) == leader:
            members.add(pid)
    return {pid for pid in parents if not members.isdisjoint(_line(pid, parents))} | members


def _line(pid: int, parents: dict[int, int]) -> Iterable[int]:
    """Yield a process and its ancestors."""
    seen: set[int] = set()
    while pid not in seen:
        seen.add(pid)
        yield pid
        pid = parents.get(pid, pid)


def _files(pids: Iterable[int]) -> tuple[set[str], set[int]]:
    """Return the inodes of the sockets of processes, and the users of those that show none."""
    inodes: set[str] = set()
    users: set[int] = set()
    for pid in pids:
        folder = _PROC / str(pid)
        try:
            inodes |= _sockets(folder / "fd")
        except PermissionError:  # as of a program that `sudo` runs as another user
            users.add(_user(folder))
        except OSError:
            continue
    return inodes, users


def _sockets(folder: Path) -> set[str]:
    """Return the inodes of the sockets in a folder of files. Raises OSError."""
    found = set()
    for name in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
            target = os.readlink(folder / name)
            if target.startswith("socket:["):
                found.add(target[len("socket:[") : -1])
    return found


def _user(folder: Path) -> int:
    try:
        for line in (folder / "status").read_text().splitlines():
            if line.startswith("Uid:"):
                return int(line.split()[2])
    except OSError:
        pass
    return -1


def _trusted(uid: int, users: set[int]) -> bool:
    return uid in users or (uid == 0 and os.geteuid() != 0)


def _hides_processes() -> bool:
    try:
        (_PROC / "1" / "stat").read_text()
    except OSError:
        return True
    return False


def _pids() -> list[int]:
    return [int(name) for name in os.listdir(_PROC) if name.isdecimal()]
