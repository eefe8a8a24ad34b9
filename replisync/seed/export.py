"""The first copy from a dump of devpi-export, by way of the real devpi-import.

What devpi-import makes is moved to the serials of the server that was exported (see rebase). Then, with a
primary, its changes from there on; without one the copy is a server of its own.
"""

import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from replisync import clock
from replisync.changelog import same_entry
from replisync.durable import local_errors, write_file
from replisync.errors import ReplisyncError, TargetUnusable, UsageError, WrongHistory
from replisync.loop import Patience, catch_up
from replisync.origin import Hello
from replisync.pipeline import History, Pipeline, Tally
from replisync.plan import BatchLimits
from replisync.ports import FileSource
from replisync.primary import Primary
from replisync.seed.basecopy import Origin, check_apart
from replisync.seed.dumping import Dumper
from replisync.seed.history import NoSource
from replisync.seed.local import DUMP_INDEX, FILES, LocalFiles, read_dump
from replisync.seed.rebase import EXPORT, RebasedImport, Rewriter
from replisync.seed.target import (
    Cloned,
    begin,
    connect,
    copy_files_and_changes,
    current_source,
    first_contact,
    found_unusable,
    hand_over,
    known_identity,
    new_target,
    release,
    start_over,
)
from replisync.seed.tools import EXPORT_TOOL, IMPORT_TOOL, ToolOptions, endless_bases, find_tool, run_tool
from replisync.serverdir import SQLITE_FILE, Serverdir
from replisync.standby import Context, Settings, local_files, pipeline, recorded
from replisync.storage import SQLITE
from replisync.store.base import Store
from replisync.store.records import Source
from replisync.store.snapshot import Rows

# Entries of one commit: most of those before an import are empty.
_LIMITS = BatchLimits(entries=20_000)


