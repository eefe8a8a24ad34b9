"""Putting a new serverdir in the place of another one, in one step, beside each other on the same disk.

    DIR                      the present standby
    DIR.reseed               the new one, with a mark that says whose place it is for
    DIR.replaced-<moment>    the former standby, afterwards

The two exchange their names in one call of the system, so that there is a whole standby under the name at
each instant. Then DIR has the mark, by which whoever was killed knows that the rest is still to be done.
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
from replisync.standby.serverdir import Serverdir
from replisync.system.durable import fsync_folder, local_errors, trouble, write_file
from replisync.system.owners import heir_of, new_folder, who

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


class Names(Protocol):
    """The calls of the system that a swap needs."""

    def exchange(self, one: Path, other: Path) -> None:
        """Give each of two folders the name of the other one, in one step."""
        ...

    def rename(self, one: Path, other: Path) -> None:
        """Give a folder another name."""
        ...

    def write(self, path: Path, data: bytes) -> None:
        """Replace a file's content, durably and in one step."""
        ...

    def remove(self, path: Path) -> None:
        """Remove a file that may be gone already."""
        ...

    def sync(self, folder: Path) -> None:
        """Make the names in a folder durable."""
        ...

    def give(self, folder: Path, like: os.stat_result) -> None:
        """Give a folder the mode of another one."""
        ...


class SystemNames:
    """The system's own."""

    def exchange(self, one: Path, other: Path) -> None:
        """Give each of two folders the name of the other one, in one step; see renameat2(2)."""
        call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
        if call is None:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        if call(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def rename(self, one: Path, other: Path) -> None:
        """Give a folder another name."""
        os.rename(one, other)

    def write(self, path: Path, data: bytes) -> None:
        """Replace a file's content, durably and in one step."""
        write_file(path, data, ours=True)

    def remove(self, path: Path) -> None:
        """Remove a file that may be gone already."""
        path.unlink(missing_ok=True)

    def sync(self, folder: Path) -> None:
        """Make the names in a folder durable."""
        fsync_folder(folder)

    def give(self, folder: Path, like: os.stat_result) -> None:
        """Give a folder the mode of another one."""
        os.chmod(folder, stat.S_IMODE(like.st_mode))


class Swap:
    """The place of one standby.

    serverdir: of the standby; where it is a link, the folder that it leads to is meant.
    """

    def __init__(self, serverdir: Path, names: Names | None = None) -> None:
        self.present = Path(os.path.realpath(serverdir))
        self.parent = self.present.parent
        self.new = self.present.with_name(f"{self.present.name}.reseed")
        self._names = names or SystemNames()

    def check(self) -> None:
        """Make sure that the names can be exchanged, by exchanging those of two empty folders.

        Raises TargetUnusable where the standby has a place of its own, LocalFailure where the folder that it
        is in does not let us.
        """
        attempted = f"cannot reseed {self.present}"
        if os.path.ismount(self.present):
            raise TargetUnusable(
                attempted,
                "it is a mount point, which cannot change its name",
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
                f"in {self.parent} only its owner may give it another name",
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
                raise TargetUnusable(f"cannot read {path}", "it is not what replisync wrote") from err

    def _write_mark(self, uuid: str, kept: str) -> None:
        path = self._mark_of(self.new)
        with local_errors(f"cannot write {path}"):
            self._names.write(path, json.dumps({"of": uuid, "kept": kept}).encode())

    def claim(self, uuid: str) -> Serverdir:
        """Return the new serverdir: one that was begun for this standby, or one that begins now.

        uuid: of the present standby.
        Raises TargetUnusable where somebody else's folder is in the way.
        """
        new = Serverdir(self.new)
        mark = self._read_mark(self.new)
        if mark is None and (new.foreign_content() or new.remembered_storage() is not None):
            raise TargetUnusable(
                f"cannot reseed {self.present}",
                f"{self.new} is in the way, and was not begun for it",
                hint="give it another name",
            )
        if mark is not None and mark["of"] != uuid:
            raise TargetUnusable(
                f"cannot reseed {self.present}",
                f"{self.new} was begun for another standby, whose UUID is {mark['of']}",
                hint="give it another name",
            )
        if mark is None:
            # It belongs to whom the present one belongs, and so does all that is made in it.
            with local_errors(f"cannot create {self.new}"), suppress(FileExistsError):
                new_folder(self.new, heir_of(Serverdir(self.present).tmp), 0o700)
            new.prepare()
            self._write_mark(uuid, "")
        return new

    # The swap.

    def exchange(self, uuid: str, moment: str) -> Path:
        """Put the new serverdir in the place of the present one; return where that is kept.

        It then has the mode of the present one. Both must be locked by the caller, and closed.
        uuid: of the present standby.
        moment: when, for the name.
        Raises LocalFailure; then the present standby is in its place.
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
        """Do the rest of a swap; return where the former standby is kept, or None where there was none.

        Raises LocalFailure; then it can be called again.
        """
        mark = self._read_mark(self.present)
        if mark is None:
            return None
        if not mark["kept"]:
            # Whoever gave it this name did so by hand.
            self._names.remove(self._mark_of(self.present))
            return None
        kept = self.present.with_name(mark["kept"])
        with local_errors(f"cannot rename {self.new}"):
            if (Serverdir(self.new).nodeinfo() or {}).get("uuid") == mark["of"]:
                self._names.rename(self.new, kept)
                self._names.sync(self.parent)
            # Last: as long as it is there, somebody does the rest.
            self._names.remove(self._mark_of(self.present))
            self._names.sync(self._mark_of(self.present).parent)
        return kept
