"""The first copy from a serverdir on this machine, also one whose server runs: exact, serials kept.

The history is read from a snapshot of the database, the files are linked or copied. Then, with a primary,
what it committed since; without one the copy is a server of its own.
"""

import json
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from replisync.changelog import Source
from replisync.errors import FilesMissing, UsageError
from replisync.primary import Primary
from replisync.replication import Context, NoSource, Patience, Pipeline, catch_up
from replisync.seed.history import LocalHistory
from replisync.seed.snapshot import Rows, take_snapshot
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
from replisync.standby import FILES, SQLITE_FILE, LocalFiles, Serverdir
from replisync.system import clock, emptied, local_errors

KIND = "base-copy"

# A running server may delete a file that we are to copy: then its history is read on, so often at most.
_ROUNDS = 20


class Origin:
    """The serverdir that is copied; it is only read.

    Raises UsageError if it is none that can be copied.
    """

    def __init__(self, root: Path) -> None:
        attempted = f"cannot use --from-serverdir {root}"
        with local_errors(f"cannot read {root}"):
            try:
                info = json.loads((root / ".nodeinfo").read_bytes())
                version = (root / ".serverversion").read_text()
            except (FileNotFoundError, NotADirectoryError) as err:
                raise UsageError(attempted, "not a serverdir, or not a complete one") from err
            except ValueError as err:
                raise UsageError(attempted, "its .nodeinfo is not what devpi-server writes") from err
        if not isinstance(info, dict) or not isinstance(info.get("uuid"), str):
            raise UsageError(attempted, "its .nodeinfo is not what devpi-server writes")
        if not version.startswith("4"):
            newer = ", that of devpi-server 7" if version.strip() == "5" else ""
            raise UsageError(
                attempted,
                f"its state has version {version.strip()[:20]}{newer}; this replisync reads version 4, "
                "that of devpi-server 4 to 6",
                hint="use a replisync that reads it, or a serverdir of devpi-server 6",
            )
        if not (root / SQLITE_FILE).is_file():
            raise UsageError(
                attempted,
                "its database is not SQLite",
                hint="clone with --primary-url, or from a dump of devpi-export with --from-export",
            )
        self.root = root
        self.database = root / SQLITE_FILE
        # A replica has the history, and the serials, of its primary.
        replica = info.get("role") == "replica"
        of_primary = info.get("primary-uuid") or info.get("master-uuid") if replica else None
        self.uuid = str(of_primary or info["uuid"])

    def event_serial(self) -> int | None:
        """Return up to where its events are handled; None if none are."""
        with suppress(OSError, ValueError):
            return int((self.root / ".event_serial").read_text()) - 1
        return None


def copy(
    serverdir: Serverdir, root: Path, primary_url: str | None, settings: Settings, context: Context
) -> Cloned:
    """Copy a serverdir into a new one, or go on with a copy that was interrupted.

    primary_url: where its primary is, to be followed; None for a server of its own.
    Raises UsageError if `root` cannot be copied, WrongHistory if the primary is another server, and
    what `changelog.clone` does.
    """
    origin = Origin(root)
    check_apart(serverdir, root, "--from-serverdir")
    known = known_identity(serverdir)
    check_begun(serverdir, known, KIND, followed=primary_url is not None)
    local_files(serverdir, settings)
    local = LocalFiles(settings.search, own=root / FILES, link=settings.hard_links, linked=settings.linked)
    patience = Patience(context.stop, context.log, seconds=settings.patience)
    with ExitStack() as stack:
        primary = hello = None
        if primary_url is not None:
            primary = stack.enter_context(connect(primary_url, known, settings))
            primary.expect(origin.uuid)
            hello = first_contact(primary, patience, context)
        # Before the history: what is handled then, is in it.
        events = origin.event_serial()
        store = stack.enter_context(new_target(serverdir))
        source = Source(
            primary_url=primary.url if primary else "",
            primary_uuid=origin.uuid,
            uuid=primary.uuid if primary else uuid.uuid4().hex,
            storage=str(serverdir.storage()),
            seed_kind=KIND,
            seed_started=clock.now(),
            seed_reason="--from-serverdir was given",
        )
        source = begin(serverdir, store, source)
        session = Session(serverdir, store, source, settings, context, seeding=True)
        copier = _Copier(session, origin, local)
        with session.recorded("clone"):
            copier.run(primary, patience)
            store.put_source(replace(current_source(store), seed_finished=clock.now()))
        if hello is not None:
            return hand_over(serverdir, store, hello, session.tally.local)
        handled = None if events is None else min(events, store.last_serial())
        return release(serverdir, store, source.uuid, session.tally.local, handled)


def check_apart(serverdir: Serverdir, source: Path, option: str) -> None:
    """Make sure that a target and what it is made of are different folders.

    Raises UsageError.
    """
    ours, theirs = serverdir.root.resolve(), source.resolve()
    if ours.is_relative_to(theirs) or theirs.is_relative_to(ours):
        raise UsageError(
            f"cannot use {option} {source}", "--serverdir is the same folder, or one lies in the other"
        )


class _Copier:
    def __init__(self, session: Session, origin: Origin, local: LocalFiles) -> None:
        self._session = session
        self._origin = origin
        self._local = local
        self._store, self._context = session.store, session.context

    def run(self, primary: Primary | None, patience: Patience) -> None:
        """Copy history and files, and what a primary committed since."""
        if primary is None:
            self._copy_alone()
            return
        if current_source(self._store).seed_serial is None:
            with self._history() as history:
                self._catch_up(self._session.copying(history, primary, self._local))
        work = self._session.following(primary, self._local)
        work.recover()
        copy_files_and_changes(self._store, work, patience, self._context)

    def _catch_up(self, work: Pipeline) -> None:
        """Bring the target to the end of the history that `work` reads; its files are left for later."""
        store, context = self._store, self._context
        work.recover()
        serial = work.check_identity().serial
        first = store.last_serial() + 1
        context.progress.stage("metadata", serial + 1 - first, "serials", from_serial=first, to_serial=serial)
        source = current_source(store)
        # What is wrong with it does not pass.
        at_once = Patience(context.stop, context.log, seconds=0.0)
        serial = catch_up(work, store.last_serial, at_once, metadata_only=True)
        store.put_source(replace(source, seed_serial=serial))

    def _copy_alone(self) -> None:
        nowhere = NoSource(f"it is not in {self._origin.root}")
        seen = -1
        for rounds_left in reversed(range(_ROUNDS)):
            with self._history() as history:
                work = self._session.copying(history, nowhere, self._local)
                try:
                    self._catch_up(work)
                    counts = self._store.file_counts()
                    self._context.progress.stage("files", counts.missing, "files")
                    work.wanted.fetch_all()
                except FilesMissing:
                    # A running server may have deleted them since.
                    if history.serial == seen or not rounds_left:
                        raise
                    seen = history.serial
                else:
                    return

    @contextmanager
    def _history(self) -> Iterator[LocalHistory]:
        """Hold the history of the serverdir as of now, in a copy that is removed afterwards."""
        folder = self._session.serverdir.seed
        with emptied(folder):
            snapshot = folder / "snapshot.sqlite"
            take_snapshot(self._origin.database, snapshot, self._context.stop.check)
            with closing(Rows(snapshot)) as rows:
                yield LocalHistory(rows, self._origin.uuid)
