"""Modes and owners of the files and folders that replisync and devpi-server must be able to use.

And whether each of them is a file, or a folder, as it must be.

This checks modes, not our own access: the superuser may do everything.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from replisync.devpi import SQLITE
from replisync.errors import LocalFailure
from replisync.standby import SQLITE_FILE, Serverdir
from replisync.system import OURS, hand_back, held
from replisync.verify.findings import PERMISSIONS, Finding
from replisync.verify.owner import REMEDY, Owner, owner_of

# devpi-server's small files, which we can write again.
_SMALL = (".nodeinfo", ".serverversion", ".event_serial")


def wrong_modes(serverdir: Serverdir) -> Iterator[Finding]:
    """Yield the paths that replisync and devpi-server need, and their owner cannot use."""
    owner = owner_of(serverdir)
    for path, wanted in _needed(serverdir):
        finding = _mode_problem(serverdir, path, wanted, owner)
        if finding is not None:
            yield finding


def grant(serverdir: Serverdir, finding: Finding) -> bool:
    """Let the owner use the path of a finding, as far as we may; return whether that was possible."""
    path = serverdir.root / finding.subject
    try:
        if _other_kind(serverdir, path):
            serverdir.quarantine(path)
            serverdir.make_own_folders()
            return True
    except LocalFailure:
        return False
    wanted = next((bits for one, bits in _needed(serverdir) if one == path), 0)
    try:
        with ExitStack() as stack:
            # No name is resolved twice, and none through a link: the owner may be exchanging names.
            fd, found = stack.enter_context(held(os.path.realpath(serverdir.root)))
            owner = os.stat(OURS, dir_fd=fd, follow_symlinks=False)
            for part in path.relative_to(serverdir.root).parts:
                fd, found = stack.enter_context(held(part, fd))
            os.fchmod(fd, stat.S_IMODE(found.st_mode) | wanted)
            hand_back(fd, (owner.st_uid, owner.st_gid))
    except OSError:
        return False
    return all(one.subject != finding.subject for one in wrong_modes(serverdir))


def _needed(serverdir: Serverdir) -> Iterator[tuple[Path, int]]:
    """Yield the paths, and the bits of their modes."""
    read, write, enter = stat.S_IRUSR, stat.S_IWUSR, stat.S_IXUSR
    folders = [serverdir.root, serverdir.own, serverdir.tmp, serverdir.retained]
    folders += [folder for folder in (serverdir.aside, serverdir.seed) if folder.is_dir()]
    names = [*_SMALL]
    if serverdir.storage().name == SQLITE:
        folders.append(serverdir.files)
        names += [SQLITE_FILE, f"{SQLITE_FILE}-wal", f"{SQLITE_FILE}-shm"]
    yield from ((folder, read | write | enter) for folder in folders)
    yield from ((serverdir.root / name, read | write) for name in names)
    yield serverdir.own / "lock", read | write
    yield serverdir.own / "storage", read | write


def _own_folders(serverdir: Serverdir) -> tuple[Path, ...]:
    # The folder of files is created with the first file.
    return serverdir.tmp, serverdir.retained, serverdir.files


def _other_kind(serverdir: Serverdir, path: Path) -> bool:
    """Return whether a folder is in the place of a file of ours, or the other way round.

    Only where we create it again, and never for a link: it may lead to a disk that is not mounted.
    """
    try:
        found = path.lstat().st_mode
    except OSError:
        return False
    if stat.S_ISLNK(found):
        return False
    if path in _own_folders(serverdir):
        return not stat.S_ISDIR(found)
    files = (*(serverdir.root / name for name in _SMALL), serverdir.own / "lock")
    return path in files and not stat.S_ISREG(found)


def _mode_problem(serverdir: Serverdir, path: Path, wanted: int, owner: Owner | None) -> Finding | None:
    name = str(path.relative_to(serverdir.root))
    try:
        found = path.lstat()
    except PermissionError:
        return Finding(
            PERMISSIONS,
            name,
            None,
            "a readable entry",
            "a folder that its owner may not enter",
        )
    except OSError:
        return None
    shown = stat.filemode(found.st_mode)
    if _other_kind(serverdir, path):
        kind = "a folder" if path in _own_folders(serverdir) else "a file"
        return Finding(PERMISSIONS, name, None, kind, shown)
    mode, uid = found.st_mode, found.st_uid
    if mode & wanted == wanted if owner is None else owner.may(wanted, mode, uid, found.st_gid):
        return None
    if owner is None or uid == owner.uid:
        return Finding(PERMISSIONS, name, None, f"{stat.filemode(wanted)[1:4]} for its owner", shown)
    expected = f"the owner {owner.uid}, as of {serverdir.own.name}"
    return Finding(PERMISSIONS, name, None, expected, f"the owner {uid}", REMEDY)
