"""The first copy from a dump of devpi-export, by way of the real devpi-import.

What devpi-import makes is moved to the serials of the server that was exported (see rebase). Then, with a
primary, its changes from there on; without one the copy is a server of its own.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from replisync import clock
from replisync.durable import local_errors, write_file
from replisync.errors import TargetUnusable, UsageError
from replisync.loop import Patience, catch_up
from replisync.pipeline import History, Pipeline, Tally
from replisync.plan import BatchLimits
from replisync.ports import FileSource
from replisync.primary import Primary
from replisync.seed.basecopy import check_apart
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
    hand_over,
    known_identity,
    new_target,
    release,
)
from replisync.serverdir import SQLITE_FILE, Serverdir
from replisync.standby import Context, Settings, local_files, pipeline, recorded
from replisync.store.base import Store
from replisync.store.records import Source
from replisync.store.snapshot import Rows

TOOL = "devpi-import"

# Entries of one commit: most of those before an import are empty.
_LIMITS = BatchLimits(entries=20_000)

_LOOK_SECONDS = 0.2

# The last words of devpi-import that are repeated where it fails, in bytes and lines.
_WORDS_BYTES = 4096
_WORDS_LINES = 6
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """devpi-import's own options.

    no_root_pypi: leave the mirror root/pypi out.
    no_events: leave events to the first start of the server.
    """

    no_root_pypi: bool = False
    no_events: bool = False


def copy_dump(
    serverdir: Serverdir,
    dump: Path,
    serial: int | None,
    primary_url: str | None,
    options: ImportOptions,
    settings: Settings,
    context: Context,
) -> Cloned:
    """Make a new serverdir of a dump, or go on with one that was interrupted.

    serial: of the exported server, when the dump was made; None leaves devpi-import's serials.
    primary_url: where the exported server is, to be followed; None for a server of its own.
    Raises UsageError where something is not given that is needed, TargetUnusable where devpi-import refuses
    the dump, and what `changelog.clone` does.
    """
    command = _command(serverdir, dump, options, settings, followed=primary_url is not None)
    if primary_url is not None and serial is None:
        raise UsageError("clone --from-export", "--at-serial is needed to follow the primary from there on")
    known = known_identity(serverdir)
    local_files(serverdir, settings)
    patience = Patience(context.stop, context.log, seconds=settings.patience)
    with ExitStack() as stack:
        primary = hello = None
        if primary_url is not None:
            primary = stack.enter_context(connect(primary_url, known, settings))
            hello = first_contact(primary, patience, context)
            if hello.serial < (serial or 0):
                raise UsageError(
                    "clone --from-export",
                    f"--at-serial is {serial}, and the primary is at serial {hello.serial} only",
                )
        store = stack.enter_context(new_target(serverdir))
        staging = _imported(serverdir, dump, command, serial, store, context)
        uuid = str(json.loads((staging / ".nodeinfo").read_bytes())["uuid"])
        source = Source(
            primary_url=primary.url if primary else "",
            primary_uuid=hello.uuid if hello else uuid,
            uuid=primary.uuid if primary else uuid,
            storage=str(serverdir.storage()),
            seed_kind=EXPORT,
            seed_started=clock.now(),
        )
        source = begin(serverdir, store, source)
        copier = _Copier(serverdir, staging, store, settings, context)
        with recorded(store, "clone", copier):
            copier.run(primary, serial, patience)
            store.put_source(replace(current_source(store), seed_finished=clock.now()))
        handled = store.last_serial() if (staging / ".event_serial").exists() else None
        if hello is not None:
            done = hand_over(serverdir, store, hello, copier.tally.local)
        else:
            done = release(serverdir, store, source.uuid, copier.tally.local, handled)
        shutil.rmtree(serverdir.seed, ignore_errors=True)
        return done


def _command(
    serverdir: Serverdir, dump: Path, options: ImportOptions, settings: Settings, *, followed: bool
) -> list[str]:
    """Return the command line of the import, without the serverdir.

    Raises UsageError where there is no devpi-import, no dump, or no use for an option.
    """
    attempted = f"use of --from-export {dump}"
    if not (dump / DUMP_INDEX).is_file():
        raise UsageError(attempted, f"it is no dump of devpi-export: there is no {DUMP_INDEX}")
    check_apart(serverdir, dump, "--from-export")
    beside = Path(sys.executable).with_name(TOOL)
    tool = str(beside) if beside.exists() else shutil.which(TOOL)
    if tool is None:
        raise UsageError(
            attempted,
            f"there is no {TOOL}, neither beside the interpreter nor on PATH",
            hint="install replisync[seed], or devpi-server",
        )
    no_root_pypi = options.no_root_pypi
    if followed:
        dumped = "root/pypi" in _indexes(dump)
        if no_root_pypi and dumped:
            raise UsageError("use of --no-root-pypi", "the primary has root/pypi, and a standby must have it")
        no_root_pypi = not dumped
    words = [tool]
    # A standby's events are those of its primary: they are counted as handled when it is complete.
    words += ["--no-events"] if options.no_events or followed else []
    words += ["--no-root-pypi"] if no_root_pypi else []
    words += ["--hard-links"] if settings.hard_links else []
    return [*words, str(dump.absolute())]


def _indexes(dump: Path) -> set[str]:
    """Return the indexes of a dump; none where its index cannot be read, which devpi-import will say."""
    try:
        return set(read_dump(dump)["indexes"])
    except UsageError:
        return set()


def _imported(
    serverdir: Serverdir, dump: Path, command: list[str], serial: int | None, store: Store, context: Context
) -> Path:
    """Return a serverdir that devpi-import made of a dump: a new one, or that of an interrupted run.

    Raises TargetUnusable where devpi-import refuses the dump; then nothing of it is left.
    """
    done = serverdir.seed / "imported"
    what = [str(dump.absolute()), serial]
    # A name of its own: a devpi-import that outlived a killed run must not write to this one.
    staging = serverdir.seed / f"import-{os.getpid()}"
    with local_errors(f"making of {serverdir.seed}"):
        if done.exists():
            *found, name = json.loads(done.read_bytes())
            if found == what:
                return serverdir.seed / str(name)
            if store.last_serial() >= 0:
                raise TargetUnusable(
                    f"clone into {serverdir}",
                    "another dump, or another --at-serial, was begun with there",
                    hint="run the same command as before, or remove the folder",
                )
        if store.last_serial() >= 0 and not done.exists():
            raise TargetUnusable(
                f"clone into {serverdir}",
                "another kind of clone was begun there",
                hint="go on with it in the way that it was begun, or remove the folder",
            )
        shutil.rmtree(serverdir.seed, ignore_errors=True)
        serverdir.seed.mkdir(mode=0o700)
    try:
        _import([command[0], "--serverdir", str(staging.absolute()), *command[1:]], dump, serverdir, context)
    except BaseException:
        shutil.rmtree(serverdir.seed, ignore_errors=True)
        raise
    with local_errors(f"writing of {done}"):
        write_file(done, json.dumps([*what, staging.name]).encode())
    return staging


def _import(command: list[str], dump: Path, serverdir: Serverdir, context: Context) -> None:
    context.log.info("import", dump=str(dump))
    context.progress.stage("import", None, "seconds")
    said = serverdir.seed / "import.log"
    with local_errors(f"running of {TOOL}"), said.open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)  # noqa: S603
    try:
        while True:
            try:
                code = process.wait(_LOOK_SECONDS)
                break
            except subprocess.TimeoutExpired:
                context.stop.check()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if code:
        raise TargetUnusable(
            f"import of {dump}",
            f"{TOOL} says: {_last_words(said)}",
            hint="nothing was written; mend the dump, or make a new one, and run the command again",
        )


def _last_words(path: Path) -> str:
    text = _COLOUR.sub("", path.read_bytes()[-_WORDS_BYTES:].decode(errors="replace"))
    lines = [line.strip() for line in text.splitlines() if line.strip()][-_WORDS_LINES:]
    fatal = [number for number, line in enumerate(lines) if line.startswith("fatal:")]
    return " / ".join(lines[fatal[0] :] if fatal else lines)


class _Copier:
    def __init__(
        self, serverdir: Serverdir, staging: Path, store: Store, settings: Settings, context: Context
    ) -> None:
        self.tally = Tally()
        self._serverdir = serverdir
        self._staging = staging
        self._store = store
        # The import is ours: its files need not be copied once more.
        self._local = LocalFiles(settings.search, own=staging / FILES, link=True)
        self._settings = settings
        self._context = context

    def run(self, primary: Primary | None, serial: int | None, patience: Patience) -> None:
        """Copy the import, and what a primary committed since."""
        nowhere = NoSource("it is not in the dump")
        if current_source(self._store).seed_serial is None:
            with self._history(serial, mirrors=primary is None) as history:
                self._copy_history(history, primary, patience)
        if primary is not None:
            work = self._pipeline(primary, primary)
            work.recover()
            copy_files_and_changes(self._store, work, patience, self._context)
            return
        with self._history(serial, mirrors=True) as history:
            self._pipeline(history, nowhere).fetch_wanted()

    @contextmanager
    def _history(self, serial: int | None, *, mirrors: bool) -> Iterator[RebasedImport]:
        uuid = current_source(self._store).primary_uuid
        with closing(Rows(self._staging / SQLITE_FILE)) as rows:
            yield RebasedImport(rows, uuid, serial, mirrors=mirrors)

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
            entry = patience.call(lambda: primary.entry(serial)[1])
            if entry is None:
                raise UsageError("clone --from-export", f"the primary has no entry at --at-serial {serial}")
            tip = entry.data
        store.put_source(replace(current_source(store), seed_serial=serial), tip)
