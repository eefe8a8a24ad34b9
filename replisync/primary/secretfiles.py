"""The files with the server's secret, or the replication key derived from it.

As in devpi-server (`devpi_server/config.py` get_validated_secret), reject a file that others may read, or
whose folder others may write to.
"""

import os
import stat
from pathlib import Path

from replisync.devpi.tokens import KEY_BYTES, KeyCost, derive_key
from replisync.errors import UsageError
from replisync.system.advice import chmod
from replisync.system.durable import local_errors, write_file

# devpi's own requirements for a secret.
_MIN_SECRET_BYTES = 32
_MIN_DIFFERENT_BYTES = 6

# Longer files are something else, and may be endless.
_MAX_BYTES = 1024 * 1024

# A group may read a secret that Kubernetes mounts: the group of `fsGroup`.
_OTHERS_OF_MOUNTED = stat.S_IWGRP | stat.S_IXGRP | stat.S_IRWXO

_ELSEWHERE = "that only its owner can write to, such as /etc/replisync"

_KEY_PREFIX = "replisync-replica-key-1:"


def read_secret(path: Path) -> bytes:
    """Return the server's secret.

    Raises UsageError if devpi-server would reject the file.
    """
    secret = _read_private(path, "--secretfile")
    if len(secret) < _MIN_SECRET_BYTES or len(set(secret)) < _MIN_DIFFERENT_BYTES:
        raise UsageError(
            f"cannot read the secret file {path}", "it is too short or too simple for devpi-server"
        )
    return secret


def replication_key(secretfile: Path | None, keyfile: Path | None, cost: KeyCost) -> bytes:
    """Return the replication key from the given file; prefer a key file, which is faster.

    Raises UsageError if neither file is given, or the given one cannot be used.
    """
    if keyfile is not None:
        return read_key(keyfile)
    if secretfile is None:
        raise UsageError("cannot read the secret", "neither --secretfile nor --replica-keyfile is given")
    return derive_key(read_secret(secretfile), cost)


def read_key(path: Path) -> bytes:
    """Return the key that `write_key` wrote.

    Raises UsageError if the file is not such a key.
    """
    text = _read_private(path, "--replica-keyfile").decode(errors="replace").strip()
    try:
        if not text.startswith(_KEY_PREFIX):
            raise ValueError
        key = bytes.fromhex(text.removeprefix(_KEY_PREFIX))
        if len(key) != KEY_BYTES:
            raise ValueError
        return key
    except ValueError:
        raise UsageError(f"cannot read the key file {path}", "`derive-key` did not write it") from None


def write_key(path: Path, key: bytes) -> None:
    """Write a key file, mode 0600, atomically."""
    with local_errors(f"cannot write the key file {path}"):
        write_file(path.absolute(), f"{_KEY_PREFIX}{key.hex()}\n".encode(), ours=True)


def _read_private(path: Path, option: str) -> bytes:
    path = path.expanduser()
    check_private(path, option)
    attempted = f"cannot read {path} ({option})"
    try:
        # Without O_NONBLOCK, a named pipe without a writer would block us forever.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            os.set_blocking(file.fileno(), True)
            content = file.read(_MAX_BYTES + 1)
    except OSError as err:
        raise UsageError(attempted, err.strerror or str(err)) from err
    if len(content) > _MAX_BYTES:
        raise UsageError(attempted, f"it has more than {_MAX_BYTES} bytes")
    return content


def check_private(path: Path, option: str) -> None:
    """Check that no other user can read a file, or replace it.

    Raises UsageError.
    """
    attempted = f"cannot read {path} ({option})"
    try:
        mode = path.stat().st_mode
        mounted = _is_mounted(path)
        # For a link, the folder of its target counts as well.
        folders = [path.resolve().parent] if mounted else [path.absolute().parent, path.resolve().parent]
        shared = [one for one in folders if _is_shared(one)]
    except OSError as err:
        raise UsageError(attempted, err.strerror or str(err)) from err
    if mode & (_OTHERS_OF_MOUNTED if mounted else stat.S_IRWXG | stat.S_IRWXO):
        raise UsageError(attempted, "others may read it", hint=_private_file(path, mounted=mounted))
    if shared:
        raise UsageError(attempted, "others may write to its folder", hint=_private_folder(shared[0]))


def check_place(path: Path) -> None:
    """Check that commands will accept a key file at this path.

    Raises UsageError.
    """
    folder, attempted = path.absolute().parent, f"cannot write the key file {path}"
    try:
        shared = _is_shared(folder)
    except OSError as err:
        raise UsageError(attempted, err.strerror or str(err)) from err
    if shared:
        raise UsageError(attempted, "others may write to its folder", hint=_private_folder(folder))


def _is_shared(folder: Path) -> bool:
    return bool(folder.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH))


def _is_mounted(path: Path) -> bool:
    """Return whether a file is a secret mounted by Kubernetes, which only root can replace.

    It is a link through `..data`, itself a link, to a folder next to it. The folder of the links is open to
    all and sticky: only root can replace root's links.
    """
    links = [path, path.parent / "..data"]
    if not all(link.is_symlink() and link.lstat().st_uid == 0 for link in links):
        return False
    above, folder = path.parent.stat(), path.resolve().parent.stat()
    sticky = above.st_uid == 0 and (above.st_mode & stat.S_ISVTX or not _is_shared(path.parent))
    return bool(path.readlink().parts[0] == "..data" and sticky and folder.st_uid == 0)


def _private_file(path: Path, *, mounted: bool) -> str:
    if mounted:
        return "mount the secret with `defaultMode: 0400`, or 0440 and the group of replisync as `fsGroup`"
    command = chmod("0600", path)
    return f"run {command}" if command else f"copy it, with mode 0600, into a folder {_ELSEWHERE}"


def _private_folder(folder: Path) -> str:
    command = chmod("go-w", folder)
    return f"run {command}" if command else f"move the file into a folder {_ELSEWHERE}"
