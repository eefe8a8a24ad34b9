"""Connections to PostgreSQL, as devpi_postgresql makes them, and the meaning of the server's errors.

pg8000 is not thread-safe: SQLAlchemy's pool lets each connection belong to one thread at a time.
"""

import logging
import socket
import ssl
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pg8000.dbapi
import pg8000.native
from scramp import ScramException
from sqlalchemy import Connection, Engine, create_engine, event, exc

from replisync.devpi.storage import Storage
from replisync.errors import ForeignWriter, LocalFailure, TargetUnusable, UsageError

# A commit, or the wait for another writer's lock, may take long; a dead network must not block us
# forever.
_SILENCE_SECONDS = 300.0

# For a network that swallows packets, like a firewall that forgot an idle connection: when to probe an idle
# connection first, then how often, how many probes may fail, and how long data may stay unconfirmed.
_IDLE_SECONDS, _PROBE_SECONDS, _PROBES = 60, 10, 3
_UNCONFIRMED_SECONDS = 60

# devpi_postgresql's own: `Connection._lock`.
DEVPI_LOCK = "SELECT pg_advisory_xact_lock(1)"

# The size of a COPY message. Small rows are combined into such pieces.
COPY_BYTES = 256 * 1024

_SSL_KEYS = ("ssl_check_hostname", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile")

_POOL_NAME = "replisync"

_SIGNATURE = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_END = b"\xff\xff"

# SQLSTATE, or its beginning: the hint.
_HINTS = {
    "28": "give the right user and password: --storage pg8000:password=.., or PGPASSWORD",
    "3D000": "create the database, empty and owned by the user, then run the command again",
    "42501": "make the user the owner of the database's tables, or of an empty database",
    "3F000": "give the user a schema to create tables in",
    "53100": "the database's disk is full: make room, then run the command again",
    "53300": "raise max_connections of the server, or use fewer threads",
    "25006": "the server is read-only: give the address of a writable one",
    "57P": "start the database's server, then run the command again: it resumes",
    "08": "check that the database's server runs, then run the command again",
}
_GONE = ("57P01", "57P02", "57P03", "57P05", "08")

# Settings of the session; those that a server does not know are left out. Not as options of the start, which
# poolers refuse.
_SET = """
    SELECT set_config(name, value, false)
    FROM unnest(CAST(%s AS text[]), CAST(%s AS text[])) AS wanted(name, value)
    JOIN pg_settings USING (name)"""
_UNREACHABLE_HINT = "check that the database's server runs and is reachable, then run the command again"


def make_engine(
    storage: Storage, *, connections: int, write: bool, prepare: Any = None, autocommit: bool = False
) -> Engine:
    """Return an engine with a limited number of connections, without connecting.

    prepare: called with each new connection of pg8000.
    autocommit: whether each statement is its own transaction.
    """

    def make() -> pg8000.dbapi.Connection:
        connection = connect(storage, write=write)
        try:
            if prepare is not None:
                prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    engine = create_engine(
        "postgresql+pg8000://",
        creator=make,
        pool_size=connections,
        max_overflow=0,
        pool_timeout=None,
        pool_logging_name=_POOL_NAME,
        **({"isolation_level": "AUTOCOMMIT"} if autocommit else {}),
    )
    # A lost connection cannot be closed in order: ignore that, the error itself is raised.
    logging.getLogger(f"sqlalchemy.pool.impl.QueuePool.{_POOL_NAME}").setLevel(logging.CRITICAL)

    @event.listens_for(engine, "handle_error")
    def note_loss(context: Any) -> None:
        # pg8000's dialect recognises a broken socket, but not a server that announces its end.
        if sqlstate(context.original_exception).startswith(_GONE):
            context.is_disconnect = True

    return engine


def connect(storage: Storage, *, write: bool) -> pg8000.dbapi.Connection:
    """Return a new connection.

    Raises the errors of pg8000, and OSError.
    """
    options = _connect_options(storage)
    server = None if options["unix_sock"] else _server(options)
    try:
        connection = pg8000.dbapi.connect(**options, sock=server)
    except BaseException as err:
        if server is not None:
            server.close()
        if isinstance(err, ScramException):
            raise pg8000.dbapi.InterfaceError(f"authentication: {err}") from None
        raise
    try:
        wanted = _session_settings(write=write)
        connection.cursor().execute(_SET, (text_array(wanted), text_array(wanted.values())))
        connection.commit()
    except BaseException:
        connection.close()
        raise
    return connection


def _server(options: dict[str, Any]) -> socket.socket:
    """Return a connection to the server of some options.

    pg8000 writes a message with many parameters in pieces. Without TCP_NODELAY the last piece waits for the
    server's confirmation of the previous one, which takes up to 40 ms.
    Raises OSError.
    """
    server = socket.create_connection((options["host"], options["port"]), options["timeout"])
    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", _IDLE_SECONDS),
        ("TCP_KEEPINTVL", _PROBE_SECONDS),
        ("TCP_KEEPCNT", _PROBES),
        ("TCP_USER_TIMEOUT", _UNCONFIRMED_SECONDS * 1000),
    ):
        if hasattr(socket, name):
            server.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return server


