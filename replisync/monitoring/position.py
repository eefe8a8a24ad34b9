"""How far the primary is: by its own word, or at least, by what others have shown of it."""

from dataclasses import dataclass

from replisync.changelog.records import Contact, Source
from replisync.errors import PrimaryRefused, PrimaryUnreachable, ReplisyncError, WrongHistory
from replisync.primary.access import Access


@dataclass(frozen=True, slots=True)
class Position:
    """What is known of the primary's last serial.

    serial: it has reached this one; None where no serial is known.
    own: the serial by the primary's own word, just now; None where it did not answer itself.
    error: why it did not; None where it did, and where it was not asked.
    """

    serial: int | None
    own: int | None = None
    error: ReplisyncError | None = None

    @property
    def why(self) -> str | None:
        """Why the primary did not answer itself, in one clause."""
        return self.error.why if self.error else None


def known_position(contact: Contact | None) -> Position:
    """Return what earlier runs heard."""
    return Position(contact.primary_serial if contact else None)


def ask_position(contact: Contact | None, source: Source, access: Access) -> Position:
    """Ask the primary how far it is; what earlier runs heard, or a replica shows, is the least.

    This needs no secret, and so the histories are not compared: a primary that says less than before is not
    believed, which `catchup` does once it has compared them.
    """
    known = known_position(contact).serial
    try:
        with access.primary(source.primary_url, source.uuid, source.primary_uuid, secret=False) as primary:
            own = primary.hello().serial
    except (PrimaryUnreachable, PrimaryRefused, WrongHistory) as err:
        shown = err.details.get("answered_serial")
        return Position(_most(known, shown if isinstance(shown, int) else None), error=err)
    return Position(_most(known, own), own)


def _most(one: int | None, other: int | None) -> int | None:
    return max((serial for serial in (one, other) if serial is not None), default=None)
