"""Whether the primary's history is the one that we have, and if not, up to which serial it is.

Two histories that come from one server are equal up to a serial, and differ in nearly all entries behind
it. So a few entries tell at each connection, and bisection finds the place where they part, with a number of
requests that grows with the logarithm of the history. Nothing here writes.
"""

from collections.abc import Callable, Iterator

from replisync.changelog.ports import Hello
from replisync.devpi.entries import EMPTY_ENTRY, ChangelogEntry, same_entry
from replisync.errors import CorruptEntry, PrimaryUnreachable, TargetUnusable, WrongHistory

# One entry can be the same in two histories by chance, such as one that changes nothing, or the refresh of
# a mirror's links; that so many in a row are is not believed.
_WITNESSES = 4
_LOOK_BACK = 64

_ATTEMPTED = "cannot follow the primary"
_REWIND = (
    "where the primary's history is the one to keep, go back with `replisync rewind --to-serial {fork}`, "
    "then go on"
)

_REBUILD = "nothing was written; check the primary, then rebuild the standby with `replisync clone --reseed`"


class Comparison:
    """Our history beside that of the primary.

    ours: returns the stored bytes of an entry of ours, by its serial.
    theirs: asks the primary for an entry; returns who answered, and the entry where there is one.
    first: the lowest serial whose entry of ours is the primary's own.
    complete: whether ours is a standby that can be rewound, and no clone that was interrupted.
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
        """Make sure that the primary has what we have up to `serial`, our last one; return who answered.

        Our last entry is compared, and a few before it. Raises WrongHistory, which names the last serial up
        to which the histories agree, where one can be found; TargetUnusable where our last entry cannot be
        read.
        """
        hello, entry = self._theirs(max(serial, 0))
        if serial < 0:
            return hello
        if entry is None:
            why = f"the primary is at serial {hello.serial}, behind ours, as after its restore from a backup"
            raise self._parted(serial, why, hello.serial + 1)
        if serial < self._first:
            return hello
        same = self._equals(serial, entry)
        if same is None:
            raise TargetUnusable(
                _ATTEMPTED,
                f"our own entry at serial {serial} is missing or damaged",
                hint="repair it with `replisync verify --repair`",
            )
        if not same:
            why = "the primary has another entry at our last serial, so its history was rewritten before it"
            raise self._parted(serial, why, serial)
        for witness in self._witnesses(serial):
            if self._same(witness) is False:
                why = f"the primary has another entry at serial {witness}, so its history was rewritten"
                raise self._parted(serial, why, witness)
        return hello

    def _witnesses(self, serial: int) -> Iterator[int]:
        """Yield the serials before `serial` that are compared too: those of entries that change something."""
        found = 1
        for before in range(serial - 1, max(self._first, serial - _LOOK_BACK) - 1, -1):
            if found == _WITNESSES:
                return
            if self._ours(before) != EMPTY_ENTRY:
                found += 1
                yield before

    def _same(self, serial: int) -> bool | None:
        """Tell whether the primary's entry is ours; None where one of the two cannot be read."""
        try:
            entry = self._theirs(serial)[1]
        except CorruptEntry:
            return None
        return entry is not None and self._equals(serial, entry)

    def _equals(self, serial: int, theirs: ChangelogEntry) -> bool | None:
        """Tell whether an entry of the primary's is ours; None where ours is missing or cannot be read."""
        try:
            return same_entry(self._ours(serial) or b"", theirs.data)
        except CorruptEntry:
            return None

    def _parted(self, serial: int, why: str, differing: int) -> WrongHistory:
        """Return the error that says from where on the histories differ.

        differing: a serial at which they do.
        """
        try:
            fork = self._fork(differing)
        except PrimaryUnreachable as err:
            # That they differ is sure, and must not be taken for trouble that passes.
            return WrongHistory(
                _ATTEMPTED,
                f"{why}; up to which serial they agree could not be found out: {err.why}",
                serial=serial,
                hint="nothing was written; run `replisync catchup` to find out",
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
            hint=f"nothing was written; {_REWIND.format(fork=fork)}" if self._complete else "",
        )
        error.details["fork_serial"] = fork
        return error

    def _fork(self, differing: int) -> int | None:
        """Return the last serial before `differing` up to which both agree; None where there is none."""
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
        """Return a serial, this one or a little before, at which they differ; None where they agree.

        An entry that cannot be read is no agreement: too low a fork is as good as the right
        one, too high a one would be a wrong history.
        """
        if not self._same(serial):
            return serial
        return next((one for one in self._witnesses(serial) if self._same(one) is False), None)
