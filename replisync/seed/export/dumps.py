"""Where a dump of devpi-export comes from: somebody made it, or it is made of a serverdir on this machine."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from replisync.changelog import FileSource
from replisync.errors import ReplisyncError, UsageError, WrongHistory
from replisync.replication import Context
from replisync.seed.basecopy import Origin, check_apart
from replisync.seed.export.dumping import Dumper
from replisync.seed.export.tools import EXPORT_TOOL, IMPORT_TOOL, find_tool
from replisync.session import Settings
from replisync.standby import DUMP_INDEX, Serverdir, read_dump
from replisync.system import local_errors

# Of devpi-import 6 (`devpi_server/importexport.py`, Migrator); devpi-export 7 makes 3.
_NEWEST_DUMP = 2


@dataclass(frozen=True, slots=True)
class Made:
    """A dump that can be imported.

    serial: of the exported server when it was made; None leaves devpi-import's serials.
    tip: that server's stored bytes of the entry at this serial; None if nobody knows.
    scrap: what was needed to make it, and is to be removed.
    """

    path: Path
    serial: int | None
    tip: bytes | None = None
    scrap: Path | None = None


class DumpSource(Protocol):
    """Where the dump comes from."""

    @property
    def option(self) -> str:
        """The option that names it."""
        ...

    @property
    def identity(self) -> list[Any]:
        """What an interrupted run must have begun with, so that it can be gone on with."""
        ...

    @property
    def uuid(self) -> str:
        """The UUID of the exported server; "" if nobody knows."""
        ...

    @property
    def reason(self) -> str:
        """Why the target is made in this way."""
        ...

    @property
    def own(self) -> bool:
        """Whether it is made anew where what was made can be followed no further."""
        ...

    def check(self, serverdir: Serverdir) -> Made | None:
        """Make sure that it can be had; return the dump where there is one already.

        Raises UsageError.
        """
        ...

    def make(
        self,
        folder: Path,
        primary: FileSource | None,
        settings: Settings,
        context: Context,
        *,
        checked: bool,
    ) -> Made:
        """Return the dump.

        checked: whether all its files must be what they have to be; see dumping.
        """
        ...

    def too_new(self, serial: int) -> ReplisyncError:
        """Return the error that says that the primary has not reached its serial."""
        ...


@dataclass(frozen=True, slots=True)
class NamedDump:
    """A dump that somebody made.

    serial: of the exported server, when the dump was made; None leaves devpi-import's serials.
    """

    path: Path
    serial: int | None
    followed: bool
    option: str = "--from-export"
    reason: str = "--from-export was given"
    uuid: str = ""
    own: bool = False

    @property
    def identity(self) -> list[Any]:
        """The dump and its serial."""
        index = self.path / DUMP_INDEX
        with local_errors(f"cannot read {index}"):
            found = index.stat()
        return [str(self.path.absolute()), found.st_size, found.st_mtime_ns, self.serial]

    def check(self, serverdir: Serverdir) -> Made:
        """Make sure that it is a dump.

        Raises UsageError if it is none, or something is not given that is needed.
        """
        if not (self.path / DUMP_INDEX).is_file():
            raise UsageError(
                f"cannot use --from-export {self.path}",
                f"not a dump of devpi-export: it has no {DUMP_INDEX}",
            )
        check_apart(serverdir, self.path, self.option)
        self._check_version()
        if self.followed and self.serial is None:
            raise UsageError(
                "cannot use --from-export", "--at-serial is needed to follow the primary from there on"
            )
        return Made(self.path, self.serial)

    def _check_version(self) -> None:
        """Raise UsageError if the dump is of a devpi-server that is newer than the one it would be for."""
        try:
            index = read_dump(self.path)
        except UsageError:
            return  # devpi-import says what is wrong with it
        version = str(index.get("dumpversion"))
        if version.isdecimal() and int(version) > _NEWEST_DUMP:
            server = str(index.get("devpi_server", "unknown"))[:40]
            raise UsageError(
                f"cannot use --from-export {self.path}",
                f"it is a dump of devpi-server {server} (dump version {version[:9]}); devpi-server 6 reads "
                f"versions up to {_NEWEST_DUMP}",
                hint="use a replisync that reads it, or a dump of devpi-server 6",
            )

    def make(
        self,
        folder: Path,  # noqa: ARG002 - it is made already
        primary: FileSource | None,  # noqa: ARG002
        settings: Settings,  # noqa: ARG002
        context: Context,  # noqa: ARG002
        *,
        checked: bool,  # noqa: ARG002
    ) -> Made:
        """Return it."""
        return Made(self.path, self.serial)

    def too_new(self, serial: int) -> ReplisyncError:
        """Return the error that says that --at-serial is wrong."""
        return UsageError(
            "cannot use --from-export",
            f"--at-serial is {self.serial}, and the primary is at serial {serial} only",
        )


@dataclass(frozen=True, slots=True)
class OwnDump:
    """A dump that is made of a serverdir on this machine; see dumping.

    reason: why one is made.
    mirrored: whether it gets the files of mirrors.
    """

    origin: Origin
    reason: str
    mirrored: bool = False
    option: str = "--from-serverdir"
    own: bool = True

    @property
    def uuid(self) -> str:
        """The UUID of the server, or of its primary where it is a replica."""
        return self.origin.uuid

    @property
    def identity(self) -> list[Any]:
        """The serverdir, and what of it."""
        return [str(self.origin.root.absolute()), "export", self.mirrored]

    def check(self, serverdir: Serverdir) -> None:
        """Make sure that it can be exported.

        Raises UsageError.
        """
        check_apart(serverdir, self.origin.root, self.option)
        for tool in (EXPORT_TOOL, IMPORT_TOOL):
            find_tool(tool, f"cannot export {self.origin.root}")

    def make(
        self,
        folder: Path,
        primary: FileSource | None,
        settings: Settings,
        context: Context,
        *,
        checked: bool,
    ) -> Made:
        """Make it of a snapshot.

        Raises what `Dumper.make` does.
        """
        work, dump = folder / "export", folder / "dump"
        with local_errors(f"cannot create {work}"):
            work.mkdir()
        tool = find_tool(EXPORT_TOOL, f"cannot export {self.origin.root}")
        dumper = Dumper(self.origin.root, work, settings, context, primary, mirrored=self.mirrored)
        serial, tip = dumper.make(tool, dump, checked=checked)
        # The dump has links to its files. Nobody else needs them.
        return Made(dump, serial, tip, scrap=work)

    def too_new(self, serial: int) -> ReplisyncError:
        """Return the error that says that the primary is not the server of the serverdir."""
        return WrongHistory(
            f"cannot clone {self.origin.root}",
            f"the primary is at serial {serial} only, behind the serverdir, as after a restore from a backup",
        )
