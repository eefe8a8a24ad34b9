"""The real devpi-import makes a serverdir of a dump; that of an interrupted run is found again."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replisync.changelog import EXPORT
from replisync.devpi import PWHASH, SQLITE
from replisync.errors import TargetUnusable, UsageError
from replisync.primary import Primary
from replisync.replication import Context, Patience
from replisync.seed.export.dumps import DumpSource, OwnDump
from replisync.seed.export.tools import IMPORT_TOOL, ToolOptions, endless_bases, find_tool, run_tool
from replisync.seed.target import found_unusable, start_over
from replisync.session import Settings
from replisync.standby import DUMP_INDEX, FILES, Serverdir, Store, Syncer, read_dump
from replisync.system import give_all, heir_of, local_errors, new_folder, write_file

# A program that removes a folder with all that is in it.
_REMOVE = "import shutil, sys; shutil.rmtree(sys.argv[1], ignore_errors=True)"


def import_command(
    serverdir: Serverdir,
    path: Path,
    dump: DumpSource,
    options: ToolOptions,
    settings: Settings,
    *,
    followed: bool,
) -> list[str]:
    """Return the command line of the import, without the serverdir.

    Raises UsageError if there is no devpi-import, or no use for an option.
    """
    tool = find_tool(IMPORT_TOOL, f"cannot use {dump.option} {path}")
    no_root_pypi = options.no_root_pypi
    if followed or dump.own:
        dumped = "root/pypi" in _indexes(path)
        if no_root_pypi and dumped and followed:
            raise UsageError(
                "cannot use --no-root-pypi", "the primary has root/pypi, and a standby must have it"
            )
        no_root_pypi = no_root_pypi or not dumped
    words = [tool]
    # A standby's events are those of its primary: they are counted as handled when it is complete.
    words += ["--no-events"] if options.no_events or followed else []
    words += ["--no-root-pypi"] if no_root_pypi else []
    words += [word for kind in options.skip_import_type for word in ("--skip-import-type", kind)]
    words += ["--hard-links"] if settings.hard_links or _is_copied(serverdir, dump, settings) else []
    return [*words, str(path.absolute())]


def _is_copied(serverdir: Serverdir, dump: DumpSource, settings: Settings) -> bool:
    """Return whether all files of a dump are sure to be copies of ours already."""
    if not isinstance(dump, OwnDump) or settings.search:
        return False
    files = dump.origin.root / FILES
    with local_errors(f"cannot read {files}"):
        return files.is_dir() and files.stat().st_dev != serverdir.own.stat().st_dev


def _indexes(dump: Path) -> dict[str, Any]:
    """Return the indexes of a dump; none where its index cannot be read, which devpi-import will say."""
    try:
        indexes: dict[str, Any] = read_dump(dump)["indexes"]
    except UsageError:
        return {}
    return indexes


def users_with_password(dump: Path, options: ToolOptions) -> list[str]:
    """Return the users who have a password by a dump, or by the options; devpi-import gives one to all.

    Raises UsageError if the index of the dump cannot be read.
    """
    users = read_dump(dump).get("users")
    found = users.items() if isinstance(users, Mapping) else ()
    named = {name for name, config in found if isinstance(config, Mapping) and PWHASH in config}
    return sorted(named | {"root"} if options.gives_password else named)


@dataclass(frozen=True, slots=True)
class Imported:
    """A serverdir that devpi-import made.

    with_password: see users_with_password.
    serial, tip: see Made.
    """

    staging: Path
    with_password: list[str]
    serial: int | None
    tip: bytes | None


class Importer:
    """What makes a serverdir of a dump, or finds that of an interrupted run."""

    def __init__(
        self,
        serverdir: Serverdir,
        dump: DumpSource,
        options: ToolOptions,
        settings: Settings,
        context: Context,
    ) -> None:
        self._serverdir = serverdir
        self._seed = serverdir.seed
        self._done = serverdir.seed / "imported"
        self._tip = serverdir.seed / "tip"
        self._dump = dump
        self._options = options
        self._settings = settings
        self._context = context
        self._removals: list[subprocess.Popen[bytes]] = []

    @property
    def _identity(self) -> list[Any]:
        """What was imported, and how; of passwords only that there are some."""
        options = self._options
        given = [options.no_root_pypi, options.no_events, bool(options.secrets), *options.skip_import_type]
        return [*self._dump.identity, given]

    def remove(self, folder: Path) -> None:
        """Begin to remove a folder of many files, which takes long, beside other work.

        A process does it, since a thread would need our interpreter for each of them.
        """
        with local_errors(f"cannot remove {folder}"):
            # If it outlives us, it must find nothing under this name that a next run made.
            doomed = folder.with_name(f"removed-{folder.name}-{os.getpid()}")
            folder.rename(doomed)
            removal = subprocess.Popen(  # noqa: S603
                [sys.executable, "-I", "-S", "-c", _REMOVE, os.fspath(doomed.absolute())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={},
            )
        self._removals.append(removal)

    def end_removals(self) -> None:
        """End what is still being removed: whoever goes on removes the rest."""
        for removal in self._removals:
            removal.kill()
            removal.wait()
        self._removals.clear()

    def clear(self) -> None:
        """Remove all that was needed for the import."""
        for removal in self._removals:
            removal.wait()
        self._removals.clear()
        shutil.rmtree(self._seed, ignore_errors=True)

    def imported(self, store: Store, primary: Primary | None, patience: Patience) -> Imported:
        """Return a serverdir that devpi-import made of the dump.

        primary: where files may come from; None for a server of its own.
        Raises TargetUnusable if devpi-import refuses the dump; then nothing of it is left.
        """
        with local_errors(f"cannot create {self._seed}"):
            found = self._found(store)
            if found is not None:
                return found
            shutil.rmtree(self._seed, ignore_errors=True)
            # Another process may still be removing what is in it; see `remove`.
            with suppress(FileExistsError):
                new_folder(self._seed, heir_of(self._seed), 0o700)
        try:
            return self._make(primary, patience)
        except BaseException:
            self.clear()
            raise

    def _found(self, store: Store) -> Imported | None:
        """Return what an interrupted run imported; None if that is to be done, or to be done anew."""
        known = store.source()
        begun = known is not None and (store.last_serial() >= 0 or known.seed_kind != EXPORT)
        if not self._done.exists():
            if begun and not found_unusable(store):
                raise TargetUnusable(
                    f"cannot clone into {self._serverdir}",
                    "another kind of clone was begun there",
                    hint="go on with it in the way that it was begun, or choose another --serverdir",
                )
        elif not (begun and self._dump.own and found_unusable(store)):
            *identity, serial, name, with_password = json.loads(self._done.read_bytes())
            if identity == self._identity:
                tip = self._tip.read_bytes() if self._tip.exists() else None
                return Imported(self._seed / str(name), with_password, serial, tip)
            # One of an older replisync ends with the name: it did not keep who has a password. Import again.
            if known is not None and isinstance(with_password, list):
                raise TargetUnusable(
                    f"cannot clone into {self._serverdir}",
                    "another dump, another --at-serial or other options were begun with there",
                    hint="run the same command as before, or choose another --serverdir",
                )
        if begun:
            # What was begun leads to where the history cannot be used.
            start_over(self._serverdir, store)
        return None

    def _make(self, primary: Primary | None, patience: Patience) -> Imported:
        for checked in (False, True):
            imported = self._make_once(primary, patience, checked=checked)
            if imported is not None:
                return imported
            with local_errors(f"cannot clear {self._seed}"):
                self.clear()
                new_folder(self._seed, heir_of(self._seed), 0o700)
        raise AssertionError("what has checked files is imported or refused")

    def _make_once(self, primary: Primary | None, patience: Patience, *, checked: bool) -> Imported | None:
        """Import the dump; return None where one with checked files may be taken, and this one was not."""
        made = self._dump.make(self._seed, primary, self._settings, self._context, checked=checked)
        if primary is not None:
            # As of now: a dump of a server that is written to is newer than our first contact with it.
            reached = patience.call(primary.hello).serial
            if reached < (made.serial or 0):
                raise self._dump.too_new(reached)
        if made.scrap is not None:
            self.remove(made.scrap)
        command = import_command(
            self._serverdir,
            made.path,
            self._dump,
            self._options,
            self._settings,
            followed=primary is not None,
        )
        # A name of its own: a devpi-import that outlived a killed run must not write to this one.
        staging = self._seed / f"import-{os.getpid()}"
        # Both are said, since devpi-server's own configuration on this machine may name others.
        where = ["--serverdir", str(staging.absolute()), "--storage", SQLITE]
        syncer = Syncer(os.fspath(self._seed.absolute()))
        with local_errors(f"cannot sync {staging}"):
            syncer.begin()
        words = self._import([command[0], *where, *command[1:]], made.path)
        if words is not None and self._dump.own and not checked:
            # A file of the server may be damaged, and be found elsewhere.
            self._context.log.warning("import rejected", why=words)
            return None
        if words is not None:
            raise TargetUnusable(
                f"cannot import {made.path}",
                f"{IMPORT_TOOL} says: {words}",
                hint="nothing was written; repair the dump, or make a new one, and run the command again",
            )
        with local_errors(f"cannot sync {staging}"):
            give_all(staging, heir_of(staging))
            # Its files are taken over as they are, and devpi-import leaves it to the system when they are
            # on disk. Once it counts as done they have to be.
            syncer.tree(os.fspath(staging.absolute()))
        with local_errors(f"cannot write {self._done}"):
            if made.tip is not None:
                write_file(self._tip, made.tip)
            with_password = users_with_password(made.path, self._options)
            done = [*self._identity, made.serial, staging.name, with_password]
            write_file(self._done, json.dumps(done).encode())
        if made.path.is_relative_to(self._seed):
            self.remove(made.path)
        return Imported(staging, with_password, made.serial, made.tip)

    def _import(self, command: list[str], path: Path) -> str | None:
        endless = endless_bases(_indexes(path))
        if endless:
            raise TargetUnusable(
                f"cannot import {path}",
                f"bases of {', '.join(endless)} are in a circle, over which {IMPORT_TOOL} would never end",
                hint=f"nothing was written; break the circle, in {DUMP_INDEX} or on the server",
            )
        self._context.progress.stage("import", None, "seconds", dump=str(path))
        return run_tool(command, self._seed / "import.log", self._context, self._options.secrets)
