"""The moves on disk that follow a commit.

What a serial drops or replaces must stay until the serial is committed. The commit says in the same
transaction which moves it demands; they are done after it, and again after a crash, which changes nothing.
"""

from collections.abc import Callable

from replisync.changelog.ports import FileStore, Log
from replisync.changelog.records import Pending
from replisync.devpi.keys import path_problem
from replisync.errors import NotPermitted, TargetUnusable
from replisync.standby.database.store import Store
from replisync.system import clock

# Moves that are made durable and written down together. An index that is deleted may have any number of them.
_TOGETHER = 1000


Held = dict[str, NotPermitted]


def settle(store: Store, files: FileStore, *, retain: bool) -> Held:
    """Do what committed serials demand, and remember that it is done.

    retain: whether what is dropped or replaced is kept in the retained folder.
    Returns, by relpath, what keeps files in their place that are to go: no server needs that they are gone,
    and the next call tries it again. Raises NotPermitted where a file that replaces another one cannot take
    its place, TargetUnusable where a damaged row would lead out of the folders.
    """
    moves = store.pending()
    for move in moves:
        _check(move.relpath)
        _check(move.staged or "none", alone=True)
    held: Held = {}
    for start in range(0, len(moves), _TOGETHER):
        done: list[Pending] = []
        retained: list[dict[str, str | int]] = []
        for move in moves[start : start + _TOGETHER]:
            try:
                retained += _move(files, move, retain=retain)
                done.append(move)
            except NotPermitted as err:
                if move.staged is not None:
                    raise
                held[move.relpath] = err
        if done:
            files.sync_moves()
            store.settle(done, retained)
    return held


class Settler:
    """Settles time and again, and warns once of each file that stays in its place.

    settle: does it; see `settle`.
    """

    def __init__(self, settle: Callable[[], Held], log: Log) -> None:
        self._settle = settle
        self._log = log
        self._told: set[str] = set()

    def __call__(self) -> None:
        """Do what committed serials demand."""
        held = self._settle()
        new = held.keys() - self._told
        if new:
            first = min(new)
            self._log.warning("deleted files stay in place", files=len(held), error=str(held[first]))
        self._told |= new


def recover(settle: Settler, store: Store, files: FileStore) -> None:
    """Finish what an interrupted run left: moves that its commits demand, files that never arrived."""
    settle()
    set_apart(store, files)
    files.clean_staging(())


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
        for name in (*names, *names.values()):
            _check(name, alone=True)
        files.rename_aside(names)
        store.set_apart(names)


def expire_retained(store: Store, files: FileStore, days: float, now: str, *, at_once: bool = False) -> None:
    """Remove files that are retained for at least `days`, and were found so a day before `now` already.

    So a system clock that is set forwards, and back within a day, removes none of them.
    at_once: remove them when they are first found; so are all of them with 0 days, whatever the clock says.
    """
    oldest = clock.days_before(now, days) if days else clock.LAST
    if at_once or not days:
        names = store.retained_before(oldest)
    else:
        names = store.overdue_since(clock.days_before(now, 1), oldest, now)
    if names:
        for name in names:
            _check(name, alone=True)
        files.forget_aside(names)
        store.forget_retained(names)


def _check(path: str, *, alone: bool = False) -> None:
    """Make sure that a path that a row of ours has stays in its folder, whatever befell the row.

    alone: whether it must be a name in that folder.
    Raises TargetUnusable.
    """
    problem = path_problem(path) or ("a path where a name belongs" if alone and "/" in path else "")
    if problem:
        raise TargetUnusable(
            "cannot move files",
            f"a row of the target's database that says which is damaged: {problem}, {path!r}",
            hint="repair it with `replisync verify --repair`",
        )
