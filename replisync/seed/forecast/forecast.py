"""What a clone would fetch, found out without writing anything into the target.

Histories are read as a clone reads them, and forgotten at once.
"""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from replisync.changelog import EXPORT, Hello, Identity
from replisync.devpi import SQLITE
from replisync.errors import PrimaryDamaged
from replisync.primary import Primary
from replisync.replication import Context, Patience
from replisync.seed import basecopy, changelog
from replisync.seed.export.dumping import demanded
from replisync.seed.export.dumps import NamedDump, OwnDump
from replisync.seed.export.tools import IMPORT_TOOL, ToolOptions, find_tool
from replisync.seed.forecast.survey import Forecast, Survey
from replisync.seed.history import LocalHistory
from replisync.seed.snapshot import Rows, take_snapshot
from replisync.seed.target import (
    begun_export,
    check_begun,
    connect,
    current_source,
    first_contact,
    found_unusable,
    known_identity,
)
from replisync.seed.ways import Seed, Seeding
from replisync.session import Settings, local_files
from replisync.standby import (
    FILES,
    LocalFiles,
    Serverdir,
    Store,
    open_database,
    require_same,
    require_standby,
)


def forecast(serverdir: Serverdir, seeding: Seeding, settings: Settings, context: Context) -> Forecast:
    """Return what `ways.clone` would fetch, or what is left of an interrupted one.

    Raises what the clone would raise before it writes, and while it reads.
    """
    seeding.check()
    sources, seed, options = seeding.sources, seeding.seed, seeding.options
    patience = Patience(context.stop, context.log, seconds=settings.patience)
    work = _Forecaster(serverdir, sources.primary_url, settings, context, patience)
    if sources.serverdir is not None:
        mirrored = options.include_mirrored_files is True
        if seed is Seed.EXPORT or (seed is Seed.AUTO and begun_export(serverdir) is not None):
            return work.of_export(sources.serverdir, mirrored=mirrored, instead=False)
        try:
            return work.of_copy(sources.serverdir)
        except PrimaryDamaged:
            if seed is Seed.CHANGELOG:
                raise
            return work.of_export(sources.serverdir, mirrored=mirrored, instead=True)
    if sources.dump is not None and seed is not Seed.CHANGELOG:
        return work.of_dump(sources.dump, sources.at_serial, options)
    return work.of_changelog(() if sources.dump is None else (sources.dump,))


def forecast_rest(serverdir: Serverdir, url: str, settings: Settings, context: Context) -> Forecast:
    """Return what a complete standby lacks of what its primary has.

    Raises TargetUnusable if it is no complete standby, and what a catchup raises while it reads.
    """
    patience = Patience(context.stop, context.log, seconds=settings.patience)
    require_standby(serverdir)
    with ExitStack() as stack:
        store = stack.enter_context(open_database(serverdir))
        require_same(serverdir, store)
        store.check_version()
        source = current_source(store)
        primary = stack.enter_context(connect(url, store.identity(), settings))
        hello = patience.call(primary.hello)
        survey = stack.enter_context(Survey(serverdir, store, settings, context, mirrors=source.based_on < 0))
        first = survey.go_on_from(primary)
        survey.read(primary, first, hello.serial, patience)
        found = Forecast(str(serverdir), source.seed_kind, "replica", history_bytes=survey.size)
        found.note_serials(first, hello.serial)
        survey.weigh(found, LocalFiles(settings.search, linked=settings.linked), primary, patience)
        return found


