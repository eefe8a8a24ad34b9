"""The primary's last serial: by its own answer, or at least what other servers have shown of it."""

from dataclasses import dataclass

from replisync.changelog import Contact, Source
from replisync.errors import PrimaryRefused, PrimaryUnreachable, ReplisyncError, WrongHistory
from replisync.primary import Access


@dataclass(frozen=True, slots=True)
class Position:
    """The known position of the primary.

    serial: a serial that it has reached, or None.
    own: its serial by its own answer just now; None if it did not answer itself.
    error: why it did not answer; None if it did, or was not asked.
    """

    serial: int | None
    own: int | None = None
    error: ReplisyncError | None = None

    @property
    def why(self) -> str | None:
        """Why the primary did not answer itself, in one clause."""
        return self.error.why if self.error else None


def known_position(contact: Contact | None) -> Position:
    """Return the position that earlier runs recorded."""
    return Position(contact.primary_serial if contact else None)


def ask_position(contact: Contact | None, source: Source, access: Access) -> Position:
    """Ask the primary for its serial; it is at least what earlier runs heard, or a replica shows.

    This needs no secret, so the histories are not compared: a primary that reports a lower serial than before
    is not believed. `catchup` believes it, after comparing them.
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