def _session_settings(*, write: bool) -> dict[str, str]:
    return {
        # Durable for PostgreSQL must mean durable for us: another server may have `off` as its default.
        "synchronous_commit": "on",
        "standard_conforming_strings": "on",
        "default_transaction_read_only": "off" if write else "on",
        # The server ends a session, and its lock, as soon as we notice a lost connection.
        "tcp_keepalives_idle": str(_IDLE_SECONDS),
        "tcp_keepalives_interval": str(_PROBE_SECONDS),
        "tcp_keepalives_count": str(_PROBES),
        "tcp_user_timeout": str(_UNCONFIRMED_SECONDS * 1000),
    }


def _connect_options(storage: Storage) -> dict[str, Any]:
    settings = storage.settings
    return {
        "user": settings.get("user", "devpi"),
        "database": settings.get("database", "devpi"),
        "host": settings.get("host", "localhost"),
        "port": int(settings.get("port", "5432")),
        "unix_sock": settings.get("unix_sock"),
        # Without one, pg8000 crashes if a server asks for it.
        "password": storage.password or "",
        "ssl_context": _ssl_context(settings),
        "timeout": _SILENCE_SECONDS,
        "application_name": "replisync",
    }


def _ssl_context(settings: Any) -> ssl.SSLContext | None:
    """Return the SSL context for devpi_postgresql's `ssl_` settings; None lets the server decide."""
    if not any(key in settings for key in _SSL_KEYS):
        return None
    try:
        context = ssl.create_default_context(cafile=settings.get("ssl_ca_certs"))
        if "ssl_certfile" in settings:
            context.load_cert_chain(settings["ssl_certfile"], keyfile=settings.get("ssl_keyfile"))
    except OSError as err:
        raise UsageError(
            "cannot read --storage", f"the files of ssl_ settings: {err.strerror or err}"
        ) from err
    if settings.get("ssl_check_hostname", "yes").lower() in ("no", "false", "off", "0"):
        context.check_hostname = False
    return context


@contextmanager
def translated(storage: Storage) -> Iterator[None]:
    """Translate errors of drivers and servers into ours."""
    try:
        yield
    except exc.DBAPIError as err:
        raise _local(storage, err.orig) from err
    except (pg8000.dbapi.Error, OSError) as err:
        raise _local(storage, err) from err


def _local(storage: Storage, err: BaseException | None) -> Exception:
    attempted = f"cannot use the target's database {storage}"
    state = sqlstate(err)
    if not state:
        cause = (err.__cause__ if err is not None else None) or err
        why = getattr(cause, "strerror", None) or str(cause)
        hint = _HINTS["28"] if "assword" in why else _UNREACHABLE_HINT
        return LocalFailure(attempted, why, hint=hint)
    why = str(err.args[0].get("M", state)) if err is not None else state
    if state.startswith("23"):
        return ForeignWriter("cannot commit to the target's database", why)
    if state.startswith(("22", "54")):
        return TargetUnusable(attempted, why, hint="PostgreSQL cannot hold this; use the storage sqlite")
    hint = next((text for start, text in _HINTS.items() if state.startswith(start)), "")
    return LocalFailure(attempted, why, hint=hint)


def sqlstate(err: BaseException | None) -> str:
    """Return the server's code for an error of pg8000; "" if it has none."""
    if isinstance(err, pg8000.dbapi.Error) and err.args and isinstance(err.args[0], dict):
        return str(err.args[0].get("C", ""))
    return ""


# Bulk.


def copy_in(connection: Connection, statement: str, pieces: Iterable[bytes]) -> None:
    """Run a `COPY .. FROM STDIN` in the connection's transaction, without all of it in memory.

    After any error, nothing of it is committed.
    """
    cursor: Any = connection.connection.cursor()
    try:
        cursor.execute(statement, stream=pieces)
    except pg8000.dbapi.DatabaseError as err:
        if sqlstate(err).startswith(_GONE):
            connection.invalidate(err)
        raise
    except BaseException as err:
        # Within a COPY, pg8000 cannot return to a usable connection.
        connection.invalidate(err)
        raise


def copy_rows(rows: Iterable[tuple[bytes, ...]]) -> Iterator[bytes]:
    """Yield rows of binary values in the binary format of COPY, in pieces of a suitable size."""
    piece = bytearray(_SIGNATURE)
    for row in rows:
        piece += struct.pack("!h", len(row))
        for value in row:
            piece += struct.pack("!i", len(value))
            piece += value
            if len(piece) >= COPY_BYTES:
                yield bytes(piece)
                piece.clear()
    yield bytes(piece) + _END


def copy_file(path: str, size: int, blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the row of a file for devpi's table `files`, as its bytes arrive."""
    name = path.encode()
    length = struct.pack("!i", size)
    yield _SIGNATURE + struct.pack("!hi", 3, len(name)) + name + struct.pack("!i", 4) + length + length
    yield from blocks
    yield _END


def literal(value: str) -> str:
    """Return a text as an SQL literal."""
    return str(pg8000.native.literal(value))


def text_array(values: Iterable[str | None]) -> str:
    """Return the text of an array of texts."""
    return "{" + ",".join("NULL" if value is None else f'"{_escaped(value)}"' for value in values) + "}"


def int_array(values: Iterable[int | None]) -> str:
    """Return the text of an array of integers."""
    return "{" + ",".join("NULL" if value is None else str(value) for value in values) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"') if "\\" in value or '"' in value else value
