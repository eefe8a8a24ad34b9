"""Let `devpi-server --requests-only` serve a standby that replisync keeps current.

devpi-server 6.0 to 6.20 uses `xom.replica_thread` when a replica serves a mirror page, fetches a missing file
or shows its status, and devpi-web shows the status on every page; but with `--requests-only` there is no such
thread, and each of these requests ends in a 500. This devpi-server plugin puts an object in its place that
talks to the primary as the thread would, and reads the status from replisync's own tables.

It acts on a replica with `--requests-only` and without a replica thread. In any other mode it does nothing.
devpi-server is the host here: import it, and nothing that only replisync needs, on demand.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from types import SimpleNamespace
from typing import Any, Final

from pluggy import HookimplMarker

_server_hook = HookimplMarker("devpiserver")
_web_hook = HookimplMarker("devpiweb")
_log = logging.getLogger(__name__)

# A page of devpi-web reads a dozen status fields; one query of the tables serves all requests of a second.
_FRESH_SECONDS: Final = 1.0
# PostgreSQL logs each query of a missing table, so a failed query is not repeated at once.
_FAILED_SECONDS: Final = 10.0
# devpi-web shows ten errors; /+status shows all that we read.
_MOST_FAULTS: Final = 100

_CONTACT: Final = "SELECT contacted_at, primary_serial, in_sync_at FROM replisync_contact WHERE id = 1"
_TIMELINE: Final = "SELECT serial, committed_at FROM replisync_timeline ORDER BY serial DESC LIMIT 1"
_FAULTS: Final = (
    "SELECT relpath, serial, reason, tries, next_try FROM replisync_faults "  # noqa: S608 - a constant
    f"ORDER BY relpath LIMIT {_MOST_FAULTS}"
)

# devpi-server's messages about an idle event queue; a standby's is idle until it is promoted.
_EVENT_MESSAGES: Final = ("The event processing ", "No changes processed by plugins ")
# devpi-server calls this fatal, and devpi-web shows it on every page; a file withdrawn upstream is not fatal.
_FAULTS_MESSAGE: Final = "Unhandled replication errors"

# devpi_server ships no types, and its objects differ between the versions that we serve.
Xom = Any
Connection = Any
Row = Any
Message = dict[str, str]


@_server_hook(tryfirst=True)
def devpiserver_pyramid_configure(config: Any, pyramid_config: Any) -> None:
    """Give a requests-only replica its stand-in for the replica thread."""
    if not getattr(config, "requests_only", False):
        return
    xom = pyramid_config.registry["xom"]
    if xom.is_replica() and getattr(xom, "replica_thread", None) is None:
        xom.replica_thread = standby = HotStandby(xom)
        _tell_devpi_web(config, standby)
        # The key takes seconds of CPU. Deriving it for the first mirror page would block devpi's event loop
        # beyond the timeout of that page's request; a replica thread derives it at its start too.
        config.get_replica_secret()


def _tell_devpi_web(config: Any, standby: HotStandby) -> None:
    """Make devpi-web, if installed, ask us for this server's state."""
    if config.pluginmanager.has_plugin("devpi-web"):
        from devpi_web.config import get_pluginmanager

        get_pluginmanager(config).register(WebMessages(standby))


@dataclass(frozen=True)
class Status:
    """The content of replisync's tables: times in seconds since the epoch, None for unknown values."""

    known: bool = False
    contacted_at: float | None = None
    primary_serial: int | None = None
    primary_serial_at: float | None = None
    in_sync_at: float | None = None
    faults: Mapping[str, dict[str, object]] = field(default_factory=dict)


class StatusReader:
    """Read replisync's tables through devpi's own storage, at most once a second; never fail.

    Each read opens its own read-only connection and closes it: a failed query would abort the transaction of
    the request on PostgreSQL, and an open one would pin an old state of the database.
    """

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect = connect
        self._lock = threading.Lock()
        self._status = Status()
        self._good_until = float("-inf")

    def current(self) -> Status:
        """Return the status of the last second; a request never waits for another one's query."""
        if time.monotonic() >= self._good_until and self._lock.acquire(blocking=False):
            try:
                self._look()
            finally:
                self._lock.release()
        return self._status

    def _look(self) -> None:
        """Replace the status, or keep the last one: its ageing times then show that something is wrong."""
        good_for = _FRESH_SECONDS
        try:
            with self._connect() as connection:
                self._status = _read_status(connection)
        except Exception as why:  # noqa: BLE001 - no table, other columns, no database: a status page shows it
            _log.debug("replisync's tables cannot be read: %s", why)
            good_for = _FAILED_SECONDS
        self._good_until = time.monotonic() + good_for


def _read_status(connection: Connection) -> Status:
    contacts = _rows(connection, _CONTACT)
    contacted_at, primary_serial, in_sync_at = contacts[0] if contacts else (None, None, None)
    contact = _epoch(contacted_at)
    commits = _rows_if_any(connection, _TIMELINE)
    # The primary's last serial is as old as our commit of it; one that we lack was new at the last contact.
    have_it = bool(commits) and primary_serial is not None and commits[0][0] >= primary_serial
    return Status(
        known=True,
        contacted_at=contact,
        primary_serial=primary_serial,
        primary_serial_at=_epoch(commits[0][1]) if have_it else contact,
        in_sync_at=_epoch(in_sync_at),
        faults={row[0]: _fault(*row) for row in _rows_if_any(connection, _FAULTS)},
    )


