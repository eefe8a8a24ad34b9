"""The moves on disk that follow a commit.

Files that a serial drops or replaces must stay until the serial is committed. The commit records, in the same
transaction, the moves that it demands; they are done after it, and again after a crash, which does no harm.
"""

from collections.abc import Callable

from replisync.changelog.ports import FileStore, Log, RetainedFiles, Settling
from replisync.changelog.records import Pending
from replisync.devpi.keys import path_problem
from replisync.errors import Advice, Hint, NotPermitted, TargetUnusable
from replisync.standby.database.store import Store
from replisync.system import clock

# The number of moves that are synced and recorded together. A deleted index may have any number of them.
_TOGETHER = 1000


Held = dict[str, NotPermitted]


def settle(store: Store, files: Settling, *, retain: bool) -> Held:
    """Do the moves that committed serials demand, and record that they are done.

    retain: whether to retain dropped and replaced files.
    Returns, by relpath, the errors that keep dropped files in their place: no server needs them gone, and the
    next call tries again. Raises NotPermitted if a file that replaces another one cannot take its place,
    TargetUnusable if a damaged row would lead out of the folders.
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
    """Settles repeatedly, and warns once of each file that stays in its place.

    settle: see `settle`.
    """

    def __init__(self, settle: Callable[[], Held], log: Log) -> None:
        self._settle = settle
        self._log = log
        self._told: set[str] = set()

    def __call__(self) -> None:
        """Do the moves that committed serials demand."""
        held = self._settle()
        new = held.keys() - self._told
        if new:
            first = min(new)
            self._log.warning("deleted files stay in place", files=len(held), error=str(held[first]))
        self._told |= new


def recover(settle: Settler, store: Store, files: FileStore) -> None:
    """Finish what an interrupted run left: moves that its commits demand, files that never arrived."""
    settle()
    rename_orphaned_retained(store, files)
    files.clean_staging(())


def _move(files: Settling, move: Pending, *, retain: bool) -> list[dict[str, str | int]]:
    rows: list[dict[str, str | int]] = []
    if retain and move.action != "discard":
        name = files.retain(move.relpath, move.serial, keep=move.action == "replace")
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


def rename_orphaned_retained(store: Store, files: RetainedFiles) -> None:
    """Rename retained files of serials that a rewind has reverted.

    Their numbers are used again, and files that they retain then must not be mixed up with these.
    """
    names = {row.stored_as: f"{row.retained_at}-{row.stored_as}" for row in store.retained_beyond_last()}
    if names:
        for name in (*names, *names.values()):
            _check(name, alone=True)
        files.rename_retained(names)
        store.rename_orphaned_retained(names)


def expire_retained(
    store: Store, files: RetainedFiles, days: float, now: str, *, at_once: bool = False
) -> None:
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
        files.drop_retained(names)
        store.forget_retained(names)


def _check(path: str, *, alone: bool = False) -> None:
    """Check that the path in a row of ours stays in its folder, even if the row is damaged.

    alone: whether it must be a plain name.
    Raises TargetUnusable.
    """
    problem = path_problem(path) or ("a path instead of a name" if alone and "/" in path else "")
    if problem:
        raise TargetUnusable(
            "cannot move files",
            f"its row in the target's database is damaged: {problem}, {path!r}",
            hint=Hint("repair it with {}", Advice("verify", repair=True)),
        )