@dataclass(frozen=True, slots=True)
class Made:
    """A dump that can be imported.

    serial: of the exported server when it was made; None leaves devpi-import's serials.
    tip: that server's stored bytes of the entry at this serial; None where nobody knows.
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
        """The UUID of the exported server; "" where nobody knows."""
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

    def make(self, folder: Path, primary: FileSource | None, settings: Settings, context: Context) -> Made:
        """Return the dump."""
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
    uuid: str = ""
    own: bool = False

    @property
    def identity(self) -> list[Any]:
        """The dump and its serial."""
        return [str(self.path.absolute()), self.serial]

    def check(self, serverdir: Serverdir) -> Made:
        """Make sure that it is a dump.

        Raises UsageError where it is none, or something is not given that is needed.
        """
        if not (self.path / DUMP_INDEX).is_file():
            raise UsageError(
                f"use of --from-export {self.path}",
                f"it is no dump of devpi-export: there is no {DUMP_INDEX}",
            )
        check_apart(serverdir, self.path, self.option)
        if self.followed and self.serial is None:
            raise UsageError(
                "clone --from-export", "--at-serial is needed to follow the primary from there on"
            )
        return Made(self.path, self.serial)

    def make(
        self,
        folder: Path,  # noqa: ARG002 - it is made already
        primary: FileSource | None,  # noqa: ARG002
        settings: Settings,  # noqa: ARG002
        context: Context,  # noqa: ARG002
    ) -> Made:
        """Return it."""
        return Made(self.path, self.serial)

    def too_new(self, serial: int) -> ReplisyncError:
        """Return the error that says that --at-serial is wrong."""
        return UsageError(
            "clone --from-export", f"--at-serial is {self.serial}, and the primary is at serial {serial} only"
        )


@dataclass(frozen=True, slots=True)
class OwnDump:
    """A dump that is made of a serverdir on this machine; see dumping.

    mirrored: whether it gets the files of mirrors.
    """

    origin: Origin
    mirrored: bool = False
    option: str = "--from-serverdir"
    own: bool = True

    @property
    def uuid(self) -> str:
        """The UUID of the server, or of its primary where it is a replica."""
        return self.origin.uuid

    @property
    def identity(self) -> list[Any]:
        """The serverdir."""
        return [str(self.origin.root.absolute()), "export"]

    def check(self, serverdir: Serverdir) -> None:
        """Make sure that it can be exported.

        Raises UsageError.
        """
        check_apart(serverdir, self.origin.root, self.option)
        for tool in (EXPORT_TOOL, IMPORT_TOOL):
            find_tool(tool, f"export of --from-serverdir {self.origin.root}")

    def make(self, folder: Path, primary: FileSource | None, settings: Settings, context: Context) -> Made:
        """Make it of a snapshot.

        Raises what `Dumper.make` does.
        """
        work, dump = folder / "export", folder / "dump"
        work.mkdir()
        tool = find_tool(EXPORT_TOOL, f"export of --from-serverdir {self.origin.root}")
        serial, tip = self._dumper(work, primary, settings, context).make(tool, dump)
        # The dump has links to its files. Nobody else needs them.
        return Made(dump, serial, tip, scrap=work)

    def _dumper(
        self, folder: Path, primary: FileSource | None, settings: Settings, context: Context
    ) -> Dumper:
        return Dumper(self.origin.root, folder, settings, context, primary=primary, mirrored=self.mirrored)

    def too_new(self, serial: int) -> ReplisyncError:
        """Return the error that says that the primary is not the server of the serverdir."""
        return WrongHistory(
            f"clone of {self.origin.root}",
            f"the primary is at serial {serial} only, behind the serverdir, as after a restore from a backup",
        )


def copy_dump(
    serverdir: Serverdir,
    dump: DumpSource,
    primary_url: str | None,
    options: ToolOptions,
    settings: Settings,
    context: Context,
    reason: str,
) -> Cloned:
    """Make a new serverdir of a dump, or go on with one that was interrupted.

    primary_url: where the exported server is, to be followed; None for a server of its own.
    reason: why it is made in this way.
    Raises UsageError where something is not given that is needed, TargetUnusable where devpi-import refuses
    the dump, and what `changelog.clone` does.
    """
    ready = dump.check(serverdir)
    if ready is not None:
        _command(serverdir, ready.path, dump, options, settings, followed=primary_url is not None)
    known = known_identity(serverdir)
    local_files(serverdir, settings)
    patience = Patience(context.stop, context.log, seconds=settings.patience)
    with ExitStack() as stack:
        primary = hello = None
        if primary_url is not None:
            primary = stack.enter_context(connect(primary_url, known, settings))
            if dump.uuid:
                primary.expect(dump.uuid)
            hello = first_contact(primary, patience, context, damaged=True)
            if ready is not None and hello.serial < (ready.serial or 0):
                raise dump.too_new(hello.serial)
        store = stack.enter_context(new_target(serverdir))
        importer = _Importer(serverdir, dump, options, settings, context)
        imported = importer.imported(store, primary, hello)
        uuid = str(json.loads((imported.staging / ".nodeinfo").read_bytes())["uuid"])
        source = Source(
            primary_url=primary.url if primary else "",
            primary_uuid=hello.uuid if hello else dump.uuid or uuid,
            uuid=primary.uuid if primary else uuid,
            storage=str(serverdir.storage()),
            seed_kind=EXPORT,
            seed_started=clock.now(),
            seed_reason=reason,
        )
        source = begin(serverdir, store, source)
        copier = _Copier(serverdir, imported, dump, store, settings, context)
        with recorded(store, "clone", copier):
            copier.run(primary, patience)
            store.put_source(replace(current_source(store), seed_finished=clock.now()))
        handled = store.last_serial() if (imported.staging / ".event_serial").exists() else None
        if hello is not None:
            done = hand_over(serverdir, store, hello, copier.tally.local)
        else:
            done = release(serverdir, store, source.uuid, copier.tally.local, handled)
        importer.clear()
        return replace(done, export_reason=source.seed_reason if dump.own else None)


def _command(
    serverdir: Serverdir,
    path: Path,
    dump: DumpSource,
    options: ToolOptions,
    settings: Settings,
    *,
    followed: bool,
) -> list[str]:
    """Return the command line of the import, without the serverdir.

    Raises UsageError where there is no devpi-import, or no use for an option.
    """
    tool = find_tool(IMPORT_TOOL, f"use of {dump.option} {path}")
    no_root_pypi = options.no_root_pypi
    if followed or dump.own:
        dumped = "root/pypi" in _indexes(path)
        if no_root_pypi and dumped and followed:
            raise UsageError("use of --no-root-pypi", "the primary has root/pypi, and a standby must have it")
        no_root_pypi = no_root_pypi or not dumped
    words = [tool]
    # A standby's events are those of its primary: they are counted as handled when it is complete.
    words += ["--no-events"] if options.no_events or followed else []
    words += ["--no-root-pypi"] if no_root_pypi else []
    words += [word for kind in options.skip_import_type for word in ("--skip-import-type", kind)]
    words += ["--hard-links"] if settings.hard_links or _is_copied(serverdir, dump, settings) else []
    return [*words, str(path.absolute())]


def _is_copied(serverdir: Serverdir, dump: DumpSource, settings: Settings) -> bool:
    """Tell whether all files of a dump are sure to be copies of ours already."""
    if not isinstance(dump, OwnDump) or settings.search:
        return False
    files = dump.origin.root / FILES
    with local_errors(f"reading of {files}"):
        return files.is_dir() and files.stat().st_dev != serverdir.own.stat().st_dev


def _indexes(dump: Path) -> dict[str, Any]:
    """Return the indexes of a dump; none where its index cannot be read, which devpi-import will say."""
    try:
        indexes: dict[str, Any] = read_dump(dump)["indexes"]
    except UsageError:
        return {}
    return indexes


@dataclass(frozen=True, slots=True)
class _Imported:
    """A serverdir that devpi-import made.

    serial, tip: see Made.
    """

    staging: Path
    serial: int | None
    tip: bytes | None


class _Importer:
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
        self._removals: list[threading.Thread] = []

    def remove(self, folder: Path) -> None:
        """Begin to remove a folder of many files, which takes long, beside other work."""
        removal = threading.Thread(target=shutil.rmtree, args=(folder, True), daemon=True)
        removal.start()
        self._removals.append(removal)

    def clear(self) -> None:
        """Remove all that was needed for the import."""
        for removal in self._removals:
            removal.join()
        shutil.rmtree(self._seed, ignore_errors=True)

    def imported(self, store: Store, primary: Primary | None, hello: Hello | None) -> _Imported:
        """Return a serverdir that devpi-import made of the dump.

        primary, hello: where files may come from, and where it is; None for a server of its own.
        Raises TargetUnusable where devpi-import refuses the dump; then nothing of it is left.
        """
        with local_errors(f"making of {self._seed}"):
            found = self._found(store)
            if found is not None:
                return found
            shutil.rmtree(self._seed, ignore_errors=True)
            self._seed.mkdir(mode=0o700)
        try:
            return self._make(primary, hello)
        except BaseException:
            self.clear()
            raise

    def _found(self, store: Store) -> _Imported | None:
        """Return what an interrupted run imported; None where that is to be done, or to be done anew."""
        known = store.source()
        begun = known is not None and (store.last_serial() >= 0 or known.seed_kind != EXPORT)
        if not self._done.exists():
            if begun and not found_unusable(store):
                raise TargetUnusable(
                    f"clone into {self._serverdir}",
                    "another kind of clone was begun there",
                    hint="go on with it in the way that it was begun, or remove the folder",
                )
        elif not (begun and self._dump.own and found_unusable(store)):
            *identity, serial, name = json.loads(self._done.read_bytes())
            if identity == self._dump.identity:
                tip = self._tip.read_bytes() if self._tip.exists() else None
                return _Imported(self._seed / str(name), serial, tip)
            if begun:
                raise TargetUnusable(
                    f"clone into {self._serverdir}",
                    "another dump, or another --at-serial, was begun with there",
                    hint="run the same command as before, or remove the folder",
                )
        if begun:
            # What was begun leads to where the history cannot be used.
            start_over(self._serverdir, store)
        return None

    def _make(self, primary: Primary | None, hello: Hello | None) -> _Imported:
        made = self._dump.make(self._seed, primary, self._settings, self._context)
        if hello is not None and hello.serial < (made.serial or 0):
            raise self._dump.too_new(hello.serial)
        if made.scrap is not None:
            self.remove(made.scrap)
        command = _command(
            self._serverdir, made.path, self._dump, self._options, self._settings, followed=hello is not None
        )
        # A name of its own: a devpi-import that outlived a killed run must not write to this one.
        staging = self._seed / f"import-{os.getpid()}"
        # Both are said, since devpi-server's own configuration on this machine may name others.
        where = ["--serverdir", str(staging.absolute()), "--storage", SQLITE]
        self._import([command[0], *where, *command[1:]], made.path)
        with local_errors(f"writing of {self._done}"):
            if made.tip is not None:
                write_file(self._tip, made.tip)
            write_file(self._done, json.dumps([*self._dump.identity, made.serial, staging.name]).encode())
        if made.path.is_relative_to(self._seed):
            self.remove(made.path)
        return _Imported(staging, made.serial, made.tip)

    def _import(self, command: list[str], path: Path) -> None:
        endless = endless_bases(_indexes(path))
        if endless:
            raise TargetUnusable(
                f"import of {path}",
                f"bases of {', '.join(endless)} are in a circle, over which {IMPORT_TOOL} would never end",
                hint=f"nothing was written; break the circle, in {DUMP_INDEX} or on the server",
            )
        self._context.log.info("import", dump=str(path))
        self._context.progress.stage("import", None, "seconds")
        words = run_tool(command, self._seed / "import.log", self._context, self._options.secrets)
        if words is not None:
            raise TargetUnusable(
                f"import of {path}",
                f"{IMPORT_TOOL} says: {words}",
                hint="nothing was written; mend the dump, or make a new one, and run the command again",
            )


class _Copier:
    def __init__(
        self,
        serverdir: Serverdir,
        imported: _Imported,
        dump: DumpSource,
        store: Store,
        settings: Settings,
        context: Context,
    ) -> None:
        self.tally = Tally()
        self._serverdir = serverdir
        self._imported = imported
        self._dump = dump
        self._store = store
        # The import is ours: its files need not be copied once more.
        own = imported.staging / FILES
        self._local = LocalFiles(
            settings.search, own=own, link=settings.hard_links, linked=(*settings.linked, own)
        )
        self._settings = settings
        self._context = context

    def run(self, primary: Primary | None, patience: Patience) -> None:
        """Copy the import, and what a primary committed since."""
        nowhere = NoSource("it is not in the dump")
        if current_source(self._store).seed_serial is None:
            with self._history(mirrors=primary is None) as history:
                self._copy_history(history, primary, patience)
        if primary is not None:
            work = self._pipeline(primary, primary)
            work.recover()
            copy_files_and_changes(self._store, work, patience, self._context)
            return
        with self._history(mirrors=True) as history:
            self._pipeline(history, nowhere).fetch_wanted()

    @contextmanager
    def _history(self, *, mirrors: bool) -> Iterator[RebasedImport]:
        uuid = current_source(self._store).primary_uuid
        with closing(Rows(self._imported.staging / SQLITE_FILE)) as rows:
            yield RebasedImport(rows, uuid, self._imported.serial, mirrors=mirrors)

    def _pipeline(self, history: History, files: FileSource) -> Pipeline:
        rewrite = Rewriter(self._store) if isinstance(history, Primary) else None
        return pipeline(
            self._serverdir,
            self._store,
            history,
            replace(self._settings, limits=_LIMITS) if rewrite is None else self._settings,
            self._context,
            replace=True,
            local=self._local,
            files=files,
            tally=self.tally,
            rewrite=rewrite,
        )

    def _copy_history(self, history: RebasedImport, primary: Primary | None, patience: Patience) -> None:
        store = self._store
        self._context.log.info("metadata", from_serial=store.last_serial() + 1, to_serial=history.serial)
        self._context.progress.stage("metadata", history.serial - store.last_serial(), "serials")
        work = self._pipeline(history, NoSource("it is not in the dump"))
        work.recover()
        at_once = Patience(self._context.stop, self._context.log, seconds=0.0)
        serial = catch_up(work, store.last_serial, at_once, metadata_only=True)
        tip = None
        if primary is not None:
            # The entry at our serial is not the primary's: by its own one the primary is known again.
            hello, entry = patience.call(lambda: primary.entry(serial))
            if entry is None:
                raise self._dump.too_new(hello.serial)
            tip = entry.data
            if self._imported.tip is not None and not same_entry(self._imported.tip, tip):
                raise WrongHistory(
                    "comparison of the primary's history with that of the serverdir",
                    "the primary has another entry at the last serial of the serverdir",
                    serial=serial,
                )
        store.put_source(replace(current_source(store), seed_serial=serial), tip)
