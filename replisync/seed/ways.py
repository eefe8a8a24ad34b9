"""Which way a target is seeded: the exact ones wherever they can be had.

    sources                     auto                            changelog       export
    --primary-url               changelog                       changelog       (refused)
    --from-serverdir            base copy, else an export       base copy       an export, made here
    --from-export               the dump                        (refused)       the dump
    ... with --primary-url      the dump                        changelog       the dump

"Else" is where the history has a hole, or cannot be decoded. That shows when it is read, so that is when it
is decided. A dump that is named is used: somebody made it because the history cannot be had, or is too long
for the link.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from replisync.errors import Hint, PrimaryDamaged, UsageError
from replisync.replication import Context
from replisync.seed.basecopy import Origin, check_apart
from replisync.seed.basecopy import copy as copy_serverdir
from replisync.seed.changelog import clone as clone_changelog
from replisync.seed.export.dumps import NamedDump, OwnDump
from replisync.seed.export.export import copy_dump
from replisync.seed.export.tools import ToolOptions
from replisync.seed.target import Cloned, begun_export
from replisync.session import Settings
from replisync.standby import Serverdir, warn_of_readers

_OTHER_SOURCES = (
    "such a history is not available over the changelog: run the same command with --from-serverdir if the "
    "primary's serverdir is on this machine, or with --from-export and --at-serial for a dump of devpi-export"
)
_DUMP_INSTEAD = "without `--seed changelog` the same command imports the dump"
_EXPORT_INSTEAD = "with `--seed export`, or without --seed, the same command seeds from an export"


class Seed(StrEnum):
    """What `--seed` asks for."""

    AUTO = "auto"
    CHANGELOG = "changelog"
    EXPORT = "export"


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the data may come from; what is None was not given.

    primary_url: the primary to follow.
    serverdir: its serverdir on this machine, or that of one of its replicas.
    dump: a dump of devpi-export.
    at_serial: the primary's serial when the dump was made.
    """

    primary_url: str | None = None
    serverdir: Path | None = None
    dump: Path | None = None
    at_serial: int | None = None


@dataclass(frozen=True, slots=True)
class Seeding:
    """What is asked of a clone: from what, in which way, and what devpi's tools are told."""

    sources: Sources
    seed: Seed
    options: ToolOptions

    def check(self) -> None:
        """Make sure that these sources can be used in this way.

        Raises UsageError.
        """
        sources, seed = self.sources, self.seed
        if sources.serverdir is not None and sources.dump is not None:
            raise UsageError("cannot clone", "--from-export and --from-serverdir exclude each other")
        if sources.dump is None and sources.at_serial is not None:
            raise UsageError("cannot clone", "--at-serial goes with --from-export")
        self._check_options()
        if sources.primary_url is None and sources.serverdir is None:
            if sources.dump is None:
                raise UsageError(
                    "cannot clone",
                    "no source is given: give --primary-url, --from-serverdir or --from-export",
                )
            if seed is Seed.CHANGELOG:
                raise UsageError(
                    "cannot clone with --seed changelog", "a dump has no history: give --primary-url too"
                )
        if seed is Seed.EXPORT and sources.serverdir is None and sources.dump is None:
            raise UsageError("cannot clone with --seed export", "it needs --from-serverdir or --from-export")

    def _check_options(self) -> None:
        """Make sure that what is to be passed on to devpi's tools gets there, and does no harm."""
        sources, seed, options = self.sources, self.seed, self.options
        imported = seed is Seed.EXPORT or (sources.dump is not None and seed is Seed.AUTO)
        if options != ToolOptions() and not imported:
            raise UsageError(
                "cannot clone",
                "the options of devpi-export and devpi-import go with --from-export or --seed export",
                hint="files of mirrors are left out by --file-replication-skip-indexes mirror"
                if options.include_mirrored_files is False
                else "",
            )
        if sources.primary_url is not None:
            options.check_followed()
        if options.include_mirrored_files is not None and sources.dump is not None:
            raise UsageError(
                "cannot use --include-mirrored-files", "it is for devpi-export, which made the dump already"
            )


def clone(serverdir: Serverdir, seeding: Seeding, settings: Settings, context: Context) -> Cloned:
    """Make a new target, or go on with one that was interrupted, in the way that was asked for.

    Raises UsageError if the sources cannot be used so, PrimaryDamaged if the history cannot be used
    and there is no other way, and what the ways do.
    """
    seeding.check()
    sources = seeding.sources
    warn_of_readers(serverdir, context.log)
    if sources.serverdir is not None:
        return _from_serverdir(serverdir, seeding, settings, context)
    if sources.dump is not None and seeding.seed is not Seed.CHANGELOG:
        named = NamedDump(sources.dump, sources.at_serial, followed=sources.primary_url is not None)
        return copy_dump(serverdir, named, sources.primary_url, seeding.options, settings, context)
    assert sources.primary_url is not None  # noqa: S101 - `check` saw to it
    if sources.dump is not None:
        NamedDump(sources.dump, sources.at_serial, followed=False).check(serverdir)
        settings = replace(settings, search=(*settings.search, sources.dump))
    with _hinting(_OTHER_SOURCES if sources.dump is None else _DUMP_INSTEAD):
        return clone_changelog(serverdir, sources.primary_url, settings, context)


def _from_serverdir(serverdir: Serverdir, seeding: Seeding, settings: Settings, context: Context) -> Cloned:
    sources, seed, options = seeding.sources, seeding.seed, seeding.options
    assert sources.serverdir is not None  # noqa: S101 - the caller saw to it
    root, url = sources.serverdir, sources.primary_url

    def export(reason: str) -> Cloned:
        dump = OwnDump(Origin(root), reason, mirrored=options.include_mirrored_files is True)
        return copy_dump(serverdir, dump, url, options, settings, context)

    if seed is Seed.EXPORT:
        return export("--seed export was given")
    if seed is Seed.CHANGELOG:
        with _hinting(_EXPORT_INSTEAD):
            return copy_serverdir(serverdir, root, url, settings, context)
    check_apart(serverdir, root, "--from-serverdir")
    begun = begun_export(serverdir)
    if begun is not None:
        return export(begun)
    try:
        return copy_serverdir(serverdir, root, url, settings, context)
    except PrimaryDamaged as err:
        at = "" if err.serial is None else f" at serial {err.serial}"
        reason = f"the history cannot be used{at}: {err.why}"
        context.log.warning("seeding from an export", reason=reason)
        return export(reason)


@contextmanager
def _hinting(hint: str) -> Iterator[None]:
    """Tell those whose history cannot be used what else there is."""
    try:
        yield
    except PrimaryDamaged as err:
        err.hint = Hint("{}; {}", err.hint, hint)
        raise
