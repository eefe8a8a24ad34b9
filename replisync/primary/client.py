"""The primary over HTTP: its identity, its changelog, its files, and the meaning of each answer.

Endpoints, headers and answers: `devpi_server/replica.py` (PrimaryChangelogRequest) and
`devpi_server/views.py`; differences of older servers are noted where they matter. Nothing here knows how
entries are stored.
"""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Self

import httpx

from replisync.changelog.ports import Changes, Download, Hello
from replisync.devpi.entries import ChangelogEntry, StreamParser, parse_batch, parse_stored
from replisync.devpi.keys import READ_KEYNAMES
from replisync.devpi.tokens import TokenSigner
from replisync.devpi.wire import is_cut
from replisync.errors import BrokenStream, CorruptEntry, PrimaryUnreachable, WrongHistory
from replisync.primary.connection import Link, Origin

STREAM_TYPE = "application/x-devpi-replica-changes"
# A server prefers its stream only if the older type has a lower quality.
_ACCEPT = f"{STREAM_TYPE}, application/octet-stream; q=0.9"

# After this number of failures at the same serial, ask for entries one by one.
_STUMBLES = 2

# The number of entries that a poll fetches one by one; more of them come as a stream.
_FEW = 8

# The status of a part of a file that was not asked for.
_OTHER_RANGE = 416

# An entry that ends too early this number of times in a row, in answers that are complete for HTTP, is
# damaged on the primary; before that, it may have been cut in transit.
_CUTS = 3

# The same for empty answers, which failing proxies send too.
_EMPTIES = 5

_LENGTH = re.compile("[0-9]{1,18}")


