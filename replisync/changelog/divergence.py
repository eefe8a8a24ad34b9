"""Comparison of our history with the primary's: are they equal, and if not, up to which serial?

Two histories of one server are equal up to a serial, and differ in nearly all entries after it. So comparing
a few entries at each connection is enough, and bisection finds the fork with a number of requests that grows
with the logarithm of the history. Nothing here writes.
"""

from collections.abc import Callable, Iterator

from replisync.changelog.ports import Hello
from replisync.devpi.entries import EMPTY_ENTRY, ChangelogEntry, same_entry
from replisync.errors import Advice, CorruptEntry, Hint, PrimaryUnreachable, TargetUnusable, WrongHistory

# Two histories can have the same entry by chance, such as one that changes nothing, or a refresh of mirror
# links; this number of equal entries in a row is not chance.
_WITNESSES = 4
_LOOK_BACK = 64

_ATTEMPTED = "cannot follow the primary"
_REBUILD = Hint(
    "nothing was written; check the primary, then rebuild the standby with {}", Advice("clone", reseed=True)
)


class Comparison:
    """Our history, compared with that of the primary.

    ours: returns the stored bytes of our entry at a serial.
    theirs: asks the primary for an entry; returns the primary's hello, and the entry if it has one.
    first: the lowest serial whose entry of ours is the primary's own.
    complete: whether ours is a complete standby, which can be rewound, not an interrupted clone.
    """

    def __init__(
        self,
        ours: Callable[[int], bytes | None],
        theirs: Callable[[int], tuple[Hello, ChangelogEntry | None]],
        *,
        first: int = 0,
        complete: bool = True,
    ) -> None:
        self._ours = ours
        self._theirs = theirs
        self._first = first
        self._complete = complete

    def check(self, serial: int) -> Hello:
        """Check that the primary has our history up to `serial`, our last one; return its hello.

        Compare our last entry, and a few before it. Raises WrongHistory, which names the last serial up to
        which the histories agree, if there is one; TargetUnusable if our last entry cannot be read.
        """
        hello, entry = self._theirs(max(serial, 0))
        if serial < 0:
            return hello
        if entry is None:
            why = f"the primary is at serial {hello.serial}, behind ours, as after its restore from a backup"
            raise self._diverged(serial, why, hello.serial + 1)
        if serial < self._first:
            return hello
        same = self._equals(serial, entry)
        if same is None:
            raise TargetUnusable(
                _ATTEMPTED,
                f"our own entry at serial {serial} is missing or damaged",
                hint=Hint("repair it with {}", Advice("verify", repair=True)),
            )
        if not same:
            why = "the primary has another entry at our last serial, so its history was rewritten before it"
            raise self._diverged(serial, why, serial)
        for witness in self._witnesses(serial):
            if self._same(witness) is False:
                why = f"the primary has another entry at serial {witness}, so its history was rewritten"
                raise self._diverged(serial, why, witness)
        return hello

    def _witnesses(self, serial: int) -> Iterator[int]:
        """Yield serials before `serial` to compare too: those of entries that change something."""
        found = 1
        for before in range(serial - 1, max(self._first, serial - _LOOK_BACK) - 1, -1):
            if found == _WITNESSES:
                return
            if self._ours(before) != EMPTY_ENTRY:
                found += 1
                yield before

    def _same(self, serial: int) -> bool | None:
        """Return whether the primary's entry is ours; None if either cannot be read."""
        try:
            entry = self._theirs(serial)[1]
        except CorruptEntry:
            return None
        return entry is not None and self._equals(serial, entry)

    def _equals(self, serial: int, theirs: ChangelogEntry) -> bool | None:
        """Return whether an entry of the primary is ours; None if ours is missing or cannot be read."""
        try:
            return same_entry(self._ours(serial) or b"", theirs.data)
        except CorruptEntry:
            return None

    def _diverged(self, serial: int, why: str, differing: int) -> WrongHistory:
        """Return the error that names the last serial up to which the histories agree.

        differing: a serial at which they differ.
        """
        try:
            fork = self._fork(differing)
        except PrimaryUnreachable as err:
            # The divergence is certain: do not report it as a transient failure.
            return WrongHistory(
                _ATTEMPTED,
                f"{why}; the last serial up to which they agree is unknown: {err.why}",
                serial=serial,
                hint=Hint("nothing was written; run {} to find out", Advice("catchup")),
            )
        if fork is None:
            return WrongHistory(
                _ATTEMPTED,
                f"{why}; no serial is known up to which they agree",
                serial=serial,
                hint=_REBUILD if self._complete else "",
            )
        error = WrongHistory(
            _ATTEMPTED,
            f"{why}; the histories agree up to serial {fork}",
            serial=serial,
            hint=Hint(
                "nothing was written; to keep the primary's history, go back with {}, then go on",
                Advice("rewind", to_serial=fork),
            )
            if self._complete
            else "",
        )
        error.details["fork_serial"] = fork
        return error

    def _fork(self, differing: int) -> int | None:
        """Return the last serial before `differing` up to which both agree, or None."""
        low, high = self._first - 1, differing
        while high - low > 1:
            middle = (low + high) // 2
            found = self._difference(middle)
            if found is None:
                low = middle
            else:
                high = max(found, low + 1)
        return low if low >= self._first else None

    def _difference(self, serial: int) -> int | None:
        """Return a serial, this one or shortly before, at which they differ; None if they agree.

        An unreadable entry counts as a difference: too low a fork is as good as the right one, too high a one
        would be a wrong history.
        """
        if not self._same(serial):
            return serial
        return next((one for one in self._witnesses(serial) if self._same(one) is False), None)
