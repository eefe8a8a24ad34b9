"""devpi-server's `--storage`: the database of a target, in devpi-server's format.

The password is part of that format. It is separate here, so that nothing that is shown, logged or stored
contains it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from replisync.errors import UsageError

SQLITE = "sqlite"
POSTGRES = "pg8000"

# The options of devpi_postgresql's `Storage`.
_POSTGRES_KEYS = frozenset(
    {
        "host",
        "port",
        "user",
        "database",
        "unix_sock",
        "ssl_check_hostname",
        "ssl_ca_certs",
        "ssl_certfile",
        "ssl_keyfile",
        "use_copy",
    }
)


@dataclass(frozen=True, slots=True)
class Storage:
    """A storage: its name and its settings.

    password: never in a text made from this.
    """

    name: str = SQLITE
    settings: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    password: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        settings = ",".join(f"{key}={value}" for key, value in self.settings.items())
        return f"{self.name}:{settings}" if settings else self.name

    @classmethod
    def parse(cls, spec: str) -> "Storage":
        """Parse devpi-server's format.

        Raises UsageError if it is not valid; the message does not repeat the text.
        """
        attempted = "cannot read --storage"
        name, _, rest = spec.partition(":")
        if name not in (SQLITE, POSTGRES):
            raise UsageError(attempted, f"{name!r} is not supported; {SQLITE} and {POSTGRES} are")
        pairs = [item.partition("=") for item in rest.split(",")] if rest else []
        known = _POSTGRES_KEYS | {"password"} if name == POSTGRES else frozenset()
        # The text may be the rest of a password with a comma in it: do not repeat it.
        if not all(found and key in known for key, found, _ in pairs):
            names = ", ".join(sorted(known)) or "none"
            raise UsageError(
                attempted,
                f"it is not KEY=VALUE, separated by commas, with these keys of {name}: {names}",
                hint="set PGPASSWORD for a password with a comma",
            )
        settings = {key: value for key, _, value in pairs}
        password = settings.pop("password", None)
        _check_port(settings.get("port", "5432"))
        return cls(name, MappingProxyType(settings), password)

    def with_more(self, other: "Storage | None", password: str | None) -> "Storage":
        """Return this storage with the settings and the password given for one run.

        password: used if neither storage has one.
        Raises UsageError if the other is of another kind.
        """
        if other is not None and other.name != self.name:
            raise UsageError(
                "cannot read --storage", f"the standby's storage is {self.name}, but {other.name} was given"
            )
        settings = {**self.settings, **(other.settings if other else {})}
        given = other.password if other else None
        return Storage(self.name, MappingProxyType(settings), given or self.password or password)


def _check_port(port: str) -> None:
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise UsageError("cannot read --storage", "the port is not a number from 1 to 65535")
