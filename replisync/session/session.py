"""One target, opened for writing and put together: folder, database, files, primary and loop.

Every command that writes works through a session, so that the same checks precede each write.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import InitVar, dataclass, field

from replisync.changelog.plan import BatchLimits
from replisync.changelog.ports import FileSource, FileStore, History
from replisync.changelog.records import Source
from replisync.changelog.rewrite import EXPORT, Rewriter
from replisync.devpi.storage import POSTGRES
from replisync.errors import UsageError
from replisync.primary.client import Primary
from replisync.replication.context import Context
from replisync.replication.fetch import Fetcher, Place
from replisync.replication.loop import Patience
from replisync.replication.missing import Tally
from replisync.replication.pipeline import Pipeline, Rewrite, Rules
from replisync.replication.retries import Retries
from replisync.replication.settle import Settler, recover, settle
from replisync.session.runs import Record, recorded
from replisync.session.settings import Settings
from replisync.standby.database.store import Store
from replisync.standby.files.local import LocalFiles
from replisync.standby.opening import existing_standby
from replisync.standby.serverdir import Serverdir

# The number of retries at a time, in addition to the downloads of changes.
_RETRY_THREADS = 2


@dataclass
class Session:
    """One target whose lock we hold and whose database is open for writing.

    source: the origin of its data.
    seeding: whether it is a first copy, without a devpi-server: fetched files then replace existing ones at
        once.
    given_files: the target's files; None for those of the serverdir.
    """

    serverdir: Serverdir
    store: Store
    source: Source
    settings: Settings
    context: Context
    seeding: bool = False
    given_files: InitVar[FileStore | None] = None
    files: FileStore = field(init=False)
    tally: Tally = field(init=False, default_factory=Tally)

    def __post_init__(self, given_files: FileStore | None) -> None:
        """Use the files of the serverdir."""
        threads = self.settings.access.threads
        self.files = given_files or self.store.files(self.serverdir, threads, shared=not self.seeding)
        retain = self.settings.retention_days > 0
        self.settle = Settler(lambda: settle(self.store, self.files, retain=retain), self.context.log)

    @classmethod
    @contextmanager
    def open(cls, serverdir: Serverdir, settings: Settings, context: Context) -> "Iterator[Session]":
        """Hold a complete standby; see `standby.opening.existing_standby`."""
        with existing_standby(serverdir) as (store, source):
            if store.took_over:
                context.log.warning(
                    "a lost session of this standby held the lock of the database: it was ended"
                )
            yield cls(serverdir, store, source, settings, context)

    def primary(self, url: str | None = None, *, secret: bool = True) -> Primary:
        """Return the primary, which must be the one that the data comes from.

        url: its new URL; None if it did not move.
        secret: whether its changelog is to be read.
        Raises UsageError if the secret, or a file for TLS, cannot be used.
        """
        source = self.source
        return self.settings.access.primary(
            url or source.primary_url, source.uuid, source.primary_uuid, secret=secret
        )

    def patience(self) -> Patience:
        """Return the retry policy that the operator chose."""
        return Patience(self.context.stop, self.context.log, seconds=self.settings.patience)

    def following(self, primary: Primary, local: LocalFiles | None = None) -> Pipeline:
        """Return the loop that applies a primary's commits.

        local: the files on this machine, which are searched first.
        """
        rewrite = Rewriter(self.store) if self.source.seed_kind == EXPORT else None
        return self.copying(primary, primary, local, rewrite=rewrite)

    def copying(
        self,
        history: History,
        files: FileSource,
        local: LocalFiles | None,
        *,
        limits: BatchLimits | None = None,
        rewrite: Rewrite | None = None,
    ) -> Pipeline:
        """Return the loop that applies a history.

        files: the source of files that `local` does not have.
        limits: of a commit; None for those of the settings.
        rewrite: see pipeline.Rules.
        """
        settings = self.settings
        retain = settings.retention_days > 0
        rules = Rules(limits or settings.limits, settings.skip_indexes, retain, rewrite)
        fetcher = self.fetcher(files, local, place="all" if self.seeding else "free")
        return Pipeline(history, self.store, fetcher, self.context, rules, self.tally)

    def retries(self, primary: Primary, work: Pipeline) -> Retries:
        """Return the retries of the files of a loop, for while it runs."""
        files = self.store.files(self.serverdir, _RETRY_THREADS, prefix="retry-")
        fetcher = Fetcher(primary, files, threads=_RETRY_THREADS, stop=self.context.stop, place="none")
        return Retries(work.wanted, fetcher, self.store, self.context.log)

    def fetcher(self, files: FileSource, local: LocalFiles | None, *, place: Place) -> Fetcher:
        """Return the downloads; arguments as in fetch.Fetcher."""
        fetcher = Fetcher(
            files,
            self.files,
            threads=self.settings.access.threads,
            stop=self.context.stop,
            place=place,
            local=local,
        )
        fetcher.progress = self.context.progress
        return fetcher

    def recover(self) -> None:
        """Finish an interrupted run."""
        recover(self.settle, self.store, self.files)

    def recorded(self, command: str) -> AbstractContextManager[Record]:
        """Record that a command runs, and how it ended."""
        return recorded(self.store, command, self.tally)


def local_files(serverdir: Serverdir, settings: Settings) -> LocalFiles | None:
    """Return the files on this machine; None if the operator names no folder.

    Raises UsageError if a folder cannot be used, or files would have to be linked into a database.
    """
    if settings.hard_links and serverdir.storage().name == POSTGRES:
        raise UsageError("cannot use --hard-links", "with pg8000 the files are rows of the database")
    if not (settings.search or settings.linked):
        return None
    return LocalFiles(settings.search, link=settings.hard_links, linked=settings.linked)