class _Forecaster:
    """What looks at one way after the other."""

    def __init__(
        self, serverdir: Serverdir, url: str | None, settings: Settings, context: Context, patience: Patience
    ) -> None:
        self._serverdir = serverdir
        self._url = url
        self._settings = settings
        self._context = context
        self._patience = patience
        self._role = "standalone" if url is None else "replica"

    def of_changelog(self, more: tuple[Path, ...]) -> Forecast:
        """Look at the primary's history.

        more: folders to look for files in, besides those of the settings.
        """
        local_files(self._serverdir, self._settings)
        local = LocalFiles((*self._settings.search, *more), linked=self._settings.linked)
        with self._opened(changelog.KIND) as (survey, primary, hello):
            assert primary is not None and hello is not None  # noqa: S101, PT018 - there is no other source
            first = survey.go_on_from(primary)
            survey.read(primary, first, hello.serial, self._patience)
            found = Forecast(str(self._serverdir), changelog.KIND, self._role, history_bytes=survey.size)
            found.note_serials(first, hello.serial)
            survey.weigh(found, local, primary, self._patience)
        return found

    def of_copy(self, root: Path) -> Forecast:
        """Look at the history of a serverdir."""
        origin = basecopy.Origin(root)
        basecopy.check_apart(self._serverdir, root, "--from-serverdir")
        local_files(self._serverdir, self._settings)
        local = LocalFiles(self._settings.search, own=root / FILES, linked=self._settings.linked)
        found = Forecast(str(self._serverdir), basecopy.KIND, self._role)
        with self._opened(basecopy.KIND, origin.uuid) as (survey, primary, hello):
            with _snapshot(origin, self._context) as rows:
                history = LocalHistory(rows, origin.uuid)
                first = survey.go_on_from(history)
                survey.read(history, first, history.serial, self._patience)
            self._add_changes(found, survey, primary, hello, first, history.serial)
            survey.weigh(found, local, primary, self._patience)
        return found

    def of_export(self, root: Path, *, mirrored: bool, instead: bool) -> Forecast:
        """Look at what an export of a serverdir needs.

        instead: whether it is made because the history cannot be used; then a copy may have been begun.
        """
        origin = basecopy.Origin(root)
        OwnDump(origin, "").check(self._serverdir)
        local_files(self._serverdir, self._settings)
        local = LocalFiles(self._settings.search, own=root / FILES, linked=self._settings.linked)
        found = Forecast(str(self._serverdir), EXPORT, self._role)
        kind = None if instead else EXPORT
        with self._opened(kind, origin.uuid, mirrors=mirrored) as (survey, primary, hello):
            first, last = 0, survey.seeded
            if last is None:
                with _snapshot(origin, self._context) as rows:
                    last = rows.last_serial()
                    survey.demand(demanded(rows, mirrored=mirrored))
            else:
                first = survey.go_on_from(primary)
            self._add_changes(found, survey, primary, hello, first, max(last, first - 1))
            survey.weigh(found, local, primary, self._patience)
        return found

    def of_dump(self, path: Path, serial: int | None, options: ToolOptions) -> Forecast:
        """Look at a dump, and at what the primary committed since."""
        dump = NamedDump(path, serial, followed=self._url is not None)
        dump.check(self._serverdir)
        find_tool(IMPORT_TOOL, f"cannot use --from-export {path}")
        local_files(self._serverdir, self._settings)
        found = Forecast(str(self._serverdir), EXPORT, self._role)
        left_out = set(options.skip_import_type) | ({"mirror"} if self._url else set())
        left_out |= {"root/pypi"} if options.no_root_pypi else set()
        with self._opened(EXPORT, mirrors=self._url is None) as (survey, primary, hello):
            if hello is not None and hello.serial < (serial or 0):
                raise dump.too_new(hello.serial)
            first, last = 0, survey.seeded
            if last is None:
                last = serial
                survey.add_dump(found, path, frozenset(left_out) | self._settings.skip_indexes)
            else:
                first = survey.go_on_from(primary)
            if last is not None:
                self._add_changes(found, survey, primary, hello, first, max(last, first - 1))
            local = LocalFiles((*self._settings.search, path), linked=self._settings.linked)
            survey.weigh(found, local, primary, self._patience)
        return found

    @contextmanager
    def _opened(
        self, kind: str | None, uuid: str = "", *, mirrors: bool = True
    ) -> Iterator[tuple[Survey, Primary | None, Hello | None]]:
        """Hold what a clone begins with: what an interrupted one left, and the primary.

        kind: of the clone, as in tables.source; None if one of another kind may have been begun.
        uuid: of the primary, where it is known.
        mirrors: whether files of mirrors are carried.
        """
        with ExitStack() as stack:
            store, known = stack.enter_context(_begun(self._serverdir))
            self._check_begun(store, known, kind)
            primary = hello = None
            if self._url is not None:
                primary = stack.enter_context(connect(self._url, known, self._settings))
                if uuid:
                    primary.expect(uuid)
                hello = first_contact(primary, self._patience, self._context, damaged=not mirrors)
            survey = Survey(self._serverdir, store, self._settings, self._context, mirrors=mirrors)
            yield stack.enter_context(survey), primary, hello

    def _check_begun(self, store: Store | None, known: Identity | None, kind: str | None) -> None:
        if known is None or store is None:
            return
        if kind is None or (kind == EXPORT and found_unusable(store)):
            # What leads to where the history cannot be used is begun anew as an export.
            kind = known.seed_kind
        check_begun(self._serverdir, known, kind, followed=self._url is not None)

    def _add_changes(
        self,
        found: Forecast,
        survey: Survey,
        primary: Primary | None,
        hello: Hello | None,
        first: int,
        last: int,
    ) -> None:
        """Add what the primary committed since.

        first: the first serial that is still to be written.
        last: the last one that is on this machine.
        """
        end = last if hello is None else max(hello.serial, last)
        found.note_serials(first, end)
        found.local_serials = max(0, last - first + 1)
        if primary is not None:
            before = survey.size
            survey.read(primary, max(first, last + 1), end, self._patience)
            found.history_bytes = survey.size - before


@contextmanager
def _snapshot(origin: basecopy.Origin, context: Context) -> Iterator[Rows]:
    """Hold the database of a serverdir, in a copy in TMPDIR that is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="replisync-") as folder:
        path = Path(folder) / "snapshot.sqlite"
        take_snapshot(origin.database, path, context.stop.check)
        with closing(Rows(path)) as rows:
            yield rows


@contextmanager
def _begun(serverdir: Serverdir) -> Iterator[tuple[Store | None, Identity | None]]:
    """Hold the database of an interrupted clone, and where its data comes from, if there was one.

    Raises TargetUnusable if the serverdir cannot be cloned into.
    """
    known = known_identity(serverdir)
    if known is not None:
        with open_database(serverdir) as store:
            store.check_version()
            yield store, known
        return
    if serverdir.remembered_storage() is None and serverdir.storage().name != SQLITE:
        with open_database(serverdir) as store:
            store.check_unused()
    yield None, None
