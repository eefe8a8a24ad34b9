"""The primary, over HTTP: who it is, what it has, and what each of its answers means.

Endpoints, headers and answers: `devpi_server/replica.py` (PrimaryChangelogRequest) and
`devpi_server/views.py`; what older servers do differently is said where it matters. Nothing here knows
how entries are stored.
"""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
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
# A server prefers its stream only where the older type is wanted less.
_ACCEPT = f"{STREAM_TYPE}, application/octet-stream; q=0.9"

# After so many failures at the same serial, entries are asked for one by one.
_STUMBLES = 2

# So many entries that a poll brings to light are asked for one by one; what is beyond them, as a stream.
_FEW = 8

# An entry that ends too early so many times in a row, in answers that are whole for HTTP, is what the primary
# has; before, it is what was left of it on the way.
_CUTS = 3

# The same of answers that are empty, as proxies in trouble send them too.
_EMPTIES = 5

_LENGTH = re.compile("[0-9]{1,18}")


class Primary:
    """One primary, as one replica sees it.

    url: of the server's root.
    signer: makes the tokens; None where no changelog is to be read.
    uuid: the replica's.
    expected: the UUID that the primary must have; "" where it is not known yet.
    link: how it is talked to.
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
        self._stumbled = (-1, 0)  # where answers broke off, and how often in a row
        self._cut = (-1, 0)  # the same, of those that HTTP said were complete
        self._singly_until = -1  # up to which serial entries are asked for one by one

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
        """Accept answers of the server `uuid` only, from now on."""
        self._origin.expected = uuid

    # The changelog.

    def hello(self) -> Hello:
        """Ask the server who and where it is; this needs no secret.

        Raises PrimaryUnreachable, WrongHistory or PrimaryRefused.
        """
        attempted = f"cannot ask {self.url} for its serial"
        with self._origin.get("+api", attempted, {"Accept": "application/json"}) as response:
            return self._origin.hello(response, attempted)

    def entry(self, serial: int) -> tuple[Hello, ChangelogEntry | None]:
        """Return who answers, and its entry at a serial; None where it does not have one.

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

        poll: wait up to 30 seconds for the next one where there is none; else up to one.
        Raises PrimaryUnreachable, PrimaryRefused, WrongHistory or CorruptEntry; so do the groups, while
        they are read.
        """
        # A primary in whose changelog a row is missing breaks off every longer answer; entry by entry it
        # still gives those before it, and shows which one is missing.
        singly = not self._batches or first <= self._singly_until
        # A stream that had to wait is empty in devpi-server: it goes up to the serial at its beginning, and
        # its connection is closed. The same poll for one entry brings it, and the next one can follow.
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
                # Sure by a 404; a 500 may pass, and is asked about again.
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
        """Tell whether this is how a server before 4.9.0 answers, which has the endpoint for one entry only.

        It takes the "-" for a part of the number: a 404, or, where it tries to remember the replica, a 500.
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
        """Take an answer that is cut for a broken one, until it has always been the same too often.

        Raises BrokenStream in the place of CorruptEntry.
        """
        try:
            yield
        except CorruptEntry as err:
            where, times = self._cut
            self._cut = (serial, times + 1 if where == serial else 1)
            if not body and self._cut[1] >= _EMPTIES:
                raise CorruptEntry(
                    err.attempted,
                    f"its answer is empty, {_EMPTIES} times in a row: it lacks the entry, or something "
                    "before it keeps its answers back",
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

        most: how many are worth that; None for all that there are.
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
                        return  # whoever is there now is to be asked who it is first
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
    def download(self, relpath: str) -> Iterator[Download]:
        """Ask for a file.

        Raises PrimaryUnreachable or PrimaryRefused where there is no answer; so do the chunks, while they are
        read. Every status is returned, not raised: it may be this one file's.
        """
        attempted = f"cannot fetch {relpath}"
        with self._origin.file(relpath, attempted) as response:
            own, reason = True, ""
            if response.status_code != 200:
                own, reason = self._origin.refusal_of(response, attempted)
            length = response.headers.get("content-length", "")
            yield Download(
                response.status_code,
                int(length) if _LENGTH.fullmatch(length) else None,
                self._origin.chunks(response, attempted),
                own,
                reason,
            )

    def check(self) -> None:
        """Make sure that the primary answers, and is the one that we follow.

        Raises PrimaryUnreachable, WrongHistory or PrimaryRefused.
        """
        self.hello()

    def size(self, relpath: str) -> int | None:
        """Return how long a file is, by its headers alone; None where the primary does not tell.

        Nothing is written on the primary, also where it has to ask the upstream of a mirror.
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


def _good_first(entries: Iterator[ChangelogEntry]) -> Iterator[list[ChangelogEntry]]:
    """Yield the entries as one group, also where an error follows the good ones."""
    group: list[ChangelogEntry] = []
    try:
        group.extend(entries)
    except CorruptEntry:
        yield group
        raise
    yield group
