"""Let `devpi-server --requests-only` serve a standby that replisync keeps current.

devpi-server 6.0 to 6.20 looks for `xom.replica_thread` wherever a replica serves a mirror page, fetches a
missing file or shows its status, and devpi-web shows the status on every page; but with `--requests-only`
there is no such thread, and each of these requests ends in a 500. This devpi-server plugin puts an object in
its place that talks to the primary as the thread would, and takes the status from replisync's own tables.

It acts on a replica with `--requests-only` and without a replica thread. In any other mode it leaves the
server alone. devpi-server is the host here: it, and nothing that only replisync needs, is imported on demand.
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

# A page of devpi-web asks for a dozen status fields; one look at the tables serves all requests of a second.
_FRESH_SECONDS: Final = 1.0
# PostgreSQL writes each query of a missing table into its log, so a look that failed is not repeated at once.
_FAILED_SECONDS: Final = 10.0
# devpi-web shows ten errors; /+status shows all that we read.
_MOST_FAULTS: Final = 100

_CONTACT: Final = "SELECT contacted_at, primary_serial, in_sync_at FROM replisync_contact WHERE id = 1"
_TIMELINE: Final = "SELECT serial, committed_at FROM replisync_timeline ORDER BY serial DESC LIMIT 1"
_FAULTS: Final = (
    "SELECT relpath, serial, reason, tries, next_try FROM replisync_faults "  # noqa: S608 - a constant
    f"ORDER BY relpath LIMIT {_MOST_FAULTS}"
)

# What devpi-server says of an event queue that stands still, as a standby's does until it is promoted.
_EVENT_MESSAGES: Final = ("The event processing ", "No changes processed by plugins ")
# Fatal to devpi-server, and then on every page of devpi-web; a file that an upstream has withdrawn is not.
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
        # The key takes seconds of a CPU. Derived for the first mirror page, it would hold devpi's event loop
        # beyond the timeout of that page's request; a replica thread derives it at its start too.
        config.get_replica_secret()


def _tell_devpi_web(config: Any, standby: HotStandby) -> None:
    """Make devpi-web, where it is, ask us for what it says of this server's state."""
    if config.pluginmanager.has_plugin("devpi-web"):
        from devpi_web.config import get_pluginmanager  # type: ignore[import-untyped,unused-ignore]

        get_pluginmanager(config).register(WebMessages(standby))


@dataclass(frozen=True)
class Status:
    """What replisync's tables said: times in seconds since the epoch, None for what they did not say."""

    known: bool = False
    contacted_at: float | None = None
    primary_serial: int | None = None
    primary_serial_at: float | None = None
    in_sync_at: float | None = None
    faults: Mapping[str, dict[str, object]] = field(default_factory=dict)


class StatusReader:
    """Read replisync's tables through devpi's own storage, at most once a second, and never fail.

    Each look opens a read-only connection of its own and closes it: a failed query would abort the
    transaction of the request on PostgreSQL, and a kept one would pin an old state of the database.
    """

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect = connect
        self._lock = threading.Lock()
        self._status = Status()
        self._good_until = float("-inf")

    def current(self) -> Status:
        """Return the status of the last second; a request never waits for another one's look."""
        if time.monotonic() >= self._good_until and self._lock.acquire(blocking=False):
            try:
                self._look()
            finally:
                self._lock.release()
        return self._status

    def _look(self) -> None:
        """Replace the status, or keep the last one, whose times grow old and so tell the story."""
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
    # The primary's last serial is as old as our commit of it; one that we lack was news at the last contact.
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
    """Run a query whose table another version of replisync may have made otherwise."""
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
        """Leave the fault to replisync, which finds the file that a request has fetched at its next try."""


class HotStandby:
    """Stand in for devpi's `ReplicaThread` in a process that serves requests only.

    It is no thread, and replicates nothing. It offers what the views of devpi-server and devpi-web read;
    names with "master" are those of devpi-server before 6.13.
    """

    H_REPLICA_FILEREPL = "X-DEVPI-REPLICA-FILEREPL"
    H_REPLICA_UUID = "X-DEVPI-REPLICA-UUID"

    def __init__(self, xom: Xom) -> None:
        self.xom = xom
        # `keyfs.get_connection` adapts storages to writing and came later; reading needs no adapter.
        self._status = StatusReader(lambda: xom.keyfs._storage.get_connection())
        self.shared_data = SimpleNamespace(errors=Faults(self._status))
        self._started_at = time.time()

    @cached_property
    def auth_serializer(self) -> Any:
        """The signer of the token that the primary knows a replica by."""
        from devpi_server.replica import get_auth_serializer

        return get_auth_serializer(self.xom.config)  # type: ignore[no-untyped-call]

    @cached_property
    def http(self) -> Any:
        """The client for requests to the primary; older versions (6.15 is one) have none and ask for none."""
        from devpi_server.replica import ReplicaHTTPClient

        return ReplicaHTTPClient(self.xom)

    @property
    def started_at(self) -> float | None:
        """When this process started, or None where replisync has no tables.

        devpi misses a contact to the primary from then on. Without our tables another writer keeps this
        serverdir, such as devpi's own replica, and we cannot tell how it fares.
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

        It stands for files too, since replisync commits a serial after its files. Files that could not be had
        are not counted here but listed as errors: devpi would call a standby with one of them hours behind
        whenever it is a serial behind.
        """
        return self._status.current().in_sync_at

    master_contacted_at = primary_contacted_at
    update_from_primary_at = primary_contacted_at
    update_from_master_at = primary_contacted_at
    replica_metadata_in_sync_at = replica_in_sync_at
    replica_files_in_sync_at = replica_in_sync_at
    replica_init_queue_finished_at = replica_in_sync_at

    def wait(self, error_queue: bool = False) -> None:
        """Return at once, as nothing is queued in this process."""


class WebMessages:
    """A plugin of devpi-web that keeps from its status messages what is true of a standby, and adds ours."""

    def __init__(self, standby: HotStandby) -> None:
        self._standby = standby

    @_web_hook(hookwrapper=True)
    def devpiweb_get_status_info(self, request: Any) -> Generator[None, Any, None]:  # noqa: ARG002 - the hook's
        """Replace the messages of all plugins, of which each gives a list."""
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
    """Return whether a message of devpi's holds for a standby too."""
    text = message["msg"]
    return text != _FAULTS_MESSAGE and not text.startswith(_EVENT_MESSAGES)