class Primary:
    """One primary, as one replica sees it.

    url: of the server's root.
    signer: makes the tokens; None if no changelog is to be read.
    uuid: the replica's.
    expected: the UUID that the primary must have; "" if unknown.
    link: the settings of the connection.
    """

    def __init__(
        self,
        url: str,
        signer: TokenSigner | None,
        *,
        uuid: str,
        expected: str = "",
        link: Link | None = None,
    ) -> None:
        link = link or Link()
        self._origin = Origin(url, signer, uuid=uuid, expected=expected, link=link)
        self._limits = link.limits
        self._batches = True
        self._stumbled = (-1, 0)  # the serial at which answers broke off, and the number in a row
        self._cut = (-1, 0)  # the same for answers that HTTP called complete
        self._singly_until = -1  # the serial up to which to ask for entries one by one

    @property
    def url(self) -> str:
        """The URL of the server's root."""
        return self._origin.url

    @property
    def uuid(self) -> str:
        """The UUID that we show as a replica."""
        return self._origin.uuid

    @property
    def disconnected(self) -> bool:
        """Whether the connection of the last answer is closed, as devpi-server does after each stream."""
        return self._origin.disconnected

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._origin.close()

    def expect(self, uuid: str) -> None:
        """Accept only answers of the server `uuid` from now on."""
        self._origin.expected = uuid

    # The changelog.

    def hello(self) -> Hello:
        """Ask the server for its identity and serial; this needs no secret.

        Raises PrimaryUnreachable, WrongHistory or PrimaryRefused.
        """
        attempted = f"cannot ask {self.url} for its serial"
        with self._origin.get("+api", attempted, {"Accept": "application/json"}) as response:
            return self._origin.hello(response, attempted)

    def entry(self, serial: int) -> tuple[Hello, ChangelogEntry | None]:
        """Return the server's hello, and its entry at a serial, or None.

        Raises PrimaryUnreachable, PrimaryRefused, WrongHistory or CorruptEntry.
        """
        attempted = f"cannot read the changelog of {self.url}"
        params = "?initial_fetch"
        with self._origin.signed(f"+changelog/{serial}{params}", attempted) as response:
            hello = self._origin.hello(response, attempted, serial)
            self._origin.is_new(response)
            if response.status_code == 202 or (response.status_code == 404 and hello.serial < serial):
                return hello, None
            self._origin.refuse(response, attempted, serial)
            return hello, self._stored(response, attempted, serial)

    @contextmanager
    def changes(self, first: int, *, poll: bool) -> Iterator[Changes]:
        """Ask for the changes from serial `first` on.

        poll: wait up to 30 seconds for a change; otherwise up to one.
        Raises PrimaryUnreachable, PrimaryRefused, WrongHistory or CorruptEntry; so do the groups, while they
        are read.
        """
        # A primary with a missing row breaks off every longer answer; entry by entry it still delivers those
        # before the row, and shows which one is missing.
        singly = not self._batches or first <= self._singly_until
        # devpi-server's stream is empty if it had to wait: it goes up to the serial at its beginning, and the
        # connection is closed. The same poll for one entry delivers it, and the next poll can follow.
        waits = poll and -1 < self._origin.last_seen < first and not singly
        with ExitStack() as stack:
            try:
                if singly or waits:
                    answer = self._singly(first, poll=poll, most=_FEW if waits else None)
                else:
                    answer = self._many(first, poll=poll)
                changes = stack.enter_context(answer)
            except PrimaryUnreachable:
                self._stumble(first)
                raise
            yield replace(changes, groups=self._watched(changes.groups, first))

    def _watched(self, groups: Iterator[list[ChangelogEntry]], first: int) -> Iterator[list[ChangelogEntry]]:
        try:
            yield from groups
        except PrimaryUnreachable:
            self._stumble(first)
            raise

    def _stumble(self, first: int) -> None:
        where, times = self._stumbled
        self._stumbled = (first, times + 1 if where == first else 1)
        if self._stumbled[1] >= _STUMBLES:
            self._singly_until = self._origin.last_seen
        self._origin.distrust()

    @contextmanager
    def _many(self, first: int, *, poll: bool) -> Iterator[Changes]:
        attempted = f"cannot read the changelog of {self.url}"
        wait = "" if poll else "?initial_fetch"
        with self._origin.signed(f"+changelog/{first}-{wait}", attempted, _ACCEPT, poll=poll) as response:
            if self._lacks_batches(response, attempted, first):
                # A 404 is certain; a 500 may be transient, so ask again.
                self._batches = response.status_code == 500
            else:
                hello = self._origin.hello(response, attempted, first)
                self._check_position(hello, attempted, first)
                self._origin.refuse(response, attempted, first)
                yield Changes(hello, self._groups(response, attempted, first), self._origin.is_new(response))
                return
        with self._singly(first, poll=poll) as changes:
            yield changes

    def _lacks_batches(self, response: httpx.Response, attempted: str, first: int) -> bool:
        """Return whether this is an answer of a server before 4.9.0, whose endpoint is for one entry only.

        It reads the "-" as part of the number: a 404 or, if it tries to remember the replica, a 500.
        """
        if response.status_code == 500:
            return self._origin.before_6_13
        return (
            response.status_code == 404 and first <= self._origin.hello(response, attempted, first).serial + 1
        )

    def _groups(self, response: httpx.Response, attempted: str, first: int) -> Iterator[list[ChangelogEntry]]:
        if response.status_code == 202:
            return
        if response.headers.get("content-type", "").startswith(STREAM_TYPE):
            parser = StreamParser(first, self._limits, READ_KEYNAMES)
            for chunk in self._origin.chunks(response, attempted):
                entries = parser.feed(chunk)
                if entries:
                    yield entries
            parser.finish()
        else:
            body = self._origin.body(response, attempted, self._limits.entry_bytes)
            with self._whole(first, body):
                yield from _good_first(parse_batch(body, first, self._limits))

    def _stored(self, response: httpx.Response, attempted: str, serial: int) -> ChangelogEntry:
        body = self._origin.body(response, attempted, self._limits.entry_bytes)
        with self._whole(serial, body):
            return parse_stored(serial, body, self._limits)

    @contextmanager
    def _whole(self, serial: int, body: bytes) -> Iterator[None]:
        """Treat a truncated answer as a broken one, until it has been the same too often.

        Raises BrokenStream instead of CorruptEntry.
        """
        try:
            yield
        except CorruptEntry as err:
            where, times = self._cut
            self._cut = (serial, times + 1 if where == serial else 1)
            if not body and self._cut[1] >= _EMPTIES:
                raise CorruptEntry(
                    err.attempted,
                    f"its answer was empty {_EMPTIES} times in a row: it lacks the entry, or a proxy "
                    "drops the answers",
                    serial=serial,
                    hint=f"ask the primary itself, without any proxy; then {CorruptEntry.default_hint}",
                ) from err
            if (body and self._cut[1] >= _CUTS) or not is_cut(body, self._limits):
                raise
            why = "the answer ended in the middle of an entry" if body else "the answer was empty"
            raise BrokenStream(err.attempted, why, serial=serial) from err
        if self._cut[0] == serial:
            self._cut = (-1, 0)

    @contextmanager
    def _singly(self, first: int, *, poll: bool, most: int | None = None) -> Iterator[Changes]:
        """Ask for one entry after the other.

        most: the largest number to ask for; None for all.
        """
        attempted = f"cannot read the changelog of {self.url}"
        wait = "" if poll else "?initial_fetch"

        def groups(response: httpx.Response, last: int) -> Iterator[list[ChangelogEntry]]:
            if response.status_code == 202:
                return
            yield [self._stored(response, attempted, first)]
            for serial in range(first + 1, last + 1 if most is None else min(last + 1, first + most)):
                with self._origin.signed(f"+changelog/{serial}", attempted) as following:
                    if self._origin.is_new(following):
                        self._origin.distrust()
                        return  # another server may answer now: check its identity first
                    self._origin.hello(following, attempted, serial)
                    self._origin.refuse(following, attempted, serial)
                    yield [self._stored(following, attempted, serial)]

        with self._origin.signed(f"+changelog/{first}{wait}", attempted, poll=poll) as response:
            hello = self._origin.hello(response, attempted, first)
            self._check_position(hello, attempted, first)
            self._origin.refuse(response, attempted, first)
            yield Changes(hello, groups(response, hello.serial), self._origin.is_new(response))

    def _check_position(self, hello: Hello, attempted: str, first: int) -> None:
        if hello.serial < first - 1:
            raise WrongHistory(
                attempted,
                f"the primary is at serial {hello.serial}, behind ours, as after a restore from a backup",
                serial=first - 1,
            )

    # Files.

    @contextmanager
    def download(self, relpath: str, first: int = 0) -> Iterator[Download]:
        """Ask for a file, or for its content from byte `first` on: only a status of 206 delivers that.

        Raises PrimaryUnreachable or PrimaryRefused if there is no answer; so do the chunks, while they are
        read. Every status is returned, not raised: it may concern this file only.
        """
        attempted = f"cannot fetch {relpath}"
        with self._origin.file(relpath, attempted, first=first) as response:
            own, reason, retry_after, status = True, "", None, response.status_code
            ranged = response.headers.get("content-range", "").startswith(f"bytes {first}-")
            if status == 206 and not (first and ranged):
                status = _OTHER_RANGE
            if status not in (200, 206):
                own, reason = self._origin.refusal_of(response, attempted)
                retry_after = _seconds(response)
            length = response.headers.get("content-length", "")
            yield Download(
                status,
                int(length) if _LENGTH.fullmatch(length) else None,
                self._origin.chunks(response, attempted),
                own,
                reason,
                retry_after,
            )

    def check(self) -> None:
        """Check that the primary answers, and is the one that we follow.

        Raises PrimaryUnreachable, WrongHistory or PrimaryRefused.
        """
        self.hello()

    def size(self, relpath: str) -> int | None:
        """Return the length of a file by its headers alone; None if they do not say it.

        Nothing is written on the primary, even if it has to ask the upstream of a mirror.
        Raises PrimaryUnreachable or PrimaryRefused.
        """
        attempted = f"cannot ask for the size of {relpath}"
        with self._origin.file(relpath, attempted, method="HEAD") as response:
            if response.status_code in (401, 403):
                self._origin.refuse(response, attempted, None)
            if response.status_code >= 500 and response.status_code not in (500, 502):
                raise PrimaryUnreachable(attempted, f"it answered {response.status_code}")
            length = response.headers.get("content-length", "")
            known = response.status_code == 200 and _LENGTH.fullmatch(length)
            return int(length) if known else None


def _seconds(response: httpx.Response) -> float | None:
    """Return the seconds of a Retry-After header, which is a number or a time (RFC 9110, 10.2.3), or None."""
    text = response.headers.get("retry-after", "").strip()
    if _LENGTH.fullmatch(text):
        return float(text)
    with suppress(ValueError, TypeError, OverflowError):
        then, now = (parsedate_to_datetime(one) for one in (text, response.headers.get("date", "")))
        return max(0.0, (then - now).total_seconds())
    return None


def _good_first(entries: Iterator[ChangelogEntry]) -> Iterator[list[ChangelogEntry]]:
    """Yield the entries as one group, even if an error follows the good ones."""
    group: list[ChangelogEntry] = []
    try:
        group.extend(entries)
    except CorruptEntry:
        yield group
        raise
    yield group