def _fault(relpath: str, serial: int, reason: str, tries: int, next_try: str | None) -> dict[str, object]:
    """Return a fault in the form of devpi's replication errors, which are relpath and message."""
    message = f"{reason} (serial {serial}, tries: {tries}, next: {next_try or 'none'})"
    return {
        "relpath": relpath,
        "message": message,
        "serial": serial,
        "tries": tries,
        "next-try": next_try,
    }


def _rows(connection: Connection, query: str) -> list[Row]:
    """Run a query without parameters on a connection of either backend, outside of any transaction."""
    run = getattr(connection._sqlconn, "run", None)  # pg8000.native; its wrapper has no fetchall
    return list(connection.fetchall(query) if run is None else run(query))


def _rows_if_any(connection: Connection, query: str) -> list[Row]:
    """Run a query whose table another version of replisync may have created with other columns."""
    try:
        return _rows(connection, query)
    except Exception as why:  # noqa: BLE001 - the drivers of two backends share no base class
        _log.debug("a table of replisync cannot be read: %s", why)
        return []


def _epoch(text: str | None) -> float | None:
    if text is None:
        return None
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


class Faults:
    """Show replisync's faults as devpi's `ReplicationErrors`."""

    def __init__(self, status: StatusReader) -> None:
        self._status = status

    @property
    def errors(self) -> dict[str, dict[str, object]]:
        """The faults by relpath."""
        return dict(self._status.current().faults)

    def remove(self, entry: Any) -> None:
        """Do nothing: replisync finds a file that a request has fetched at its next try."""


class HotStandby:
    """Stand in for devpi's `ReplicaThread` in a process that serves requests only.

    It is not a thread, and replicates nothing. It has the attributes that views of devpi-server and devpi-web
    read; names with "master" are those of devpi-server before 6.13.
    """

    H_REPLICA_FILEREPL = "X-DEVPI-REPLICA-FILEREPL"
    H_REPLICA_UUID = "X-DEVPI-REPLICA-UUID"

    def __init__(self, xom: Xom) -> None:
        self.xom = xom
        # `keyfs.get_connection` adapts storages for writing, and is newer; reading needs no adapter.
        self._status = StatusReader(lambda: xom.keyfs._storage.get_connection())
        self.shared_data = SimpleNamespace(errors=Faults(self._status))
        self._started_at = time.time()

    @cached_property
    def auth_serializer(self) -> Any:
        """The signer of the token by which the primary knows a replica."""
        from devpi_server.replica import get_auth_serializer

        return get_auth_serializer(self.xom.config)

    @cached_property
    def http(self) -> Any:
        """The client for requests to the primary; None in older versions (such as 6.15), which use none."""
        from devpi_server.replica import ReplicaHTTPClient

        return ReplicaHTTPClient(self.xom)

    @property
    def started_at(self) -> float | None:
        """The start of this process; None if replisync has no tables.

        devpi reports a missing contact to the primary from then on. Without our tables another writer keeps
        this serverdir, such as devpi's own replica, and its state is unknown to us.
        """
        return self._started_at if self._status.current().known else None

    def get_primary_serial(self) -> int | None:
        """Return the primary's serial at the last contact."""
        return self._status.current().primary_serial

    def get_primary_serial_timestamp(self) -> float | None:
        """Return when the primary's serial became known."""
        return self._status.current().primary_serial_at

    get_master_serial = get_primary_serial
    get_master_serial_timestamp = get_primary_serial_timestamp

    @property
    def primary_contacted_at(self) -> float | None:
        """When the primary last answered replisync."""
        return self._status.current().contacted_at

    @property
    def replica_in_sync_at(self) -> float | None:
        """When our serial last equalled the primary's.

        It covers files too, since replisync commits a serial after its files. Files that could not be fetched
        are not counted here but listed as errors: otherwise devpi would report a standby with such a file as
        hours behind whenever it is one serial behind.
        """
        return self._status.current().in_sync_at

    master_contacted_at = primary_contacted_at
    update_from_primary_at = primary_contacted_at
    update_from_master_at = primary_contacted_at
    replica_metadata_in_sync_at = replica_in_sync_at
    replica_files_in_sync_at = replica_in_sync_at
    replica_init_queue_finished_at = replica_in_sync_at

    def wait(self, error_queue: bool = False) -> None:
        """Return at once: this process has no queue."""


class WebMessages:
    """A devpi-web plugin that keeps those status messages that are true of a standby, and adds ours."""

    def __init__(self, standby: HotStandby) -> None:
        self._standby = standby

    @_web_hook(hookwrapper=True)
    def devpiweb_get_status_info(self, request: Any) -> Generator[None, Any, None]:  # noqa: ARG002 - the hook's
        """Replace the messages of all plugins, each of which returns a list."""
        outcome = yield
        messages = [message for found in outcome.get_result() for message in found if _holds(message)]
        outcome.force_result([messages, self._faults()])

    def _faults(self) -> list[Message]:
        number = len(self._standby.shared_data.errors.errors)
        if not number:
            return []
        more = " or more" if number == _MOST_FAULTS else ""
        return [{"status": "warn", "msg": f"Files that the primary did not deliver: {number}{more}"}]


def _holds(message: Message) -> bool:
    """Return whether a message of devpi's is true of a standby too."""
    text = message["msg"]
    return text != _FAULTS_MESSAGE and not text.startswith(_EVENT_MESSAGES)
