"""A dump of a serverdir on this machine, also of one whose server runs.

devpi-export repairs, and writes `.nodeinfo`, where it works. So it works on a serverdir of ours: a snapshot
of the database, with the files that its live keys demand beside it, as links where that is possible.
"""

import json
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

from replisync.changelog import FileSource, WantedFile, wanted_file
from replisync.devpi import SQLITE, index_of, index_type, user_key
from replisync.errors import FilesMissing, PrimaryDamaged
from replisync.replication import Context, Fetcher, NoSource, Refused
from replisync.seed.export.tools import EXPORT_TOOL, run_tool
from replisync.seed.snapshot import Rows, forget_renames, take_snapshot
from replisync.session import Settings
from replisync.standby import FILES, SQLITE_FILE, DiskFiles, LocalFiles, NoSync
from replisync.system import local_errors

# A running server may delete a file that the snapshot demands: then a newer one is taken, so often at most.
_ROUNDS = 20


class Dumper:
    """What makes a dump of a serverdir.

    root: the serverdir; it is only read.
    folder: for what is needed meanwhile, empty.
    primary: who is asked for files that are not there; None for nobody.
    mirrored: whether to export the files of mirrors too, as far as they are there.
    """

    def __init__(
        self,
        root: Path,
        folder: Path,
        settings: Settings,
        context: Context,
        primary: FileSource | None,
        *,
        mirrored: bool,
    ) -> None:
        self._root = root
        self._folder = folder
        self._snapshot = folder / "snapshot"
        self._database = self._snapshot / SQLITE_FILE
        self._settings = settings
        self._context = context
        self._mirrored = mirrored
        self._source = primary or NoSource(f"it is not in {root}")

    def make(self, tool: str, target: Path, *, checked: bool) -> tuple[int, bytes]:
        """Make the dump `target`; return the serial that it is of, and the stored bytes of its entry.

        tool: devpi-export.
        checked: whether to read each file, and to look elsewhere for one that is not what it must be. If not,
            devpi-import has to find out: it compares each file of a dump with all its known digests.
        Raises FilesMissing if a file of a private index cannot be had, PrimaryDamaged if devpi-export
        cannot read what is there.
        """
        with local_errors(f"cannot create {self._snapshot}"):
            (self._snapshot / FILES).mkdir(parents=True)
            (self._folder / "tmp").mkdir()
            # Neither role nor UUID go into the dump. As a replica it would look for its primary.
            info = {"uuid": "0" * 32, "role": "standalone"}
            (self._snapshot / ".nodeinfo").write_text(json.dumps(info))
            shutil.copyfile(self._root / ".serverversion", self._snapshot / ".serverversion")
        serial, tip = self._consistent(checked=checked)
        self._context.progress.stage("export", None, "seconds", serverdir=str(self._root), serial=serial)
        # As links: they are links of ours to files that nobody writes into.
        command = [tool, "--serverdir", str(self._snapshot.absolute()), "--hard-links"]
        command += ["--include-mirrored-files"] if self._mirrored else []
        # Said, since devpi-server's own configuration on this machine may name another one.
        command += ["--storage", SQLITE, str(target.absolute())]
        words = run_tool(command, self._folder / "export.log", self._context)
        if words is not None:
            raise PrimaryDamaged(
                f"cannot export {self._root}",
                f"{EXPORT_TOOL} says: {words}",
                serial=serial,
                hint="nothing was written; repair the server there (devpi-fsck on a copy tells more), then "
                "run the command again",
            )
        return serial, tip

    def _consistent(self, *, checked: bool) -> tuple[int, bytes]:
        """Take a snapshot all of whose files are there."""
        seen = -1
        for rounds_left in reversed(range(_ROUNDS)):
            take_snapshot(self._root / SQLITE_FILE, self._database, self._context.stop.check)
            serial, tip = forget_renames(self._database)
            missing = self._bring_files(checked=checked)
            if not missing:
                return serial, tip
            if serial == seen or not rounds_left:
                first = missing[0]
                more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
                raise FilesMissing(
                    f"cannot export {self._root}, which needs {first.file.relpath}{more}",
                    first.reason,
                    serial=first.file.serial,
                    hint="put it back there, or name a folder that has it with --replica-file-search-path",
                )
            seen = serial
        raise AssertionError("the last round returns or raises")

    def _bring_files(self, *, checked: bool) -> list[Refused]:
        """Bring the files that the snapshot demands; return those that cannot be had."""
        files = DiskFiles(self._snapshot / FILES, self._folder / "tmp", self._folder / "tmp", NoSync)
        fetcher = Fetcher(
            self._source,
            files,
            threads=self._settings.access.threads,
            stop=self._context.stop,
            place="all",
            local=LocalFiles(self._settings.search, own=self._root / FILES, link=True),
        )
        missing = []
        self._context.progress.stage("files to export", None, "files")
        with closing(Rows(self._database)) as rows:
            wanted = demanded(rows, mirrored=self._mirrored)
            for outcome in fetcher.fetch(wanted if checked else self._not_linked(wanted)):
                self._context.progress.advance(1)
                if isinstance(outcome, Refused) and type_in(rows, outcome.file.relpath) != "mirror":
                    missing.append(outcome)
        self._context.stop.check()
        return missing

    def _not_linked(self, wanted: Iterable[WantedFile]) -> Iterator[WantedFile]:
        """Link files as they are; yield those with which that is not possible."""
        ours, theirs = f"{(self._snapshot / FILES).absolute()}/", f"{(self._root / FILES).absolute()}/"
        for file in wanted:
            if _linked(theirs + file.relpath, ours + file.relpath):
                self._context.progress.advance(1)
            else:
                yield file


def _linked(source: str, target: str) -> bool:
    """Make a link to a plain file, in place of what has its name; tell whether that was possible."""
    try:
        try:
            os.link(source, target, follow_symlinks=False)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.link(source, target, follow_symlinks=False)
        except FileExistsError:
            # Of a snapshot before this one.
            os.unlink(target)
            os.link(source, target, follow_symlinks=False)
        if stat.S_ISREG(os.lstat(target).st_mode):
            return True
        os.unlink(target)
    except (OSError, ValueError):
        # It is not there, or on another file system, or its owner is another: whoever brings it will see.
        pass
    return False


def type_in(rows: Rows, relpath: str) -> str | None:
    """Return the type of the index of a file, by a database; None if there is no such index.

    Raises CorruptEntry if the entry that says so cannot be read.
    """
    index = index_of(relpath)
    return index_type(rows.value(user_key(index)), index)


def demanded(rows: Rows, *, mirrored: bool) -> Iterator[WantedFile]:
    """Yield the files that an export of a database needs: those of private indexes.

    mirrored: those of mirrors too.
    Raises CorruptEntry if an entry that holds a live value cannot be read.
    """
    types: dict[str, str | None] = {}
    for serial, relpath, entry in rows.file_keys():
        index = index_of(relpath)
        if index not in types:
            types[index] = type_in(rows, relpath)
        if types[index] is None or (types[index] == "mirror" and not mirrored):
            continue
        change = entry.changes.get(relpath)
        file = None if change is None else wanted_file(relpath, serial, change.value)
        if file is not None:
            yield file
