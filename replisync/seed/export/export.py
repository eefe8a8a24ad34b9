"""The first copy from a dump of devpi-export, by way of the real devpi-import.

What devpi-import makes is moved to the serials of the server that was exported (see rebase). Then, with a
primary, its changes from there on; without one the copy is a server of its own.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace

from replisync.changelog import EXPORT, BatchLimits, Source
from replisync.devpi import ChangelogEntry, hold_problem, index_of, parse_stored, same_entry
from replisync.errors import PrimaryDamaged, PrimaryUnreachable, WrongHistory
from replisync.primary import Primary
from replisync.replication import Context, NoSource, Patience, Pipeline, catch_up
from replisync.seed.export.dumps import DumpSource
from replisync.seed.export.importing import Imported, Importer, import_command
from replisync.seed.export.rebase import RebasedImport, users_without_password
from replisync.seed.export.tools import ToolOptions
from replisync.seed.snapshot import Rows
from replisync.seed.target import (
    Cloned,
    begin,
    check_begun,
    connect,
    copy_files_and_changes,
    current_source,
    first_contact,
    hand_over,
    known_identity,
    new_target,
    release,
)
from replisync.session import Session, Settings, local_files
from replisync.standby import FILES, SQLITE_FILE, LocalFiles, Serverdir, Store, take_over
from replisync.system import clock

# Entries of one commit: most of those before an import are empty.
_LIMITS = BatchLimits(entries=20_000)

# Entries before the end of an export by which it is known whose it is.
_NEWEST = 50

# devpi-server's name for the key of a release; see its model.py.
_RELEASE = "PROJVERSION"

# Files that were taken over and are written down together.
_TOGETHER = 1000


def copy_dump(
    serverdir: Serverdir,
    dump: DumpSource,
    primary_url: str | None,
    options: ToolOptions,
    settings: Settings,
    context: Context,
) -> Cloned:
    """Make a new serverdir of a dump, or go on with one that was interrupted.

    primary_url: where the exported server is, to be followed; None for a server of its own.
    Raises UsageError if something is not given that is needed, TargetUnusable if devpi-import refuses
    the dump, and what `changelog.clone` does.
    """
    ready = dump.check(serverdir)
    if ready is not None:
        import_command(serverdir, ready.path, dump, options, settings, followed=primary_url is not None)
    known = known_identity(serverdir)
    # Of the kind another one sees to it: what leads to where the history cannot be used is begun anew.
    check_begun(serverdir, known, known.seed_kind if known else EXPORT, followed=primary_url is not None)
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
        importer = Importer(serverdir, dump, options, settings, context)
        stack.callback(importer.end_removals)
        imported = importer.imported(store, primary, patience)
        uuid = str(json.loads((imported.staging / ".nodeinfo").read_bytes())["uuid"])
        source = Source(
            primary_url=primary.url if primary else "",
            primary_uuid=hello.uuid if hello else dump.uuid or uuid,
            uuid=primary.uuid if primary else uuid,
            storage=str(serverdir.storage()),
            seed_kind=EXPORT,
            seed_started=clock.now(),
            seed_reason=dump.reason,
        )
        source = begin(serverdir, store, source)
        session = Session(serverdir, store, source, settings, context, seeding=True)
        copier = _Copier(session, imported, dump)
        passwordless = copier.passwordless()
        with session.recorded("clone"):
            copier.run(primary, patience)
            store.put_source(replace(current_source(store), seed_finished=clock.now()))
        handled = store.last_serial() if (imported.staging / ".event_serial").exists() else None
        if hello is not None:
            done = hand_over(serverdir, store, hello, session.tally.local)
        else:
            done = release(serverdir, store, source.uuid, session.tally.local, handled)
        importer.clear()
        export_reason = source.seed_reason if dump.own else None
        return replace(done, export_reason=export_reason, passwordless=passwordless)


def check_seed(store: Store, primary: Primary, patience: Patience) -> None:
    """Make sure that a dump is of the serial that somebody said: the primary's newest entries up to it tell.

    They are compared by the releases that they made or deleted. Where a later entry changed one again, it is
    right in any case. As many entries are looked at as the primary can show at once.
    Raises WrongHistory.
    """
    serial = current_source(store).based_on
    seen: set[str] = set()
    for at in range(serial, max(serial - _NEWEST, -1), -1):
        try:
            entry = _entry(primary, at, patience)
            changes = parse_stored(at, entry.data).changes if entry is not None else {}
        except (PrimaryDamaged, PrimaryUnreachable):
            # It may be for the sake of this hole that there is a dump.
            return
        for path, change in changes.items():
            if change.keyname != _RELEASE or path in seen or store.index_type(index_of(path)) == "mirror":
                continue
            seen.add(path)
            now = store.serials_of([path]).get(path, -1)
            if now > serial:
                continue
            ours = parse_stored(now, store.entry_data(now) or b"").changes.get(path) if now >= 0 else None
            if bool(change.value) != bool(ours and ours.value):
                has, lacks = ("the primary", "the dump") if change.value else ("the dump", "the primary")
                raise WrongHistory(
                    f"cannot match the dump to the primary at serial {serial}",
                    f"{has} has the release {path.removesuffix('/.config')}, which {lacks} does not have",
                    serial=at,
                    hint="the dump is older than --at-serial says, or of another server; clone into "
                    "another --serverdir, with the serial that the server had when the dump was begun",
                )


def _entry(primary: Primary, serial: int, patience: Patience) -> ChangelogEntry | None:
    """Return an entry of the primary, which answers errors for one that it cannot read, again and again."""
    try:
        return primary.entry(serial)[1]
    except PrimaryUnreachable:
        patience.call(primary.hello)
        return primary.entry(serial)[1]


class _Copier:
    def __init__(self, session: Session, imported: Imported, dump: DumpSource) -> None:
        self._session = session
        self._imported = imported
        self._dump = dump
        self._store, self._context, self._settings = session.store, session.context, session.settings
        settings = session.settings
        # The import is ours: its files need not be copied once more.
        own = imported.staging / FILES
        self._local = LocalFiles(
            settings.search, own=own, link=settings.hard_links, linked=(*settings.linked, own)
        )

    def run(self, primary: Primary | None, patience: Patience) -> None:
        """Copy the import, and what a primary committed since."""
        if current_source(self._store).seed_serial is None:
            with self._history(mirrors=primary is None) as history:
                self._copy_history(history, primary, patience)
        if primary is not None:
            work = self._session.following(primary, self._local)
            work.recover()
            self._take_over(work)
            copy_files_and_changes(self._store, work, patience, self._context)
            if self._imported.tip is None:
                check_seed(self._store, primary, patience)
            return
        with self._history(mirrors=True) as history:
            work = self._copying(history)
            self._take_over(work)
            work.wanted.fetch_all()

    def passwordless(self) -> int:
        """Return how many users have no password."""
        with closing(Rows(self._imported.staging / SQLITE_FILE)) as rows:
            return len(users_without_password(rows, self._imported.with_password))

    @contextmanager
    def _history(self, *, mirrors: bool) -> Iterator[RebasedImport]:
        uuid = current_source(self._store).primary_uuid
        with closing(Rows(self._imported.staging / SQLITE_FILE)) as rows:
            imported = self._imported
            yield RebasedImport(rows, uuid, imported.serial, imported.with_password, mirrors=mirrors)

    def _copying(self, history: RebasedImport) -> Pipeline:
        nowhere = NoSource("it is not in the dump")
        return self._session.copying(history, nowhere, self._local, limits=_LIMITS)

    def _copy_history(self, history: RebasedImport, primary: Primary | None, patience: Patience) -> None:
        store = self._store
        first, last = store.last_serial() + 1, history.serial
        self._context.progress.stage(
            "metadata", last + 1 - first, "serials", from_serial=first, to_serial=last
        )
        work = self._copying(history)
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
                    "cannot follow the primary",
                    "the primary has another entry at the last serial of the serverdir",
                    serial=serial,
                )
        store.put_source(replace(current_source(store), seed_serial=serial), tip)

    def _take_over(self, work: Pipeline) -> None:
        """Give the folders of the import their place as they are.

        devpi-import has compared each file with the digest that its entry demands, and all of them were made
        durable before the import counted as done. What is not there is fetched as everywhere.
        """
        if self._store.holds_files or self._settings.linked:
            # The one needs them in the database; the other has them already, and wants no second copy.
            return
        for index in self._store.wanted_indexes():
            if not work.wanted.not_skipped(self._store.wanted_files(index, "", 1)):
                continue
            if take_over(self._imported.staging / FILES, self._session.serverdir.files, index):
                self._note_taken_over(index)

    def _note_taken_over(self, index: str) -> None:
        files = self._session.files
        after = ""
        while some := self._store.wanted_files(index, after, _TOGETHER):
            self._context.stop.check()
            after = some[-1].relpath
            sizes = files.sizes_of([file.relpath for file in some if not hold_problem(file.relpath)])
            self._store.files_arrived(sizes)
            self._session.tally.local += len(sizes)
