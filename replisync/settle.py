"""The moves on disk that follow a commit.

What a serial drops or replaces must stay until the serial is committed. The commit says in the same
transaction which moves it demands; they are done after it, and again after a crash, which changes nothing.
"""

from replisync import clock
from replisync.ports import FileStore
from replisync.store.base import Store
from replisync.store.records import Pending

# Moves that are made durable and written down together. An index that is deleted may have any number of them.
_TOGETHER = 1000


def settle(store: Store, files: FileStore, *, retain: bool) -> None:
    """Do what committed serials demand, and remember that it is done.

    retain: whether what is dropped or replaced is kept in the retained folder.
    """
    moves = store.pending()
    for start in range(0, len(moves), _TOGETHER):
        some = moves[start : start + _TOGETHER]
        retained = [row for move in some for row in _move(files, move, retain=retain)]
        files.sync_moves()
        store.settle(some, retained)


def _move(files: FileStore, move: Pending, *, retain: bool) -> list[dict[str, str | int]]:
    rows: list[dict[str, str | int]] = []
    if retain and move.action != "discard":
        name = files.put_aside(move.relpath, move.serial, keep=move.action == "replace")
        if name is not None:
            rows.append(
                {
                    "stored_as": name,
                    "relpath": move.relpath,
                    "serial": move.serial,
                    "retained_at": clock.now(),
                }
            )
    elif move.action != "replace":
        files.remove(move.relpath)
    if move.staged is not None and files.staged(move.staged):
        files.place([(move.relpath, move.staged)])
    return rows


def set_apart(store: Store, files: FileStore) -> None:
    """Give what serials put aside that a rewind took back names of its own.

    Their numbers come again, and what they put aside then must not be mixed up with this.
    """
    names = {row.stored_as: f"{row.retained_at}-{row.stored_as}" for row in store.retained_beyond_last()}
    if names:
        files.rename_aside(names)
        store.set_apart(names)


def expire_retained(store: Store, files: FileStore, days: float, now: clock.Moment) -> None:
    """Remove what is retained for at least so many days, in time that was lived through until `now`."""
    names = store.retained_beyond(now, days * 86400)
    if names:
        files.forget_aside(names)
        store.forget_retained(names)
