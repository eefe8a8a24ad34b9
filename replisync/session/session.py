"""One standby, put together: folder, lock, database, primary and pipeline.

Every command that writes opens the target through here, so that the same checks stand before each write.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

from replisync.changelog.ports import FileSource, History
from replisync.changelog.records import Divergence
from replisync.devpi.storage import POSTGRES
from replisync.devpi.tokens import TokenSigner
from replisync.devpi.wire import Limits
from replisync.errors import ReplisyncError, Stopped, UsageError, WrongHistory
from replisync.primary.client import Primary
from replisync.primary.secretfiles import replication_key
from replisync.primary.tls import tls_context
from replisync.replication.fetch import Fetcher
from replisync.replication.pipeline import Pipeline, Rewrite
from replisync.replication.wanted import Tally
from replisync.session.settings import Context, Settings
from replisync.standby.database.store import Store
from replisync.standby.files.local import LocalFiles
from replisync.standby.opening import target_files
from replisync.standby.serverdir import Serverdir
from replisync.system import clock


def connection(settings: Settings, url: str, uuid: str, expected: str, *, secret: bool = True) -> Primary:
    """Return the primary at a URL, with which nothing is connected yet.

    uuid: the one that we show.
    expected: the one that the primary must have; "" for any.
    secret: whether its changelog is to be read.
    Raises UsageError where the secret, or a file for TLS, cannot be used.
    """
    return Primary(
        url,
        signer(settings) if secret else None,
        uuid=uuid,
        expected=expected,
        limits=Limits(settings.entry_bytes),
        connections=settings.threads,
        silence=settings.silence,
        context=tls_context(settings.tls),
    )


def signer(settings: Settings) -> TokenSigner:
    """Return what signs our tokens.

    Raises UsageError where no secret can be had.
    """
    key = replication_key(settings.secretfile, settings.keyfile, settings.cost)
    return TokenSigner(key, time.time, time.monotonic)


def local_files(serverdir: Serverdir, settings: Settings) -> LocalFiles | None:
    """Return where files may lie on this machine; None where the operator names no folder.

    Raises UsageError where a folder is none to look in, or files are to be linked into a database.
    """
    if settings.hard_links and serverdir.storage().name == POSTGRES:
        raise UsageError("cannot use --hard-links", "with pg8000 the files are rows of the database")
    if not (settings.search or settings.linked):
        return None
    return LocalFiles(settings.search, link=settings.hard_links, linked=settings.linked)


def pipeline(
    serverdir: Serverdir,
    store: Store,
    history: History,
    settings: Settings,
    context: Context,
    *,
    files: FileSource,
    local: LocalFiles | None,
    replace: bool = False,
    tally: Tally | None = None,
    rewrite: Rewrite | None = None,
) -> Pipeline:
    """Put the loop together.

    files: where files come from that `local` does not have.
    replace: see fetch.Fetcher.
    tally, rewrite: see pipeline.Pipeline.
    """
    target = target_files(serverdir, store, settings.threads, shared=not replace)
    fetcher = Fetcher(
        files, target, threads=settings.threads, stop=context.stop, replace=replace, local=local
    )
    return Pipeline(
        history,
        store,
        target,
        fetcher,
        stop=context.stop,
        log=context.log,
        progress=context.progress,
        limits=settings.limits,
        skip_indexes=settings.skip_indexes,
        retain=settings.retention_days > 0,
        tally=tally,
        rewrite=rewrite,
    )


class Tallied(Protocol):
    """Who counts what it does."""

    @property
    def tally(self) -> Tally: ...


@contextmanager
def recorded(store: Store, command: str, work: Tallied) -> Iterator[None]:
    """Remember in the store that a command ran, and how it ended."""
    number = store.begin_run(command, clock.now())
    started = time.monotonic()

    def end(outcome: str, exit_code: int, error: str | None) -> None:
        store.end_run(
            number,
            finished=clock.now(),
            seconds=round(time.monotonic() - started, 3),
            files=work.tally.files,
            bytes=work.tally.bytes,
            local=work.tally.local,
            outcome=outcome,
            exit_code=exit_code,
            error=error,
        )

    try:
        yield
    except Stopped as err:
        # The record must not hide what is on its way, here and below.
        with suppress(ReplisyncError):
            end("stopped", err.exit_code, None)
        raise
    except BaseException as err:
        with suppress(ReplisyncError):
            if isinstance(err, WrongHistory):
                _record_divergence(store, err)
            end(
                "diverged" if isinstance(err, WrongHistory) else "failed",
                getattr(err, "exit_code", 1),
                str(err) or type(err).__name__,
            )
        raise
    end("ok", 0, None)


def _record_divergence(store: Store, err: WrongHistory) -> None:
    fork = err.details.get("fork_serial")
    known = fork if isinstance(fork, int) else None
    store.put_divergence(Divergence(clock.now(), store.last_serial(), known, err.why))
