"""devpi-server's `--storage`: which database a target has, in devpi-server's own spelling.

The password is part of devpi's spelling. It is kept apart here, so that nothing that is shown, logged or
remembered has it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from replisync.errors import UsageError

SQLITE = "sqlite"
POSTGRES = "pg8000"

# Those of devpi_postgresql's `Storage`.
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
    """A storage: its name, and what devpi-server wants to know of it.

    password: in no text that is made of this.
    """

    name: str = SQLITE
    settings: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    password: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        settings = ",".join(f"{key}={value}" for key, value in self.settings.items())
        return f"{self.name}:{settings}" if settings else self.name

    @classmethod
    def parse(cls, spec: str) -> "Storage":
        """Read devpi-server's spelling.

        Raises UsageError where it is none that we know; the text of it is in no message.
        """
        attempted = "cannot read --storage"
        name, _, rest = spec.partition(":")
        if name not in (SQLITE, POSTGRES):
            raise UsageError(attempted, f"{name!r} is not supported; {SQLITE} and {POSTGRES} are")
        pairs = [item.partition("=") for item in rest.split(",")] if rest else []
        known = _POSTGRES_KEYS | {"password"} if name == POSTGRES else frozenset()
        # The text may be the rest of a password with a comma in it, so it is not repeated.
        if not all(found and key in known for key, found, _ in pairs):
            names = ", ".join(sorted(known)) or "none"
            raise UsageError(
                attempted,
                f"it must be KEY=VALUE with commas between, the keys of {name} being: {names}",
                hint="a password with a comma goes into the environment, as PGPASSWORD",
            )
        settings = {key: value for key, _, value in pairs}
        password = settings.pop("password", None)
        _check_port(settings.get("port", "5432"))
        return cls(name, MappingProxyType(settings), password)

    def with_more(self, other: "Storage | None", password: str | None) -> "Storage":
        """Return this storage with what is said for one run: other settings, and the password.

        password: to be used where neither has one.
        Raises UsageError where the other is of another kind.
        """
        if other is not None and other.name != self.name:
            raise UsageError(
                "cannot read --storage", f"the standby's storage is {self.name}, and {other.name} was given"
            )
        settings = {**self.settings, **(other.settings if other else {})}
        given = other.password if other else None
        return Storage(self.name, MappingProxyType(settings), given or self.password or password)


def _check_port(port: str) -> None:
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise UsageError("cannot read --storage", "the port is not a number from 1 to 65535")
