"""Swap two serverdirs on the same file system, atomically.

    DIR                      the present standby
    DIR.reseed               the new one, with a mark that names the standby it replaces
    DIR.replaced-<moment>    the old standby, afterwards

One system call exchanges the two names, so that a complete standby has the name at each instant. Then DIR has
the mark, which tells the next run after a crash that the rest of the swap is still to be done.
"""

import ctypes
import errno
import json
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from replisync.errors import LocalFailure, TargetUnusable
from replisync.standby import Serverdir
from replisync.system import fsync_folder, heir_of, local_errors, new_folder, trouble, who, write_file

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


class Names(Protocol):
    """The system calls of a swap."""

    def exchange(self, one: Path, other: Path) -> None:
        """Exchange the names of two folders atomically."""
        ...

    def rename(self, one: Path, other: Path) -> None:
        """Rename a folder."""
        ...

    def write(self, path: Path, data: bytes) -> None:
        """Replace a file durably and atomically."""
        ...

    def remove(self, path: Path) -> None:
        """Remove a file, which may be missing."""
        ...

    def sync(self, folder: Path) -> None:
        """Sync the names in a folder."""
        ...

    def give(self, folder: Path, like: os.stat_result) -> None:
        """Give a folder the mode of another one."""
        ...


class SystemNames:
    """The real system calls."""

    def exchange(self, one: Path, other: Path) -> None:
        """Exchange the names of two folders atomically; see renameat2(2)."""
        call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
        if call is None:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        if call(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def rename(self, one: Path, other: Path) -> None:
        """Rename a folder."""
        os.rename(one, other)

    def write(self, path: Path, data: bytes) -> None:
        """Replace a file durably and atomically."""
        write_file(path, data, ours=True)

    def remove(self, path: Path) -> None:
        """Remove a file, which may be missing."""
        path.unlink(missing_ok=True)

    def sync(self, folder: Path) -> None:
        """Sync the names in a folder."""
        fsync_folder(folder)

    def give(self, folder: Path, like: os.stat_result) -> None:
        """Give a folder the mode of another one."""
        os.chmod(folder, stat.S_IMODE(like.st_mode))


class Swap:
    """A standby that is to be swapped.

    serverdir: of the standby; links are followed.
    """

    def __init__(self, serverdir: Path, names: Names | None = None) -> None:
        self.present = Path(os.path.realpath(serverdir))
        self.parent = self.present.parent
        self.new = self.present.with_name(f"{self.present.name}.reseed")
        self._names = names or SystemNames()

    def check(self) -> None:
        """Check that names can be exchanged, with two empty folders.

        Raises TargetUnusable if the standby is a mount point, LocalFailure if the folder that contains it
        does not allow it.
        """
        attempted = f"cannot rebuild {self.present}"
        if os.path.ismount(self.present):
            raise TargetUnusable(
                attempted,
                "it is a mount point, which cannot be renamed",
                hint="move the standby into a folder below its mount point, and give that as --serverdir; or "
                "clone into another --serverdir",
            )
        probes = [self.parent / f".{self.present.name}.probe-{name}" for name in "ab"]
        try:
            for probe in probes:
                with suppress(FileExistsError):
                    probe.mkdir(mode=0o700)
            self._names.exchange(*probes)
        except OSError as err:
            if failure := trouble(err, attempted):
                raise failure from err
            raise LocalFailure(
                attempted,
                f"two folders in {self.parent} cannot exchange their names: {err.strerror or err}",
                hint=f"let replisync write to {self.parent}, which must be on a local file system such as "
                "ext4 or xfs; or clone into another --serverdir",
            ) from err
        finally:
            for probe in probes:
                with suppress(OSError):
                    probe.rmdir()
        self._check_sticky(attempted)

    def _check_sticky(self, attempted: str) -> None:
        with local_errors(attempted):
            parent, owner = self.parent.stat(), self.present.stat().st_uid
        if parent.st_mode & stat.S_ISVTX and os.geteuid() not in (0, owner, parent.st_uid):
            raise LocalFailure(
                attempted,
                f"in {self.parent} only its owner may rename it",
                hint=f"run replisync as {who(owner)}, the owner of the serverdir",
            )

    # The mark.

    @staticmethod
    def _mark_of(folder: Path) -> Path:
        return Serverdir(folder).own / "reseed"

    def _read_mark(self, folder: Path) -> dict[str, str] | None:
        path = self._mark_of(folder)
        with local_errors(f"cannot read {path}"):
            try:
                mark = json.loads(path.read_bytes())
                return {"of": str(mark["of"]), "kept": str(mark["kept"])}
            except (FileNotFoundError, NotADirectoryError):
                return None
            except (ValueError, TypeError, KeyError) as err:
                raise TargetUnusable(f"cannot read {path}", "not written by replisync") from err

    def _write_mark(self, uuid: str, kept: str) -> None:
        path = self._mark_of(self.new)
        with local_errors(f"cannot write {path}"):
            self._names.write(path, json.dumps({"of": uuid, "kept": kept}).encode())

    def claim(self, uuid: str) -> Serverdir:
        """Return the new serverdir: one that was begun for this standby, or a new one.

        uuid: of the present standby.
        Raises TargetUnusable if the folder exists for another purpose.
        """
        new = Serverdir(self.new)
        mark = self._read_mark(self.new)
        if mark is None and (new.foreign_content() or new.remembered_storage() is not None):
            raise TargetUnusable(
                f"cannot rebuild {self.present}",
                f"{self.new} exists, and was not begun for this standby",
                hint="rename that folder",
            )
        if mark is not None and mark["of"] != uuid:
            raise TargetUnusable(
                f"cannot rebuild {self.present}",
                f"{self.new} was begun for another standby, whose UUID is {mark['of']}",
                hint="rename that folder",
            )
        if mark is None:
            # It gets the owner of the present one, and so does all that is created in it.
            with local_errors(f"cannot create {self.new}"), suppress(FileExistsError):
                new_folder(self.new, heir_of(Serverdir(self.present).tmp), 0o700)
            new.prepare()
            self._write_mark(uuid, "")
        return new

    # The swap.

    def exchange(self, uuid: str, moment: str) -> Path:
        """Swap in the new serverdir; return the path of the old one.

        The new one gets the mode of the old one. The caller must lock both, and close their databases.
        uuid: of the present standby.
        moment: the time, for the name.
        Raises LocalFailure; the present standby is then in its place.
        """
        self._write_mark(uuid, f"{self.present.name}.replaced-{moment}")
        with local_errors(f"cannot set the mode of {self.new}"):
            self._names.give(self.new, self.present.stat())
        with local_errors(f"cannot exchange {self.present} and {self.new}"):
            self._names.exchange(self.new, self.present)
            self._names.sync(self.parent)
        kept = self.finish()
        assert kept is not None  # noqa: S101 - the mark has just come into its place
        return kept

    def finish(self) -> Path | None:
        """Finish a swap; return the path of the old standby, or None if no swap was begun.

        Raises LocalFailure; it can then be called again.
        """
        mark = self._read_mark(self.present)
        if mark is None:
            return None
        if not mark["kept"]:
            # A user must have given it this name by hand.
            self._names.remove(self._mark_of(self.present))
            return None
        kept = self.present.with_name(mark["kept"])
        with local_errors(f"cannot rename {self.new}"):
            if (Serverdir(self.new).nodeinfo() or {}).get("uuid") == mark["of"]:
                self._names.rename(self.new, kept)
                self._names.sync(self.parent)
            # The mark goes last: while it is there, the next run finishes the swap.
            self._names.remove(self._mark_of(self.present))
            self._names.sync(self._mark_of(self.present).parent)
        return kept
